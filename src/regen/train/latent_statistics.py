"""Mean and standard deviation of the latents, by which encode() normalises them."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from regen.latents import Latents


@torch.no_grad()
def measure_latent_statistics(
    model: nn.Module, batches: Iterable[dict[str, Tensor]], count: int
) -> tuple[Float64[Tensor, "2 c"], Float64[Tensor, "2 c"]]:
    """Mean and standard deviation per channel over at least `count` clips, for each of the two kinds of
    latents: content and motion, or structural and 1D.

    Each batch has a `clip` (b 3 t h w in [-1, 1]); images contribute to the first kind only, and not to
    `count`. The model must not have statistics yet, so that encode() returns raw latents.
    """
    device, clips = next(model.parameters()).device, 0
    totals = torch.zeros(0)  # count, sum and sum of squares of each kind and channel
    for batch in batches:
        latents = Latents.of(cast(Any, model).encode(batch["clip"].to(device)).latent_dist.mode())
        if not len(totals):
            totals = torch.zeros(3, 2, latents.shape[1], dtype=torch.float64)
        for i, latent in enumerate(_split_kinds(latents)):
            values = latent.cpu().double().flatten(2)  # in this order: not every device has float64
            sizes = torch.full((values.shape[1],), values.numel() // values.shape[1])
            totals[:, min(i, 1)] += torch.stack([sizes, values.sum((0, 2)), values.square().sum((0, 2))])
        clips += len(batch["clip"]) if latents.shape[2] > 1 else 0
        if clips >= count:
            break
    mean, square = totals[1:] / totals[0].clamp(min=1)
    std = (square - mean.square()).clamp(min=0).sqrt()
    return mean, torch.where(std > 1e-6, std, 1.0)  # a constant channel has no scale


def _split_kinds(latents: Latents) -> list[Tensor]:
    """The frames of a chunk, or the grid and the 1D latents."""
    if not latents.has_sequence:
        return list(latents.grid.unbind(2))
    sequences = [part.mT[mask].T[None] for part, mask in latents.regions()]
    return [latents.grid, torch.cat(sequences, dim=2)]
