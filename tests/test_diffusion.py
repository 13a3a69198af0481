"""The diffusion process against closed forms, without a network."""

import math

import pytest
import torch

from regen import diffusion
from regen.runtime import generator_for

MEAN, STD = 0.7, 0.3


def gaussian_velocity(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[ε - x_0 | x_t] for data from N(MEAN, STD²), in closed form."""
    t = diffusion.append_dims(t, noisy)
    variance = ((1 - t) * STD) ** 2 + t**2
    gain = (t - (1 - t) * STD**2) / variance
    return gain * (noisy - (1 - t) * MEAN) - MEAN


def gaussian_clean(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return diffusion.clean_from_velocity(noisy, gaussian_velocity(noisy, t), t)


def gaussian_epsilon(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return noisy + (1 - diffusion.append_dims(t, noisy)) * gaussian_velocity(noisy, t)


NETWORKS = {"velocity": gaussian_velocity, "sample": gaussian_clean, "epsilon": gaussian_epsilon}


@pytest.mark.parametrize("solver", [diffusion.euler, diffusion.heun])
@pytest.mark.parametrize("prediction", NETWORKS)
def test_solvers_carry_noise_to_the_data(solver, prediction):
    noise = torch.randn(4, 50, dtype=torch.float64)
    velocity = diffusion.as_velocity(NETWORKS[prediction], prediction)
    exact = MEAN + STD * noise  # the flow carries quantile to quantile
    errors = [
        (solver(velocity, noise, diffusion.get_schedule(steps)) - exact).abs().mean().item()
        for steps in (8, 64)
    ]
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 4


def test_heun_is_of_second_order_and_euler_of_first():
    noise = torch.randn(4, 50, dtype=torch.float64)
    velocity = diffusion.as_velocity(gaussian_velocity, "velocity")

    def error(solver: diffusion.Solver, steps: int) -> float:
        # Stop before 0: the last step to 0 is Euler's for both.
        schedule = [1 - 0.9 * i / steps for i in range(steps + 1)]
        exact = 0.9 * MEAN + math.hypot(0.9 * STD, 0.1) * noise
        return (solver(velocity, noise, schedule) - exact).abs().mean().item()

    assert 1.7 < error(diffusion.euler, 40) / error(diffusion.euler, 80) < 2.4
    assert 3.4 < error(diffusion.heun, 40) / error(diffusion.heun, 80) < 4.8


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_one_step_from_noise_is_the_mean_of_the_data(prediction):
    noise = torch.randn(2, 10)
    velocity = diffusion.as_velocity(NETWORKS[prediction], prediction)
    out = diffusion.euler(velocity, noise, diffusion.get_schedule(1))
    torch.testing.assert_close(out, torch.full_like(out, MEAN))


def test_noise_velocity_and_clean_sample_follow_from_each_other():
    clean, noise, t = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.1, 0.5, 1.0])
    noisy = diffusion.add_noise(clean, noise, t)
    velocity = noise - clean
    torch.testing.assert_close(diffusion.clean_from_velocity(noisy, velocity, t), clean)
    torch.testing.assert_close(diffusion.velocity_from_clean(noisy, clean, t), velocity, atol=1e-5, rtol=1e-4)
    one_step = diffusion.euler(lambda x, t: velocity, noise, diffusion.get_schedule(1))
    torch.testing.assert_close(one_step, clean)


def test_at_noise_level_1_the_noise_tells_nothing_of_the_data():
    """Of a prediction of the noise: its loss is 0 for a network that copies its input, whatever else it
    knows, and one step from noise is the middle of the range."""
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    loss, x0_pred = diffusion.velocity_loss(lambda x, t: x, clean, noise, torch.ones(2), "epsilon", 0.05)
    assert not loss.any() and not x0_pred.any()
    velocity = diffusion.as_velocity(lambda x, t: x + 100 * (1 - diffusion.append_dims(t, x)), "epsilon")
    assert not diffusion.euler(velocity, noise, diffusion.get_schedule(1)).any()


def test_losses_of_all_predictions_are_one_loss():
    """‖v - v̂‖² = ‖x_0 - x̂_0‖² / t² = ‖ε - ε̂‖² / (1 - t)²: for the same prediction."""
    clean, noise, t = torch.randn(4, 6), torch.randn(4, 6), torch.tensor([0.1, 0.3, 0.8, 0.95])
    by_velocity, x0_pred_v = diffusion.velocity_loss(gaussian_velocity, clean, noise, t, "velocity", 0.05)
    by_sample, x0_pred_s = diffusion.velocity_loss(gaussian_clean, clean, noise, t, "sample", 0.05)
    by_epsilon, x0_pred_e = diffusion.velocity_loss(gaussian_epsilon, clean, noise, t, "epsilon", 0.05)
    torch.testing.assert_close(by_velocity, by_sample, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(by_velocity * (1 - t).square(), by_epsilon, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(x0_pred_v, x0_pred_s, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(x0_pred_v, x0_pred_e, rtol=1e-3, atol=1e-4)


def test_t_min_bounds_the_weight_of_small_noise_levels():
    clean, noise, t = torch.zeros(1, 6), torch.randn(1, 6), torch.tensor([0.001])
    wrong = torch.full((1, 6), 0.1)
    loss, _ = diffusion.velocity_loss(lambda x, t: wrong, clean, noise, t, "sample", 0.1)
    torch.testing.assert_close(loss, torch.tensor([1.0]))


def loss_share(t_min: float, pure_noise_prob: float, below: float) -> float:
    """Share of the expected loss that levels under `below` have, for an error of x̂_0 that is the same at
    all levels (docs/method.md, 6)."""
    count = 20_000
    t = (torch.arange(count) + 0.5) / count
    weight, _ = diffusion.velocity_loss(
        lambda x, t: x.new_ones(x.shape), torch.zeros(count, 1), torch.zeros(count, 1), t, "sample", t_min
    )
    uniform = (1 - pure_noise_prob) * weight / count
    return float(uniform[t < below].sum() / (uniform.sum() + pure_noise_prob))


@pytest.mark.parametrize(
    ("t_min", "pure_noise_prob", "share_below", "pure_noise_share"),
    [
        (0.05, 0.1, 0.767, 0.0028),
        (0.25, 0.1, 0.225, 0.0156),
        (0.5, 0.1, 0.129, 0.0357),
        (0.5, 0.3, 0.117, 0.125),
    ],
)
def test_shares_of_the_loss_by_noise_level(t_min, pure_noise_prob, share_below, pure_noise_share):
    """The closed form and its figures in docs/method.md: all = (1 - p) (2 / t_min - 1) + p."""
    everything = (1 - pure_noise_prob) * (2 / t_min - 1) + pure_noise_prob
    below = 1 / t_min + max(0.0, 1 / t_min - 10) if t_min < 0.1 else 0.1 / t_min**2
    assert (1 - pure_noise_prob) * below / everything == pytest.approx(share_below, rel=0.01)
    assert pure_noise_prob / everything == pytest.approx(pure_noise_share, rel=0.02)
    assert loss_share(t_min, pure_noise_prob, 0.1) == pytest.approx(share_below, rel=0.02)


def test_schedules_are_equally_spaced():
    assert diffusion.get_schedule(1) == [1.0, 0.0]
    assert diffusion.get_schedule(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    for steps in (0, -1):
        with pytest.raises(ValueError, match="steps must be at least 1"):
            diffusion.get_schedule(steps)
    assert math.isclose(sum(diffusion.get_schedule(7)), 4.0)


def levels(share: float, *density: str, count: int = 4000) -> torch.Tensor:
    return diffusion.sample_noise_levels(share, [generator_for(i) for i in range(count)], *density)


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_levels_have_their_density_and_a_pure_noise_share(share, density):
    draws = levels(share, density)
    assert abs((draws == 1).float().mean() - share) < 0.015
    rest = draws[draws < 1].sort().values
    assert len(rest) > 0 or share == 1
    quantiles = (torch.arange(len(rest)) + 0.5) / len(rest)
    expected = quantiles if density == "uniform" else torch.special.ndtri(quantiles).sigmoid()
    assert share == 1 or (rest - expected).abs().max() < 0.05


def test_levels_are_uniform_by_default():
    """With the numbers that they had before there was a choice."""
    pairs = torch.stack([torch.rand(2, generator=generator_for(i)) for i in range(50)])
    assert torch.equal(levels(0.1, count=50), torch.where(pairs[:, 1] < 0.1, 1.0, pairs[:, 0]))


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_each_level_comes_from_its_own_generator(density):
    whole = levels(0.3, density, count=40)
    alone = [diffusion.sample_noise_levels(0.3, [generator_for(i)], density) for i in range(40)]
    torch.testing.assert_close(whole, torch.cat(alone))


@pytest.mark.parametrize("prediction", NETWORKS)
def test_the_loss_ignores_what_is_cropped(prediction):
    clean, noise, t = torch.randn(3, 2, 8), torch.randn(3, 2, 8), torch.tensor([0.1, 0.5, 1.0])

    def loss(cropped=None, spoil: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        def spoiled(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            pred = NETWORKS[prediction](noisy, t).clone()
            pred[..., 5:] += spoil
            return pred

        return diffusion.velocity_loss(spoiled, clean, noise, t, prediction, 0.05, cropped)

    plain, x0_pred = loss()
    torch.testing.assert_close(loss(lambda error: error)[0], plain)
    cropped, whole = loss(lambda error: error[..., :5])
    assert torch.equal(whole, x0_pred), "the prediction keeps its padding"
    torch.testing.assert_close(loss(lambda error: error[..., :5], spoil=100.0)[0], cropped)
    assert (loss(spoil=100.0)[0] > plain + 1).all()
    rest = loss(lambda error: error[..., 5:])[0]
    torch.testing.assert_close((5 * cropped + 3 * rest) / 8, plain)


def test_training_at_full_noise_mixes_zero_noise_in():
    """At t = 1 alone; each sample's by its own generator, so the split of a batch does not matter."""
    t = torch.tensor([1.0, 0.99] * 200)
    generators = [generator_for(0, i) for i in range(400)]
    noise = diffusion.sample_training_noise(torch.Size((400, 3, 2)), t, 0.5, generators)
    is_zero = (noise == 0).flatten(1).all(1)
    assert not is_zero[1::2].any()
    share = is_zero[::2].float().mean()
    assert abs(share - 0.5) < 0.15  # four standard deviations of 200 samples
    alone = diffusion.sample_training_noise(torch.Size((1, 3, 2)), t[6:7], 0.5, [generator_for(0, 6)])
    assert torch.equal(alone, noise[6:7])
    plain = torch.stack([torch.randn(3, 2, generator=generator_for(0, i)) for i in range(400)])
    assert torch.equal(noise[~is_zero], plain[~is_zero])
