"""Training of One-DVA: its objective, KL, predicted latents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from regen import diffusion
from regen.diffusion import Density
from regen.latents import LatentPosterior, Latents
from regen.networks.length_rule import LengthMode

Batch = Mapping[str, Tensor]  # of a training: with `label`, or `text` and `text_mask`, for a condition
# (clean latents, noise level of each clip, generators, batch) -> predicted latents; all are normalised.
Predictor = Callable[[Latents, Float[Tensor, " b"], list[Generator], Batch], Latents]
Velocity = Callable[[Latents, Float[Tensor, " b"], Batch], Latents]  # (noisy, t, batch) -> velocity


@dataclass(frozen=True)
class OneDVAObjective:
    """Training options of `AutoencoderOneDVA` (docs/method.md, 18); the defaults are those of stage 2."""

    lengths: LengthMode = "motion"
    """Number of 1D latents in training: all (full, stage 1), none (the other reading of stage 1: structural
    latents only, without queries), or by the motion of the clip with tail dropout (motion)."""
    keep_all_prob: float = 0.5
    """Probability that a clip keeps its full length; else its tail is dropped."""
    density: Density = "logit_normal"
    """Distribution of the noise levels."""
    pure_noise_prob: float = 0.1
    """Probability of noise level 1, where decoding starts."""
    zero_noise_prob: float = 0.5
    """Of the samples at noise level 1, the part whose noise is zero, from which one step starts; several
    steps start from normal noise."""
    t_min: float = 0.5
    """With prediction "sample": bound of the loss weight 1 / max(t, t_min)²."""
    l1_weight: float = 0.0
    """Weight of the absolute error of the predicted clean clip (stage 1)."""
    latent_noise_std: float = 0.0
    """Standard deviation of the noise added to the latents."""

    def __post_init__(self) -> None:
        for name in ("keep_all_prob", "pure_noise_prob", "zero_noise_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name} must lie in [0, 1], got {getattr(self, name)}.")
        for name in ("l1_weight", "latent_noise_std"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name} must be >= 0, got {getattr(self, name)}.")
        if not 0 < self.t_min <= 1:
            raise ValueError(f"objective.t_min must lie in (0, 1], got {self.t_min}.")


def latent_losses(
    posterior: LatentPosterior, kl_weight: float
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Weighted KL of all latents (docs/method.md, 18), and the logs.

    Logs the fraction of 1D latents in use (`length`) and their effective rank (`rank`), 0 without any.
    """
    mask = torch.cat(posterior.masks(), dim=1)
    loss = posterior.grid.new_zeros((), dtype=torch.float32)
    means = torch.cat([part[:, : posterior.channels] for part in posterior.parts], dim=2)
    logs = {"length": mask.sum() / max(mask.numel(), 1), "rank": effective_rank(means, mask)}
    if kl_weight > 0:
        kl = posterior.kl()
        loss, logs["kl"] = loss + kl_weight * kl, kl.detach()
    return loss, logs


@torch.no_grad()
def effective_rank(sequence: Float[Tensor, "b c s"], mask: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """Participation ratio (Σ λ)² / Σ λ² of the variances λ of 1D latents: 1 (collapsed) to c; 0 for none.

    Computed without eigenvalues, hence without synchronising the device.
    """
    weight = mask[:, None].float()
    count = weight.sum().clamp(min=1)
    centred = (sequence.float() - (sequence.float() * weight).sum((0, 2), keepdim=True) / count) * weight
    with torch.autocast(sequence.device.type, enabled=False):
        covariance = torch.einsum("bcs,bds->cd", centred, centred) / count
    total = covariance.diagonal().sum()
    shares = covariance / total.clamp(min=1e-30)
    return torch.where(total > 0, 1 / shares.square().sum().clamp(min=1e-12), 0.0)


@dataclass(frozen=True)
class PredictionConfig:
    """Post-training on predicted latents (docs/method.md, 20)."""

    share: float = 0.0
    """Fraction of the clips that are decoded from predicted latents; 0: no post-training."""
    levels: tuple[float, float] = (0.05, 0.6)
    """Range of the uniformly distributed noise levels of the predictions."""
    generator: str | None = None
    """Latent generator that predicts: a name, a folder or owner/name, trained on the latents of the initial
    model. It takes the class or caption of each sample (NAME.cls, NAME.txt beside the media, or in shards).
    None: the posterior mean of normally distributed latents."""

    def __post_init__(self) -> None:
        low, high = self.levels
        if not 0 <= self.share <= 1:
            raise ValueError(f"losses.prediction.share must lie in [0, 1], got {self.share}.")
        if not 0 < low <= high <= 1:
            raise ValueError(f"losses.prediction.levels must rise within (0, 1], got {low} to {high}.")


class PredictedLatents:
    """Replaces a random share of clean latents by predicted ones; it has no parameters."""

    def __init__(self, config: PredictionConfig, predictor: Predictor) -> None:
        self.config, self.predictor = config, predictor

    @torch.no_grad()
    def __call__(self, clean: Latents, generators: list[Generator], batch: Batch) -> Latents:
        """Normalised latents; each clip is drawn by its own generator. `batch`: that of the clips."""
        draws = torch.stack([torch.rand(2, generator=each, device=each.device) for each in generators])
        chance, level = draws.to(clean.grid.device).unbind(1)
        low, high = self.config.levels
        predicted = self.predictor(clean, low + (high - low) * level, generators, batch)
        unchanged = chance >= self.config.share
        mixed = clean.map(
            lambda a, b: torch.where(unchanged.reshape(-1, *[1] * (a.ndim - 1)), a, b.to(a)), predicted
        )
        index = torch.arange(mixed.sequence.shape[2], device=unchanged.device)
        mask = index < clean.lengths.sum(1, keepdim=True)  # the padding stays zero
        return replace(mixed, sequence=torch.where(mask[:, None], mixed.sequence, 0.0))


@runtime_checkable
class AuxiliaryTerms(Protocol):
    """Losses beside One-DVA's own: what it calls of `regen.losses.auxiliary.AuxiliaryLosses`."""

    prediction: PredictedLatents | None

    def __call__(
        self, target: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]: ...

    def align(
        self, posterior: LatentPosterior, progress: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]: ...

    def represent(
        self, features: Float[Tensor, "b d n y x"], target: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]: ...


def denoised(velocity: Velocity) -> Predictor:
    """The predictor of a latent diffusion model: noise the latents, return ẑ_0 = z_t - t v(z_t, t, batch)."""

    def predict(clean: Latents, t: Float[Tensor, " b"], generators: list[Generator], batch: Batch) -> Latents:
        noise = clean.noise(generators)
        noisy = clean.map(lambda part, e: diffusion.add_noise(part.float(), e, t), noise)
        return noisy.map(lambda x, v: diffusion.clean_from_velocity(x, v, t), velocity(noisy, t, batch))

    return predict


def unit_gaussian_velocity(noisy: Latents, t: Float[Tensor, " b"], batch: Batch) -> Latents:
    """E[ε - z_0 | z_t] for z_0 from N(0, I), which uses nothing but the normalisation of the latents.

    With it, `denoised` returns (1 - t) z_t / ((1 - t)² + t²): noise and a smaller scale.
    """

    def of(z: Tensor) -> Tensor:
        level = diffusion.append_dims(t, z)
        return (2 * level - 1) / ((1 - level) ** 2 + level**2) * z

    return noisy.map(of)
