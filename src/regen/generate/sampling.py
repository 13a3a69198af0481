"""Latents from noise: classifier-free guidance, given frames, videos longer than those of the training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from regen.diffusion import noise_grid
from regen.generate.conditions import Condition
from regen.generate.generator import LatentGenerator, shift_noise_levels
from regen.latents import HybridLatents, Latents, joined, noise_like, of_parts, parts_of

OnStep = Callable[[int, Latents], Latents]  # (number of the step, latents) -> latents to go on with


@dataclass(frozen=True)
class SampleOptions:
    """How latents are sampled."""

    steps: int = 30
    guidance_scale: float = 4.0
    """v = v₀ + g (v₁ - v₀) with the velocities without (v₀) and with (v₁) the condition; 1: no guidance,
    which takes half of the time; 0: the condition is not looked at (arXiv 2207.12598)."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which there is guidance (arXiv 2404.07724)."""
    solver: Literal["euler", "heun"] = "euler"

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if self.steps < 1:
            raise ValueError(f"Sampling takes at least 1 step, not {self.steps}; 30 is the default.")
        if self.guidance_scale < 0:
            raise ValueError(f"Guidance is 0 or more, not {self.guidance_scale}; 1 is none, 4 the default.")
        if not 0 <= low < high <= 1:
            raise ValueError(f"Guidance acts between two noise levels from 0 to 1, not {low} and {high}.")
        if self.solver not in ("euler", "heun"):
            raise ValueError(f"There are the solvers euler and heun, not {self.solver!r}.")

    def guides(self, t: float) -> bool:
        """Whether there is guidance at noise level t."""
        low, high = self.guidance_interval
        return self.guidance_scale != 1 and low <= t <= high


@dataclass(frozen=True)
class GivenFrames:
    """Frames that are given: clean latents "b c g y x" (or hybrid ones of whole chunks), first in a row."""

    latents: Latents
    frames: int


