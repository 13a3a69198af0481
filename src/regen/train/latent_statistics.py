"""Mean and standard deviation of the latents, by which encode() normalises them."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regen.latents import Latents
from regen.train.distributed import DistributedContext

STATISTICS_BATCH = 4  # clips that are encoded together


def small_batches(
    batches: Iterable[dict[str, Tensor]], count: int, context: DistributedContext
) -> Iterator[Float[Tensor, "_ 3 t h w"]]:
    """This process's clips, `STATISTICS_BATCH` at a time, until all processes had `count` without images.

    As many small batches in every process, since a sharded model needs them all in each call.
    """
    return (clip for (clip,) in _small_parts(batches, ("clip",), count, context))


def small_pairs(
    batches: Iterable[dict[str, Tensor]], count: int, context: DistributedContext
) -> Iterator[tuple[Float[Tensor, "_ c n y x"], Float[Tensor, "_ 3 t h w"]]]:
    """The same with exported latents, before their clips."""
    parts = _small_parts(batches, ("latents", "target"), count, context)
    return ((latents, clip) for latents, clip in parts)


def _small_parts(
    batches: Iterable[dict[str, Tensor]], names: tuple[str, ...], count: int, context: DistributedContext
) -> Iterator[tuple[Tensor, ...]]:
    clips = 0
    for batch in batches:
        largest = -(-int(batch["batch_size"]) // context.size)
        parts = [batch[name].tensor_split(-(-largest // STATISTICS_BATCH)) for name in names]
        yield from zip(*parts, strict=True)
        clips += int(batch["batch_size"]) if batch[names[-1]].shape[2] > 1 else 0
        if clips >= count:
            break


@torch.no_grad()
def measure_latent_statistics(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    count: int,
    context: DistributedContext,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "2 c"], Float[Tensor, "2 c"]]:
    """Mean and standard deviation per channel of both kinds of latents: content and motion, or grid and 1D.

    Over the `clip`s (b 3 t h w in [-1, 1]) of the batches, at least `count` in all processes; images
    contribute to the first kind only, and not to `count`. Each process encodes its parts of the batches under
    autocast to `dtype`. The model must not have statistics yet: encode() then gives raw latents. Collective.
    """
    totals = torch.zeros(0)  # count, sum and sum of squares of each kind and channel
    for clip in small_batches(batches, count, context):
        with torch.autocast(context.device.type, dtype, enabled=dtype != torch.float32):
            encoded = cast(Any, model).encode(clip.to(context.device)).latent_dist.mode()
        latents = Latents.of(encoded)
        if not len(totals):
            totals = torch.zeros(3, 2, latents.shape[1], dtype=torch.float64)
        kinds = latents.grid.unbind(2)  # the frames of a chunk
        if latents.has_sequence:
            sequences = [part.mT[mask].T[None] for part, mask in latents.regions()]
            kinds = latents.grid, torch.cat(sequences, dim=2)
        for i, latent in enumerate(kinds):
            values = latent.cpu().double().flatten(2)  # in this order: not every device has float64
            sizes = torch.full((values.shape[1],), values.numel() // values.shape[1])
            sums = torch.stack([sizes, values.sum((0, 2)), values.square().sum((0, 2))])
            totals[:, min(i, 1)] += sums
    context.average_tensors([totals])
    mean, square = totals[1:] / totals[0].clamp(min=1e-9)
    std = (square - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1.0).float()  # a constant channel has no scale
