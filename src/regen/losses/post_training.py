"""Latents as a latent diffusion model would predict them, to train a decoder on (One-DVA; spec B9)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from regen import diffusion
from regen.latents import Latents

# (clean latents, a noise level for each clip, generators) -> what is predicted from their noised form. All
# latents are normalised. A latent diffusion model becomes one by `denoised`.
Predictor = Callable[[Latents, Float[Tensor, " b"], list[Generator]], Latents]
Velocity = Callable[[Latents, Float[Tensor, " b"]], Latents]  # (noisy, t) -> its velocity


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
    def __call__(self, clean: Latents, generators: list[Generator]) -> Latents:
        """Normalised latents, each clip's drawn by its own one of the `generators`."""
        draws = torch.stack([torch.rand(2, generator=each, device=each.device) for each in generators])
        chance, level = draws.to(clean.grid.device).unbind(1)
        low, high = self.config.levels
        predicted = self.predictor(clean, low + (high - low) * level, generators)
        own = chance >= self.config.share
        mixed = clean.map(
            lambda a, b: torch.where(own.reshape(-1, *[1] * (a.ndim - 1)), a, b.to(a)), predicted
        )
        steps = torch.arange(mixed.sequence.shape[2], device=own.device)
        exists = steps < clean.lengths.sum(1, keepdim=True)
        return replace(mixed, sequence=torch.where(exists[:, None], mixed.sequence, 0.0))


def denoised(velocity: Velocity) -> Predictor:
    """The predictor of a latent diffusion model: noise the latents, and answer ẑ_0 = z_t - t v(z_t, t)."""

    def predict(clean: Latents, t: Float[Tensor, " b"], generators: list[Generator]) -> Latents:
        noise = clean.noise(generators)
        noisy = clean.map(lambda part, e: diffusion.add_noise(part.float(), e, t), noise)
        return noisy.map(lambda x, v: diffusion.clean_from_velocity(x, v, t), velocity(noisy, t))

    return predict


def unit_gaussian_velocity(noisy: Latents, t: Float[Tensor, " b"]) -> Latents:
    """E[ε - z_0 | z_t] for z_0 from N(0, I): the least that a latent diffusion model knows.

    With it as velocity, `denoised` answers (1 - t) z_t / ((1 - t)² + t²): noise, and a loss of scale.
    """

    def of(z: Tensor) -> Tensor:
        level = diffusion.per_entry(t, z)
        return (2 * level - 1) / ((1 - level) ** 2 + level**2) * z

    return noisy.map(of)
