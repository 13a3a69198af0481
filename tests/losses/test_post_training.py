"""Predicted latents against closed forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import seeded_each

from regen import diffusion
from regen.latents import Latents
from regen.losses.one_dva import Batch, PredictedLatents, PredictionConfig, denoised, unit_gaussian_velocity


def latents(count: int = 4, lengths: list[int] | None = None) -> Latents:
    own = torch.tensor(lengths or [5] * count)[:, None]
    return Latents(torch.randn(count, 3, 2, 2, 2), torch.randn(count, 3, int(own.max())), own)


def parts(x: Latents) -> tuple[torch.Tensor, torch.Tensor]:
    return x.grid, x.sequence


def minus(clean: Latents, t: torch.Tensor, generators: list[torch.Generator], batch: Batch) -> Latents:
    """A predictor whose predictions are recognised at once."""
    return clean.map(torch.neg)


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=4))
def test_an_exact_velocity_gives_the_clean_latents_back(levels):
    clean, t = latents(len(levels)), torch.tensor(levels)

    def exact(noisy: Latents, t: torch.Tensor, batch: Batch) -> Latents:
        return noisy.map(lambda x, z: diffusion.velocity_from_clean(x, z, t), clean)

    predicted = denoised(exact)(clean, t, seeded_each(len(levels)), {})
    assert torch.equal(predicted.lengths, clean.lengths)
    for found, expected in zip(parts(predicted), parts(clean), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_both_kinds_of_latents_are_noised_on_the_straight_path():
    """The noisy latents are (1 - t) z + t ε, with ε of N(0, 1) and apart for both kinds."""
    clean = Latents(torch.ones(2, 3, 10, 10, 10), torch.ones(2, 3, 1000), torch.tensor([[1000], [1000]]))
    seen = []

    def velocity(noisy: Latents, t: torch.Tensor, batch: Batch) -> Latents:
        seen.append(noisy)
        return noisy

    t = torch.tensor([0.2, 0.7])
    denoised(velocity)(clean, t, seeded_each(2), {})
    for x in parts(seen[0]):
        noise = (x - diffusion.append_dims(1 - t, x)) / diffusion.append_dims(t, x)
        assert (noise.flatten(1).mean(1).abs() < 0.08).all()
        assert ((noise.flatten(1).std(1) - 1).abs() < 0.08).all()
    first, second = (x.flatten(1)[0] for x in parts(seen[0]))
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.1


@given(st.floats(0, 1))
def test_the_velocity_of_the_standard_normal_is_the_closed_form(level):
    noisy, t = latents(2), torch.full((2,), level)
    velocity = unit_gaussian_velocity(noisy, t, {})
    for z, v in zip(parts(noisy), parts(velocity), strict=True):
        expected = (1 - level) / ((1 - level) ** 2 + level**2) * z
        torch.testing.assert_close(diffusion.clean_from_velocity(z, v, t), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8, 1.0])
def test_no_other_gain_predicts_the_velocity_of_gaussian_latents_better(level):
    clean, noise = torch.randn(2, 1, 1, 20000, 1, 1).double()
    t = torch.tensor([level], dtype=torch.float64)
    z, target = diffusion.add_noise(clean, noise, t), noise - clean
    velocity = unit_gaussian_velocity(Latents(z, z[..., 0, 0], torch.tensor([[20000]])), t, {}).grid
    best = (z * target).sum() / z.square().sum() * z
    torch.testing.assert_close((velocity / z).mean(), (best / z).mean(), atol=0.04, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_clips_gets_predicted_latents(share):
    clean = latents(1000)
    predicted = PredictedLatents(PredictionConfig(share), minus)(clean, seeded_each(1000), {})
    assert torch.equal(predicted.lengths, clean.lengths)
    changed = (predicted.grid == -clean.grid).flatten(1).all(1)
    for found, own in zip(parts(predicted), parts(clean), strict=True):
        assert torch.equal(found[changed], -own[changed])
        assert torch.equal(found[~changed], own[~changed])
    assert abs(changed.float().mean() - share) < (0.05 if 0 < share < 1 else 1e-9)


@given(st.floats(0.01, 1), st.floats(0.01, 1))
def test_levels_are_uniform_and_do_not_tell_which_clips_are_chosen(one, other):
    low, high = sorted((one, other))
    seen, clean = [], latents(1000)

    def predict(clean: Latents, t: torch.Tensor, generators: list[torch.Generator], batch: Batch) -> Latents:
        seen.append(t)
        return clean.map(torch.neg)

    predicted = PredictedLatents(PredictionConfig(0.4, (low, high)), predict)(clean, seeded_each(1000), {})
    (t,) = seen
    for levels in (t, t[predicted.grid[:, 0, 0, 0, 0] != clean.grid[:, 0, 0, 0, 0]]):
        assert (levels >= low - 1e-6).all() and (levels <= high + 1e-6).all()
        even = torch.linspace(low, high, len(levels))
        assert (levels.sort().values - even).abs().max() <= 0.1 * (high - low) + 1e-6


def test_no_gradient_passes_through_predicted_latents():
    gain = torch.nn.Parameter(torch.tensor(0.5))

    def velocity(noisy: Latents, t: torch.Tensor, batch: Batch) -> Latents:
        return noisy.map(lambda part: gain * part)

    clean = latents()
    for part in parts(clean):
        part.requires_grad_()
    predicted = PredictedLatents(PredictionConfig(share=0.5), denoised(velocity))(clean, seeded_each(4), {})
    assert not any(part.requires_grad for part in parts(predicted))


def test_clean_latents_keep_their_precision():
    put = PredictedLatents(PredictionConfig(share=0.5), denoised(unit_gaussian_velocity))
    predicted = put(latents().to(dtype=torch.bfloat16), seeded_each(4), {})
    assert {part.dtype for part in parts(predicted)} == {torch.bfloat16}


@pytest.mark.parametrize("predictor", [minus, denoised(unit_gaussian_velocity)])
def test_each_clip_is_predicted_from_its_own_generator(predictor):
    put, clean = PredictedLatents(PredictionConfig(share=0.6), predictor), latents(6)
    whole = put(clean, seeded_each(6), {})
    for i in range(6):
        one = Latents(clean.grid[i : i + 1], clean.sequence[i : i + 1], clean.lengths[i : i + 1])
        for found, expected in zip(parts(put(one, seeded_each(6)[i : i + 1], {})), parts(whole), strict=True):
            torch.testing.assert_close(found[0], expected[i])
    assert not torch.equal(put(clean, seeded_each(6, seed=1), {}).grid, whole.grid)


@pytest.mark.parametrize(("short", "longer"), [(3, 5), (16, 48), (7, 12), (15, 17)])
def test_a_clip_is_predicted_alike_beside_a_longer_one(short, longer):
    put = PredictedLatents(PredictionConfig(share=1.0), denoised(unit_gaussian_velocity))
    clean = latents(2, [short, longer])
    alone = Latents(clean.grid[:1], clean.sequence[:1, :, :short], clean.lengths[:1])
    torch.testing.assert_close(
        put(alone, seeded_each(1), {})[0].sequence, put(clean, seeded_each(2), {})[0].sequence
    )


def test_latents_without_a_sequence_are_predicted_too():
    put = PredictedLatents(PredictionConfig(share=1.0), denoised(unit_gaussian_velocity))
    clean = Latents(torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 0), torch.zeros(2, 1).long())
    predicted = put(clean, seeded_each(2), {})
    assert predicted.sequence.shape == (2, 3, 0)
    assert predicted.grid.isfinite().all()
