"""The diffusion process as pure functions of a callable; no network.

Linear path x_t = (1 - t) x_0 + t ε (REGEN, Sec. 3) with noise level t from 0 (data) to 1 (noise) and velocity
v = ε - x_0. A network predicts the velocity, the clean sample or the noise; the rest follows from

    x_0 = x_t - t v        v = (x_t - x_0) / t        x_0 = (x_t - t ε) / (1 - t)

All functions broadcast: `t` holds one noise level per sample, or one for the whole batch, as in the solvers,
so what depends on `t` alone is computed once per step; x has any shape behind the batch.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

Prediction = Literal["sample", "velocity", "epsilon"]
UNKNOWN_PREDICTION = "prediction must be 'sample', 'velocity' or 'epsilon', got {!r}."
Density = Literal["uniform", "logit_normal"]
Noise = Literal["normal", "zero"]  # where decoding starts, at t = 1
Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> prediction
Solver = Callable[[Network, Tensor, list[float]], Tensor]  # (velocity, noise, schedule) -> clean sample


def append_dims(t: Float[Tensor, " #b"], x: Tensor) -> Tensor:
    """`t` with as many dimensions as `x`, to multiply each sample of the batch."""
    return t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def add_noise(
    clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """x_t = (1 - t) x_0 + t ε."""
    return torch.lerp(clean, noise, append_dims(t, clean))


def clean_from_velocity(
    noisy: Float[Tensor, "b ..."], velocity: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """x_0 = x_t - t v."""
    return noisy - append_dims(t, noisy) * velocity


def velocity_from_clean(
    noisy: Float[Tensor, "b ..."], clean: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """v = (x_t - x_0) / t, for noise levels above 0."""
    return (noisy - clean) / append_dims(t, noisy)


def clean_from_epsilon(
    noisy: Float[Tensor, "b ..."], epsilon: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """x_0 = (x_t - t ε) / (1 - t); 0, the middle of the range, at t = 1, where ε says nothing about x_0."""
    t = append_dims(t, noisy)
    return torch.where(t < 1, (noisy - t * epsilon) / torch.where(t < 1, 1 - t, 1), 0.0)


def as_velocity(network: Network, prediction: Prediction) -> Network:
    """The velocity field of a network that predicts the clean sample, the velocity or the noise."""
    if prediction == "velocity":
        return network
    if prediction == "sample":
        return lambda noisy, t: velocity_from_clean(noisy, network(noisy, t), t)
    if prediction == "epsilon":
        sample: Network = lambda noisy, t: clean_from_epsilon(noisy, network(noisy, t), t)  # noqa: E731
        return as_velocity(sample, "sample")
    raise ValueError(UNKNOWN_PREDICTION.format(prediction))


def sample_noise_levels(
    pure_noise_prob: float, generators: list[torch.Generator], density: Density = "uniform"
) -> Float[Tensor, " b"]:
    """Noise levels for training: exactly 1 with probability `pure_noise_prob`, else from `density`.

    One-step decoding starts at t = 1, so that level has to be trained. With "logit_normal", sigmoid(N(0, 1)),
    this gives the thick-tailed density of One-DVA. Each level is drawn by its own generator, so the result
    does not depend on how a batch is split.
    """
    pairs = [torch.rand(2, generator=each, device=each.device) for each in generators]
    level, chance = torch.stack(pairs).unbind(1)
    if density == "logit_normal":
        normals = [torch.randn((), generator=each, device=each.device) for each in generators]
        level = torch.sigmoid(torch.stack(normals))
    return torch.where(chance < pure_noise_prob, 1.0, level)


def sample_training_noise(
    shape: torch.Size, t: Float[Tensor, " b"], zero_noise_prob: float, generators: list[torch.Generator]
) -> Float[Tensor, "b ..."]:
    """Noise for training, that of each sample from its own generator: normal, or zero with this probability
    at t = 1.

    At t = 1 the optimum E[x_0] does not depend on the noise, and one-step decoding starts from zero.
    """
    noise = randn_tensor(shape, generators, t.device, torch.float32)
    chance = torch.stack([torch.rand((), generator=each, device=each.device) for each in generators])
    is_zero = (t == 1) & (chance.to(t.device) < zero_noise_prob)
    return noise * append_dims(1 - is_zero.float(), noise)


def velocity_loss(
    network: Network,
    clean: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    prediction: Prediction,
    t_min: float,
    crop: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b ..."]]:
    """‖v - v̂‖² averaged over each sample, and the prediction of the clean sample (REGEN, Eq. 4).

    With prediction "sample", v - v̂ = (x_0 - x̂_0) / max(t, t_min): small noise levels count more, bounded by
    `t_min`. With "epsilon" the loss is the literal ‖ε - ε̂‖² = (1 - t)² ‖v - v̂‖². `crop` removes the padding
    from the error.
    """
    noisy = add_noise(clean, noise, t)
    pred = network(noisy, t).float()
    if prediction == "velocity":
        x0_pred = clean_from_velocity(noisy, pred, t)
        error = (noise - clean) - pred
    elif prediction == "sample":
        x0_pred = pred
        error = (clean - pred) / append_dims(t.clamp_min(t_min), clean)
    elif prediction == "epsilon":
        x0_pred = clean_from_epsilon(noisy, pred, t)
        error = noise - pred
    else:
        raise ValueError(UNKNOWN_PREDICTION.format(prediction))
    if crop is not None:
        error = crop(error)
    return error.square().flatten(1).mean(1), x0_pred


def get_schedule(steps: int) -> list[float]:
    """`steps` + 1 equally spaced noise levels from 1 to 0."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    return [1 - i / steps for i in range(steps)] + [0.0]


def _at(level: float, x: Tensor) -> Tensor:
    return torch.full((1,), level, device=x.device)


def step(
    velocity: Network, x: Float[Tensor, "b ..."], t: Float[Tensor, " #b"], t_next: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """One step of Euler's method between noise levels that are tensors: x - (t - t') v(x, t)."""
    return x - append_dims(t - t_next, x) * velocity(x, t)


def euler(velocity: Network, x: Float[Tensor, "b ..."], schedule: list[float]) -> Float[Tensor, "b ..."]:
    """Euler's method: x ← x - (t - t') v(x, t). One evaluation per step."""
    for now, after in pairwise(schedule):
        x = x - (now - after) * velocity(x, _at(now, x))
    return x


def heun(velocity: Network, x: Float[Tensor, "b ..."], schedule: list[float]) -> Float[Tensor, "b ..."]:
    """Heun's second-order method; two evaluations per step, one in the last step to 0, which is Euler's."""
    for now, after in pairwise(schedule):
        slope = velocity(x, _at(now, x))
        ahead = x - (now - after) * slope
        if after > 0:
            slope = (slope + velocity(ahead, _at(after, x))) / 2
            ahead = x - (now - after) * slope
        x = ahead
    return x
