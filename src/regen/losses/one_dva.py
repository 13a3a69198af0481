"""What is asked of One-DVA in training: latents that are kept, noise levels, losses (spec B5)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from regen.diffusion import Density
from regen.latents import LatentPosterior, Latents
from regen.losses.alignment import effective_rank, self_alignment
from regen.networks.length_rule import LengthMode


@dataclass(frozen=True)
class OneDVAObjective:
    """What is asked of an `AutoencoderOneDVA` in training; the defaults are of stage 2 (spec B5, B7)."""

    lengths: LengthMode = "motion"
    """How many 1D latents a clip keeps: all (full, stage 1), or by tail dropout: from what its motion allows
    (motion), from the budget whatever moves (uniform), or the budget halved some times (pow2)."""
    keep_all_prob: float = 0.5
    """Share of the clips that keep as many as they may; the others lose some of the tail."""
    density: Density = "logit_normal"
    pure_noise_prob: float = 0.1
    """Share of the clips at noise level 1, where decoding begins: the thick tail of the density."""
    t_min: float = 0.05
    """With prediction "sample": bound of the loss weight 1 / max(t, t_min)²."""
    l1_weight: float = 0.0
    """Weight of the absolute error of the clean clip that follows from the answer (stage 1)."""
    latent_noise_std: float = 0.0
    """Standard deviation of noise on the latents."""
    alignment_weight: float = 0.1
    """λ of self-alignment."""
    alignment_margin: float = 0.5
    """δ: cosines from 1 - δ on cost nothing."""
    alignment_ramp: float = 0.05
    """Part of the run in which λ rises from 0."""

    def __post_init__(self) -> None:
        shares = self.keep_all_prob, self.pure_noise_prob, self.alignment_ramp
        weights = self.l1_weight, self.latent_noise_std, self.alignment_weight, self.alignment_margin
        if not all(0 <= share <= 1 for share in shares) or min(weights) < 0 or not 0 < self.t_min <= 1:
            raise ValueError("An objective has shares from 0 to 1, weights of 0 or more and t_min above 0.")


@runtime_checkable
class AuxiliaryLoss(Protocol):
    """What may be trained with besides the model's own losses (see `regen.train.auxiliary_losses`)."""

    def __call__(self, target: Tensor, answer: Tensor, /) -> tuple[Tensor, dict[str, Tensor]]: ...

    @property
    def predicts(self) -> bool: ...

    def represent(self, features: Tensor, target: Tensor, /) -> tuple[Tensor, dict[str, Tensor]]: ...

    def predicted(self, latents: Latents, generators: list[Generator], /) -> Latents: ...


def latent_losses(
    posterior: LatentPosterior,
    objective: OneDVAObjective,
    kl_weight: float,
    progress: Float[Tensor, ""],
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """KL on both latents and self-alignment of their means, weighted (spec B5.3, B5.4), and what to log.

    `progress` is the part of the run that is over. Logs the share of the 1D latents that is kept (`length`)
    and in how many directions they spread (`rank`).
    """
    channels, keep = posterior.channels, torch.cat(posterior.masks(), dim=1)
    loss = posterior.grid.new_zeros((), dtype=torch.float32)
    means = torch.cat([part[:, :channels] for part in posterior.parts], dim=2)
    logs = {"length": keep.float().mean(), "rank": effective_rank(means, keep)}
    if kl_weight > 0:
        kl = posterior.kl()
        loss, logs["kl"] = loss + kl_weight * kl, kl.detach()
    if objective.alignment_weight > 0:
        structural = posterior.grid[:, :channels].flatten(2)
        alignment = self_alignment(means, structural, keep, objective.alignment_margin)
        ramp = (progress / max(objective.alignment_ramp, 1e-9)).clamp(max=1)  # a number on the CPU
        loss, logs["alignment"] = loss + ramp * objective.alignment_weight * alignment, alignment.detach()
    return loss, logs
