"""Self-alignment of 1D latents with structural latents (One-DVA)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import cos, expm1, log, pi

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.latents import LatentPosterior
from regen.losses.optimizer_state import SelfTrained

DECAY = 0.99  # of the running means, per update
# Resolution of bf16: a deviation from the mean that is smaller, relative to the latent, is no content.
RESOLUTION = 1 / 256


@dataclass(frozen=True)
class AlignmentConfig:
    """Self-alignment of 1D latents (One-DVA; docs/method.md, 18); weight 0: none."""

    weight: float = 0.0
    """Weight λ; 0.1 is usual."""
    quantile: float = 0.95
    """Cosines above this quantile of those that random vectors reach by chance have no loss."""
    ramp: float = 0.05
    """Fraction of the training over which λ rises from 0."""
    projection: bool = False
    """Whether a learned linear map projects 1D latents into the space of the structural latents first."""
    learning_rate: float = 1e-4
    """Learning rate of the projection."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"losses.alignment.weight must be >= 0, got {self.weight}.")
        if not 0 < self.quantile < 1:
            raise ValueError(f"losses.alignment.quantile must lie in (0, 1), got {self.quantile}.")
        if not 0 <= self.ramp <= 1:
            raise ValueError(f"losses.alignment.ramp must lie in [0, 1], got {self.ramp}.")
        if self.learning_rate <= 0:
            raise ValueError(f"losses.alignment.learning_rate must be > 0, got {self.learning_rate}.")


class SelfAlignment(SelfTrained):
    """Self-alignment of the posterior means, centred by running means of both kinds of latents.

    Without the centring, one constant vector added to all 1D latents would satisfy the loss without any
    content. The running means are those before the update, and are updated once for all calls since
    `discard`, so the loss is the mean over its samples and does not depend on how a batch is split.
    `channels`: those of a latent.
    """

    def __init__(self, config: AlignmentConfig, channels: int, device: torch.device) -> None:
        self.config = config
        self.projection = nn.Linear(channels, channels, bias=False).to(device)
        nn.init.eye_(self.projection.weight)  # the projection starts as the loss without it
        self.projection.requires_grad_(config.projection)
        super().__init__("projection", self.projection, config.learning_rate)
        # Rows: structural, 1D; decayed sums of the latents of the updates so far, then their number.
        self.totals = torch.zeros(2, channels + 1, device=device)
        self.sums = torch.zeros_like(self.totals)  # since `discard`

    def __call__(
        self, posterior: LatentPosterior, progress: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted loss in fp32, and the logs; `progress` is the completed fraction of the training."""
        channels, mask = posterior.channels, torch.cat(posterior.masks(), dim=1)
        with torch.autocast(mask.device.type, enabled=False):
            structural = posterior.grid[:, :channels].detach().flatten(2).float()
            sequence = torch.cat([part[:, :channels] for part in posterior.parts], dim=2).float()
            self._accumulate(structural, sequence.detach(), mask)
            means = (self.totals[:, :-1] / self.totals[:, -1:].clamp(min=1e-6))[..., None]
            anchors = unit(structural - means[0], RESOLUTION * structural)
            deviation = sequence - means[1]
            if self.config.projection:
                deviation = torch.einsum("dc,bcs->bds", self.projection.weight, deviation)
            latents = unit(deviation, RESOLUTION * sequence.detach())
            loss = self_alignment(latents, anchors, mask, self.config.quantile)
        ramp = (progress / max(self.config.ramp, 1e-9)).clamp(max=1)
        return ramp * self.config.weight * loss, {"alignment": loss.detach()}

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        super().update(lambda gradients: average([*gradients, self.sums]))
        self.totals.lerp_(self.sums, 1 - DECAY)

    def discard(self) -> None:
        super().discard()
        self.sums.zero_()

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"totals": self.totals}

    def _accumulate(
        self, structural: Float[Tensor, "b c n"], sequence: Float[Tensor, "b c s"], mask: Bool[Tensor, "b s"]
    ) -> None:
        """Add up the latents, and their number as one more channel."""
        rows = (structural, torch.ones_like(structural[:, 0])), (sequence, mask.to(sequence))
        for row, (latents, weight) in zip(self.sums, rows, strict=True):
            row += torch.einsum("bcs,bs->c", F.pad(latents, (0, 0, 0, 1), value=1.0), weight)


def unit(vectors: Float[Tensor, "b c n"], least: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
    """Vectors scaled to length 1; shorter than 1 those that are shorter than the vectors `least`."""
    return vectors / torch.maximum(
        torch.linalg.vector_norm(vectors, dim=1, keepdim=True),
        torch.linalg.vector_norm(least, dim=1, keepdim=True).clamp(min=1e-6),
    )


def self_alignment(
    latents: Float[Tensor, "b c s"],
    anchors: Float[Tensor, "b c n"],
    mask: Bool[Tensor, "b s"],
    quantile: float,
) -> Float[Tensor, ""]:
    """L_m + L_c: align 1D latents u with structural latents s and with their neighbours (docs/method.md, 18).

    All are centred and of length 1. L_m = mean relu(κ(n) - cos(u_i, s_j*)) with j* the one of n structural
    latents of the largest cosine, L_c = mean relu(κ(1) - cos(u_i, u_i+1)), κ from `chance_cosine`. Means are
    over the 1D latents of a clip inside `mask` (0 if there are none), then over clips. The regions of a clip
    are concatenated, in both inputs.
    """
    channels, candidates = anchors.shape[1:]
    nearest = torch.einsum("bcs,bcn->bsn", latents.detach(), anchors).argmax(2)
    matched = anchors.gather(2, nearest[:, None].expand(-1, channels, -1))
    matching = chance_cosine(channels, candidates, quantile) - (latents * matched).sum(1)
    neighbours = (latents[:, :, 1:] * latents[:, :, :-1]).sum(1)
    smoothness = chance_cosine(channels, 1, quantile) - neighbours
    both = mask[:, 1:] & mask[:, :-1]
    return _masked_mean(F.relu(matching), mask) + _masked_mean(F.relu(smoothness), both)


@lru_cache
def chance_cosine(channels: int, candidates: int, quantile: float) -> float:
    """κ(n): quantile of the largest cosine of a random vector with n `candidates`, in c `channels`.

    Two random directions have the angle θ with density sin(θ)^(c - 2); the largest of n cosines stays below
    cos θ with the probability (1 - P(angle < θ))^n. Solved on 2¹⁶ angles, to 5e-5.
    """
    steps = 2**16
    angles = (np.arange(steps) + 0.5) * (pi / steps)
    below = (np.sin(angles) ** (channels - 2)).cumsum()
    index = int(np.searchsorted(below, -expm1(log(quantile) / candidates) * below[-1]))
    return cos((index + 1) * pi / steps)


def _masked_mean(values: Float[Tensor, "b s"], mask: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """Mean over each clip's values inside the mask (0 if there are none), then over clips."""
    return ((values * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
