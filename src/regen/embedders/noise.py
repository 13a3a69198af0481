"""The noise from which decoding starts; that of a frame depends on the frame alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from regen.diffusion import Noise
from regen.runtime import generator_for

TIME_UNIT = 2**-20  # of a chunk: finer than the distance of any two frames, coarser than the rounding of fp32


def time_keys(times: Float[Tensor, " t"]) -> list[int]:
    """The times of frames in whole numbers of `TIME_UNIT`, as keys of their noise."""
    return [round(time / TIME_UNIT) for time in times.tolist()]


def initial_noise(
    noise: Noise | None,
    steps: int,
    shape: tuple[int, int, int, int, int],
    keys: Sequence[int] | Float[Tensor, " t"],
    generator: torch.Generator | list[torch.Generator] | None,
    device: torch.device,
) -> Float[Tensor, "b 3 t h w"]:
    """Clips of `shape` (b 3 t h w) at noise level 1: normal noise or zero; None: zero for a single step.

    At t = 1 the optimum does not depend on the noise, and what of it leaks into the frames is grain; several
    steps draw samples. Zero draws no random number. With normal noise each clip draws one number from its
    generator; `keys` are equal parts of t (or the times of frames, see `time_keys`), and the noise of a part
    depends on this number and its key alone, not on other parts or clips. It is drawn on `device`; other
    kinds of device draw other values. Raises ValueError for another `noise`, and for a list with another
    number of generators than clips.
    """
    batch, channels, frames, height, width = shape
    seeds = draw_seeds(noise, steps, batch, generator)
    if seeds is None:
        return torch.zeros(shape, device=device)
    if isinstance(keys, Tensor):  # not above: zero noise needs no values, of fake tensors either
        keys = time_keys(keys)
    result, length = torch.empty(shape, device=device), frames // len(keys)
    for clip, seed in zip(result, seeds, strict=True):
        for part, key in zip(clip.split(length, dim=1), keys, strict=True):
            size = channels, length, height, width
            part.copy_(torch.randn(size, generator=generator_for(seed, key, device=device), device=device))
    return result


def draw_seeds(
    noise: Noise | None, steps: int, batch: int, generator: torch.Generator | list[torch.Generator] | None
) -> list[int] | None:
    """The number that each clip draws for its normal noise (see `initial_noise`); None for zero noise."""
    kind = noise or ("zero" if steps == 1 else "normal")
    if kind == "zero":
        return None
    if kind != "normal":
        raise ValueError(f"noise must be 'normal', 'zero' or None, got {noise!r}.")
    generators = generator if isinstance(generator, list) else [generator] * batch
    if len(generators) != batch:
        raise ValueError(f"{batch} clips need one generator, or one each, got {len(generators)}.")
    return [
        int(torch.randint(2**62, (), generator=own, device="cpu" if own is None else own.device))
        for own in generators
    ]