@torch.no_grad()
def sample(
    model: LatentGenerator,
    condition: Condition,
    blank: Latents,
    generators: list[Generator],
    options: SampleOptions = SampleOptions(),
    known: GivenFrames | None = None,
    without: Condition | None = None,
    on_step: OnStep = lambda step, latents: latents,
    noise: Latents | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Latents:
    """Latents of the shape of `blank` (its values mean nothing), in fp32, one of a batch for each generator.

    `without` takes the place of no condition in guidance (a negative prompt). `on_step` sees and may change
    the latents after each step; `stopped` is asked then whether to leave it at that. `noise` is what to begin
    with, in place of the generators' own. A model without condition has no guidance.
    """
    options = guided(options, model)
    grid, blank = sampling_schedule(options.steps, model.config.timestep_shift), blank.to(model.device)
    drawn = noise_like(blank, generators) if noise is None else parts_of(noise)
    x = [part.to(model.device, torch.float32) for part in drawn]
    clean, mask = _given(model, blank, known)
    both = condition.concat(without or condition.unconditional())

    def velocity(x: list[Tensor], t: float) -> list[Tensor]:
        level = torch.full((1,), t, device=model.device)
        noisy, given = of_parts(x, blank), None if known is None else mask[0][:, 0, :, 0, 0]
        if not options.guides(t):
            answer = model.velocity(noisy, level, condition, given)
            return [part.float() for part in parts_of(answer)]
        twice = of_parts([torch.cat([part, part]) for part in x], _twice(blank))
        answer = model.velocity(twice, level, both, None if given is None else torch.cat([given, given]))
        told, free = zip(*(part.float().chunk(2) for part in parts_of(answer)), strict=True)
        return [torch.lerp(b, a, options.guidance_scale) for a, b in zip(told, free, strict=True)]

    def keep(x: list[Tensor]) -> list[Tensor]:
        if known is None:
            return x
        return [torch.where(m, c, part) for m, c, part in zip(mask, clean, x, strict=True)]

    x = keep(x)
    for step, (now, after) in enumerate(pairwise(grid)):
        slope = velocity(x, now)
        if options.solver == "heun" and after > 0:
            ahead = keep(_moved(x, slope, now - after))
            slope = [(a + b) / 2 for a, b in zip(slope, velocity(ahead, after), strict=True)]
        x = keep(_moved(x, slope, now - after))
        x = parts_of(on_step(step, of_parts(x, blank)))
        if stopped():
            break
    return of_parts(x, blank)


def sample_video(
    model: LatentGenerator,
    condition: Condition,
    blank: Callable[[int], Latents],
    chunks: int,
    generators: list[Generator],
    options: SampleOptions = SampleOptions(),
    known: GivenFrames | None = None,
    without: Condition | None = None,
    on_step: OnStep = lambda step, latents: latents,
    noise: Latents | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Latents]:
    """The latents of a video of so many chunks, one batch after another in the order of the chunks.

    `blank(chunks)` makes latents of the right shape. Up to as many chunks as the training had are made at
    once; from then on each part is given the last chunk of the one before it and goes on from there. `noise`
    is what the first part begins with; see `sample` for the rest. Raises ValueError when more are needed
    and the training had only one chunk in a row.
    """
    most, n = max(1, model.latent_spec.max_chunks), model.latent_spec.chunk_latents
    if chunks > most and most < 2:
        raise ValueError(
            f"This generator was trained on one chunk of {model.latent_spec.chunk_frames} frames at a time and "  # noqa: E501
            f"can't go on from it; give at most {model.latent_spec.chunk_frames} frames."
        )
    count = min(chunks, most)
    first, further = blank(count), _seeds(generators, chunks - count)
    if known is not None and known.frames == n:
        first = _after(known.latents, first)
    x = sample(model, condition, first, generators, options, known, without, on_step, noise, stopped)
    parts, done = [x], count
    while done < chunks and not stopped():
        more = min(chunks - done, most - 1)
        last = last_chunk(parts[-1], n)
        own = [
            Generator(g.device).manual_seed(row[done - count])
            for g, row in zip(generators, further, strict=True)
        ]
        x = sample(
            model, condition, _after(last, blank(1 + more)), own, options, GivenFrames(last, n),
            without, on_step, None, stopped,
        )  # fmt: skip
        parts.append(drop_first_chunk(x, n))
        done += more
    return parts


def sampling_schedule(steps: int, shift: float) -> list[float]:
    """`steps` + 1 noise levels from 1 to 0, equally far apart before they are shifted (see `shifted`)."""
    return [shift_noise_levels(t, shift) for t in noise_grid(steps)]


def guided(options: SampleOptions, model: LatentGenerator) -> SampleOptions:
    """The options without guidance for a model without condition, whose two velocities are the same."""
    return options if model.is_conditional else replace(options, guidance_scale=1.0)


def evaluations(options: SampleOptions, model: LatentGenerator) -> int:
    """How often the network sees one sample for a video: with guidance twice a step, inside its interval."""
    options, asked = guided(options, model), list[float]()
    for now, after in pairwise(sampling_schedule(options.steps, model.config.timestep_shift)):
        asked += [now, after] if options.solver == "heun" and after > 0 else [now]
    return sum(2 if options.guides(t) else 1 for t in asked)


def _seeds(generators: Sequence[Generator], count: int) -> list[list[int]]:
    """For each generator so many seeds, drawn before anything whose amount depends on the batch: 1D latents
    draw as many numbers as the longest clip beside them has."""
    draws = (
        [torch.randint(2**62, (count,), generator=g, device=g.device) for g in generators] if count else []
    )
    return [row.tolist() for row in draws] or [[] for _ in generators]


def _moved(x: Sequence[Tensor], slope: Sequence[Tensor], by: float) -> list[Tensor]:
    return [part - by * v for part, v in zip(x, slope, strict=True)]


def _twice(latents: Latents) -> Latents:
    if isinstance(latents, Tensor):
        return latents
    return HybridLatents(
        torch.cat([latents.structural] * 2),
        torch.cat([latents.sequence] * 2),
        torch.cat([latents.lengths] * 2),
    )


def _given(
    model: LatentGenerator, blank: Latents, known: GivenFrames | None
) -> tuple[list[Tensor], list[Bool[Tensor, "b ..."]]]:
    """Clean latents of the shape of `blank`, as far as they are known, and which of them are."""
    empty = [torch.zeros_like(part, dtype=torch.float32, device=model.device) for part in parts_of(blank)]
    structural = empty[0]
    frames = 0 if known is None else known.frames
    given = torch.arange(structural.shape[2], device=model.device) < frames
    mask = [
        ~part
        for part in model.layout.unknown_masks(blank.to(model.device), given.expand(len(structural), -1))
    ]
    if known is not None:
        structural[:, :, :frames] = parts_of(known.latents)[0][:, :, :frames].to(structural)
        for part, values in zip(empty[1:], parts_of(known.latents)[1:], strict=True):
            part[:, :, : values.shape[2]] = values.to(part)
    return empty, mask


def last_chunk(latents: Latents, n: int) -> Latents:
    """Of a batch of latents in a row, those of the last chunk of n latent frames."""
    if isinstance(latents, Tensor):
        return latents[:, :, -n:]
    rows = latents.lengths.shape[1] * n // latents.shape[2]
    return _cut_hybrid(latents, latents.structural[:, :, -n:], latents.lengths.shape[1] - rows, None)


def drop_first_chunk(latents: Latents, n: int) -> Latents:
    """Of a batch of latents in a row, all but those of the first chunk of n latent frames."""
    if isinstance(latents, Tensor):
        return latents[:, :, n:]
    rows = latents.lengths.shape[1] * n // latents.shape[2]
    return _cut_hybrid(latents, latents.structural[:, :, n:], rows, None)


def _cut_hybrid(latents: HybridLatents, structural: Tensor, start: int, stop: int | None) -> HybridLatents:
    """`structural` with the 1D latents of the regions from `start` to `stop`."""
    parts = [sequence for sequence, _ in latents.regions()][start:stop]
    return joined(structural, parts, latents.lengths[:, start:stop])


def _after(first: Latents, blank: Latents) -> Latents:
    """`blank` latents whose first chunk has as many 1D latents as `first`."""
    if isinstance(first, Tensor) or isinstance(blank, Tensor):
        return blank
    lengths = blank.lengths.to(first.lengths.device).clone()
    lengths[:, : first.lengths.shape[1]] = first.lengths
    channels, longest = blank.sequence.shape[1], int(lengths.sum(1).max())
    sequence = blank.sequence.new_zeros(len(lengths), channels, longest)
    return HybridLatents(blank.structural, sequence, lengths)
