"""Latents as a latent diffusion model would predict them, to train a decoder on (One-DVA; spec B9)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from regen import diffusion
from regen.latents import HybridLatents, noise_like, parts_of

# (clean latents, a noise level for each clip, generators) -> what is predicted from their noised form. All
# latents are normalised. A latent diffusion model becomes one by `denoised`.
Predictor = Callable[[HybridLatents, Float[Tensor, " b"], list[Generator]], HybridLatents]
Velocity = Callable[[HybridLatents, Float[Tensor, " b"]], HybridLatents]  # (noisy, t) -> its velocity


@dataclass(frozen=True)
class PredictionConfig:
    """How many clips the decoder sees by predicted latents, and predicted from how much noise."""

    share: float = 0.0
    """Share of the clips whose latents are predicted; the others keep their own. 0: no post-training."""
    levels: tuple[float, float] = (0.05, 0.6)
    """Noise levels are uniform between these two."""
    generator: str | None = None
    """What predicts: a generator that was trained on the latents of the start model (a name, a folder or
    owner/name), told neither class nor text; None: what is known of latents by their normalisation alone."""

    def __post_init__(self) -> None:
        low, high = self.levels
        if not 0 <= self.share <= 1 or not 0 < low <= high <= 1:
            raise ValueError(
                f"Predicted latents need a share from 0 to 1 and two rising levels up to 1, not {self.share} "
                f"and {low} to {high}."
            )


class PredictedLatents:
    """Puts predicted latents in the place of clean ones; nothing of it learns (spec B9)."""

    def __init__(self, config: PredictionConfig, predictor: Predictor) -> None:
        self.config, self.predictor = config, predictor

    @torch.no_grad()
    def __call__(self, clean: HybridLatents, generators: list[Generator]) -> HybridLatents:
        """Normalised latents, each clip's drawn by its own one of the `generators`."""
        draws = torch.stack([torch.rand(2, generator=each, device=each.device) for each in generators])
        chance, level = draws.to(clean.structural.device).unbind(1)
        low, high = self.config.levels
        told = self.predictor(clean, low + (high - low) * level, generators)
        own = chance >= self.config.share
        structural, sequence = (
            torch.where(own.reshape(-1, *[1] * (a.ndim - 1)), a, b.to(a))
            for a, b in ((clean.structural, told.structural), (clean.sequence, told.sequence))
        )
        steps = torch.arange(sequence.shape[2], device=sequence.device)
        there = steps < clean.lengths.sum(1, keepdim=True)  # what fills up stays zero
        return HybridLatents(structural, torch.where(there[:, None], sequence, 0.0), clean.lengths)


def denoised(velocity: Velocity) -> Predictor:
    """The predictor of a latent diffusion model: noise the latents, and answer ẑ_0 = z_t - t v(z_t, t)."""

    def predict(clean: HybridLatents, t: Float[Tensor, " b"], generators: list[Generator]) -> HybridLatents:
        noise = noise_like(clean, generators)
        noisy = [
            diffusion.add_noise(part.float(), e, t) for part, e in zip(parts_of(clean), noise, strict=True)
        ]
        answer = velocity(HybridLatents(noisy[0], noisy[1], clean.lengths), t)
        structural, sequence = (
            diffusion.clean_from_velocity(x, v, t) for x, v in zip(noisy, parts_of(answer), strict=True)
        )
        return HybridLatents(structural, sequence, clean.lengths)

    return predict


def unit_gaussian_velocity(noisy: HybridLatents, t: Float[Tensor, " b"]) -> HybridLatents:
    """E[ε - z_0 | z_t] for z_0 from N(0, I): the least that a latent diffusion model knows.

    With it as velocity, `denoised` answers (1 - t) z_t / ((1 - t)² + t²): noise, and a loss of scale.
    """

    def of(z: Tensor) -> Tensor:
        level = diffusion.per_entry(t, z)
        return (2 * level - 1) / ((1 - level) ** 2 + level**2) * z

    return HybridLatents(of(noisy.structural), of(noisy.sequence), noisy.lengths)
