"""Mean and standard deviation of the latents, by which encode() normalises them."""

from collections.abc import Iterable
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from regen.latents import Latents


class Encoder(Protocol):
    """A model with an embedder's encode()."""

    def encode(self, video: Tensor) -> Any: ...


class ChannelMoments:
    """Count, sum and sum of squares per channel in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, latent: Tensor) -> None:
        """Add latents, "b c ..."."""
        values = latent.cpu().double().flatten(2)  # in this order: not every device has float64
        self.count += values.numel() // values.shape[1]
        self.sums += torch.stack([values.sum((0, 2)), values.square().sum((0, 2))])

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        mean, square = self.sums / max(1, self.count)
        std = (square - mean.square()).clamp(min=0).sqrt()
        # A constant channel has no scale.
        return mean, torch.where(std > 1e-6, std, 1.0)


@torch.no_grad()
def measure_latent_statistics(
    model: nn.Module, batches: Iterable[dict[str, Tensor]], count: int
) -> tuple[Float64[Tensor, "2 c"], Float64[Tensor, "2 c"]]:
    """Mean and standard deviation per channel over at least `count` clips, for each of the two kinds of
    latents: content and motion, or structural and 1D.

    Each batch has a `clip` (b 3 t h w in [-1, 1]); images contribute to the first kind only, and not to
    `count`. The model must not have statistics yet, so that encode() returns raw latents.
    """
    device = next(model.parameters()).device
    moments: list[ChannelMoments] = []
    clips = 0
    for batch in batches:
        clip = batch["clip"].to(device)
        latents = Latents.of(cast(Encoder, model).encode(clip).latent_dist.mode())
        moments = moments or [ChannelMoments(latents.shape[1]) for _ in range(2)]
        for i, latent in enumerate(_split_kinds(latents)):
            moments[min(i, 1)].add(latent)
        clips += clip.shape[0] if latents.shape[2] > 1 else 0
        if clips >= count:
            break
    means, stds = zip(*(kind.mean_and_std() for kind in moments), strict=True)
    return torch.stack(means), torch.stack(stds)


def _split_kinds(latents: Latents) -> list[Tensor]:
    """The frames of a chunk, or the grid and the 1D latents."""
    if not latents.has_sequence:
        return list(latents.grid.unbind(2))
    sequences = [part.mT[mask].T[None] for part, mask in latents.regions()]
    return [latents.grid, torch.cat(sequences, dim=2)]
