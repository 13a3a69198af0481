"""Predicted latents, on which a decoder is post-trained."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from regen import diffusion
from regen.latents import Latents

# (clean latents, noise level of each clip, generators) -> predictions from the noised latents; normalised.
Predictor = Callable[[Latents, Float[Tensor, " b"], list[Generator]], Latents]
Velocity = Callable[[Latents, Float[Tensor, " b"]], Latents]  # (noisy, t) -> velocity


@dataclass(frozen=True)
class PredictionConfig:
    """Post-training on predicted latents (docs/method.md, 20)."""

    share: float = 0.0
    """Fraction of the clips that are decoded from predicted latents; 0: no post-training."""
    levels: tuple[float, float] = (0.05, 0.6)
    """Range of the uniformly distributed noise levels of the predictions."""
    generator: str | None = None
    """Unconditional latent generator that predicts: a name, a folder or owner/name, trained on the latents of
    the initial model. None: the posterior mean of normally distributed latents."""

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
    def __call__(self, clean: Latents, generators: list[Generator]) -> Latents:
        """Normalised latents; each clip is drawn by its own generator."""
        draws = torch.stack([torch.rand(2, generator=each, device=each.device) for each in generators])
        chance, level = draws.to(clean.grid.device).unbind(1)
        low, high = self.config.levels
        predicted = self.predictor(clean, low + (high - low) * level, generators)
        unchanged = chance >= self.config.share
        mixed = clean.map(
            lambda a, b: torch.where(unchanged.reshape(-1, *[1] * (a.ndim - 1)), a, b.to(a)), predicted
        )
        index = torch.arange(mixed.sequence.shape[2], device=unchanged.device)
        mask = index < clean.lengths.sum(1, keepdim=True)  # the padding stays zero
        return replace(mixed, sequence=torch.where(mask[:, None], mixed.sequence, 0.0))


def denoised(velocity: Velocity) -> Predictor:
    """The predictor of a latent diffusion model: noise the latents, return ẑ_0 = z_t - t v(z_t, t)."""

    def predict(clean: Latents, t: Float[Tensor, " b"], generators: list[Generator]) -> Latents:
        noise = clean.noise(generators)
        noisy = clean.map(lambda part, e: diffusion.add_noise(part.float(), e, t), noise)
        return noisy.map(lambda x, v: diffusion.clean_from_velocity(x, v, t), velocity(noisy, t))

    return predict


def unit_gaussian_velocity(noisy: Latents, t: Float[Tensor, " b"]) -> Latents:
    """E[ε - z_0 | z_t] for z_0 from N(0, I), which uses nothing but the normalisation of the latents.

    With it, `denoised` returns (1 - t) z_t / ((1 - t)² + t²): noise and a smaller scale.
    """

    def of(z: Tensor) -> Tensor:
        level = diffusion.append_dims(t, z)
        return (2 * level - 1) / ((1 - level) ** 2 + level**2) * z

    return noisy.map(of)
