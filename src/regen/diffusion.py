"""The diffusion process as pure functions of a callable; it knows no network (spec A6).

Linear path x_t = (1 - t) x_0 + t ε with noise level t from 0 (data) to 1 (noise), velocity v = ε - x_0 as the
target. A network may answer with the velocity or with the clean clip; everything else follows from

    x_0 = x_t - t v        ε = x_t + (1 - t) v        v = (x_t - x_0) / t

All functions broadcast: `t` has one number for each entry of the batch, or one for all, and x any shape
behind it. Solvers ask with one for all, so what follows from `t` alone is computed once a step.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Prediction = Literal["sample", "velocity"]
Density = Literal["uniform", "logit_normal", "mixed"]
Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> its prediction
Solver = Callable[[Network, Tensor, list[float]], Tensor]  # (velocity, noise, grid) -> clean


def per_entry(t: Float[Tensor, " #b"], x: Tensor) -> Tensor:
    """`t` with as many axes as `x`, so that it multiplies each entry of the batch."""
    return t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def add_noise(
    clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """x_t on the straight path from the data to the noise (REGEN, Sec. 3)."""
    return torch.lerp(clean, noise, per_entry(t, clean))


def clean_from_velocity(
    noisy: Float[Tensor, "b ..."], velocity: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """x_0 = x_t - t v."""
    return noisy - per_entry(t, noisy) * velocity


def noise_from_velocity(
    noisy: Float[Tensor, "b ..."], velocity: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """ε = x_t + (1 - t) v."""
    return noisy + per_entry(1 - t, noisy) * velocity


def velocity_from_clean(
    noisy: Float[Tensor, "b ..."], clean: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """v = (x_t - x_0) / t, for noise levels above 0, the only ones at which a solver asks."""
    return (noisy - clean) / per_entry(t, noisy)


def clean_from_noise(
    noisy: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Float[Tensor, " #b"]
) -> Float[Tensor, "b ..."]:
    """x_0 = (x_t - t ε) / (1 - t): why a network that predicts the noise cannot decode in one step.

    Raises ValueError for t above 1 - 1e-3, where x_t is the noise itself and says nothing about x_0.
    """
    if bool((t > 1 - 1e-3).any()):
        raise ValueError("The clean clip does not follow from the noise at noise level 1; predict 'sample'.")
    return (noisy - per_entry(t, noisy) * noise) / per_entry(1 - t, noisy)


def velocity_of(network: Network, prediction: Prediction) -> Network:
    """The velocity field of a network that predicts the clean clip (`"sample"`) or the velocity itself."""
    if prediction == "velocity":
        return network
    if prediction == "sample":
        return lambda noisy, t: velocity_from_clean(noisy, network(noisy, t), t)
    raise ValueError(f"A network predicts 'sample' or 'velocity', not {prediction!r}.")


def draw_noise_levels(
    share_at_one: float, generators: list[torch.Generator], density: Density = "uniform"
) -> Float[Tensor, " b"]:
    """Noise levels of which a share is exactly 1, where decoding begins (spec A6, B5); the others uniform.

    `"logit_normal"`: the others are sigmoid(N(0, 1)), which with a share at 1 is the thick-tailed density of
    One-DVA; without one next to no level comes near 1, and decoding begins where nothing was learned.
    `"mixed"`: the share is uniform in place of 1, and the others logit-normal (FlowMo, arXiv 2503.11056).

    One level for each generator, from that generator alone, so that a batch may be split in any way: each
    belongs to the share by chance, independently, and the share is met in the mean over batches only.
    """
    if density == "uniform":
        draws = torch.stack([torch.rand(2, generator=each, device=each.device) for each in generators])
        level, chance = draws.unbind(1)
        return torch.where(chance < share_at_one, 1.0, level)
    pairs = [
        (
            torch.rand(2, generator=each, device=each.device),
            torch.randn((), generator=each, device=each.device),
        )
        for each in generators
    ]
    level, chance = torch.stack([pair[0] for pair in pairs]).unbind(1)
    middle = torch.sigmoid(torch.stack([pair[1] for pair in pairs]))
    return torch.where(chance < share_at_one, level if density == "mixed" else 1.0, middle)


def velocity_loss(
    network: Network,
    clean: Float[Tensor, "b ..."],
    noise: Float[Tensor, "b ..."],
    t: Float[Tensor, " b"],
    prediction: Prediction,
    t_min: float,
    counted: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b ..."]]:
    """‖v - v̂‖² averaged over each entry, and the clean clip that the network sees in x_t (REGEN, Eq. 4).

    With `"sample"` the difference of the velocities is that of the clean clips over max(t, t_min), so an
    error at a small noise level counts more; `t_min` bounds how much. `counted` cuts out of the error what
    is no padding.
    """
    noisy = add_noise(clean, noise, t)
    answer = network(noisy, t).float()
    if prediction == "velocity":
        guess = clean_from_velocity(noisy, answer, t)
        error = (noise - clean) - answer
    elif prediction == "sample":
        guess = answer
        error = (clean - answer) / per_entry(t.clamp_min(t_min), clean)
    else:
        raise ValueError(f"A network predicts 'sample' or 'velocity', not {prediction!r}.")
    if counted is not None:
        error = counted(error)
    return error.square().flatten(1).mean(1), guess


def noise_grid(steps: int) -> list[float]:
    """`steps` + 1 noise levels from 1 to 0, equally far apart."""
    if steps < 1:
        raise ValueError(f"Decoding takes at least 1 step, not {steps}.")
    return [1 - i / steps for i in range(steps)] + [0.0]


def _at(level: float, x: Tensor) -> Tensor:
    return torch.full((1,), level, device=x.device)


def euler(velocity: Network, x: Float[Tensor, "b ..."], grid: list[float]) -> Float[Tensor, "b ..."]:
    """Integrate along `grid` by Euler steps: x ← x - (t - t') v(x, t). One evaluation a step."""
    for now, after in pairwise(grid):
        x = x - (now - after) * velocity(x, _at(now, x))
    return x


def heun(velocity: Network, x: Float[Tensor, "b ..."], grid: list[float]) -> Float[Tensor, "b ..."]:
    """Integrate along `grid` by Heun's second-order steps; the last, to 0, is Euler's. Two evaluations."""
    for now, after in pairwise(grid):
        slope = velocity(x, _at(now, x))
        ahead = x - (now - after) * slope
        if after > 0:
            slope = (slope + velocity(ahead, _at(after, x))) / 2
            ahead = x - (now - after) * slope
        x = ahead
    return x
