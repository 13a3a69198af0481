"""The process against closed forms, without any network (spec A6, A17 5)."""

import math

import pytest
import torch

from regen import diffusion
from regen.runtime import generator_for

MEAN, STD = 0.7, 0.3


def gaussian_velocity(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[ε - x_0 | x_t] for data from N(MEAN, STD²), in closed form."""
    t = diffusion.per_entry(t, noisy)
    variance = ((1 - t) * STD) ** 2 + t**2
    gain = (t - (1 - t) * STD**2) / variance
    return gain * (noisy - (1 - t) * MEAN) - MEAN


def gaussian_clean(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return diffusion.clean_from_velocity(noisy, gaussian_velocity(noisy, t), t)


def exact(noise: torch.Tensor) -> torch.Tensor:
    """Where the flow carries noise: quantile to quantile."""
    return MEAN + STD * noise


@pytest.mark.parametrize("solver", [diffusion.euler, diffusion.heun])
@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_solvers_carry_noise_to_the_data(solver, prediction):
    noise = torch.randn(4, 50, dtype=torch.float64)
    network = gaussian_velocity if prediction == "velocity" else gaussian_clean
    velocity = diffusion.velocity_of(network, prediction)
    errors = [
        (solver(velocity, noise, diffusion.noise_grid(steps)) - exact(noise)).abs().mean().item()
        for steps in (8, 64)
    ]
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 4


def test_heun_is_of_second_order_and_euler_of_first():
    noise = torch.randn(4, 50, dtype=torch.float64)
    velocity = diffusion.velocity_of(gaussian_velocity, "velocity")

    def error(solver: diffusion.Solver, steps: int) -> float:
        # Stop before 0: the last step to 0 is Euler's for both.
        grid = [1 - 0.9 * i / steps for i in range(steps + 1)]
        fine = diffusion.heun(velocity, noise, [1 - 0.9 * i / 2000 for i in range(2001)])
        return (solver(velocity, noise, grid) - fine).abs().mean().item()

    assert 1.7 < error(diffusion.euler, 40) / error(diffusion.euler, 80) < 2.4
    assert 3.4 < error(diffusion.heun, 40) / error(diffusion.heun, 80) < 4.8


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_one_step_from_noise_is_the_mean_of_the_data(prediction):
    noise = torch.randn(2, 10)
    network = gaussian_velocity if prediction == "velocity" else gaussian_clean
    out = diffusion.euler(diffusion.velocity_of(network, prediction), noise, diffusion.noise_grid(1))
    torch.testing.assert_close(out, torch.full_like(out, MEAN))


def test_identities():
    clean, noise, t = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.1, 0.5, 1.0])
    noisy = diffusion.add_noise(clean, noise, t)
    velocity = noise - clean
    torch.testing.assert_close(diffusion.clean_from_velocity(noisy, velocity, t), clean)
    torch.testing.assert_close(diffusion.noise_from_velocity(noisy, velocity, t), noise)
    torch.testing.assert_close(diffusion.velocity_from_clean(noisy, clean, t), velocity, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(diffusion.clean_from_noise(noisy[:2], noise[:2], t[:2]), clean[:2])


def test_the_oracle_decodes_in_one_step():
    clean, noise = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    out = diffusion.euler(lambda x, t: noise - clean, noise, diffusion.noise_grid(1))
    torch.testing.assert_close(out, clean)


def test_predicting_the_noise_cannot_decode_from_noise():
    x = torch.randn(1, 3)
    with pytest.raises(ValueError, match="predict 'sample'"):
        diffusion.clean_from_noise(x, x, torch.ones(1))
    assert diffusion.clean_from_noise(x, x, torch.tensor([0.998])).isfinite().all()
    for call in (
        lambda: diffusion.velocity_of(gaussian_velocity, "epsilon"),
        lambda: diffusion.velocity_loss(gaussian_velocity, x, x, torch.ones(1), "epsilon", 0.05),
    ):
        with pytest.raises(Exception, match="epsilon"):
            call()


def test_losses_of_both_predictions_are_one_loss():
    """‖v - v̂‖² = ‖x_0 - x̂_0‖² / t²: the same network output, told either way."""
    clean, noise, t = torch.randn(4, 6), torch.randn(4, 6), torch.tensor([0.1, 0.3, 0.8, 1.0])
    by_velocity, guess_v = diffusion.velocity_loss(gaussian_velocity, clean, noise, t, "velocity", 0.05)
    by_sample, guess_s = diffusion.velocity_loss(gaussian_clean, clean, noise, t, "sample", 0.05)
    torch.testing.assert_close(by_velocity, by_sample, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(guess_v, guess_s, rtol=1e-3, atol=1e-4)


def test_t_min_bounds_the_weight_of_small_noise_levels():
    clean, noise, t = torch.zeros(1, 6), torch.randn(1, 6), torch.tensor([0.001])
    wrong = torch.full((1, 6), 0.1)
    loss, _ = diffusion.velocity_loss(lambda x, t: wrong, clean, noise, t, "sample", 0.1)
    torch.testing.assert_close(loss, torch.tensor([1.0]))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_share_at_noise_level_one(share):
    def generators(first: int) -> list[torch.Generator]:
        return [generator_for(first + i) for i in range(4000 - first)]

    draws = diffusion.draw_noise_levels(share, generators(0))
    assert torch.equal(draws[10:], diffusion.draw_noise_levels(share, generators(10))), "each its own"
    assert abs((draws == 1).float().mean().item() - share) < 0.025
    rest = draws[draws < 1].sort().values
    uniform = torch.linspace(0, 1, len(rest))
    assert (rest - uniform).abs().max() < 0.05 if share < 1 else len(rest) == 0


def test_grids():
    assert diffusion.noise_grid(1) == [1.0, 0.0]
    assert diffusion.noise_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    for steps in (0, -1):
        with pytest.raises(ValueError, match="at least 1 step"):
            diffusion.noise_grid(steps)
    assert math.isclose(sum(diffusion.noise_grid(7)), 4.0)
