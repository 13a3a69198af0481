"""The Fréchet distance against closed forms and SciPy's matrix root, and statistics fed in parts."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor

from regen.metrics.frechet import GaussianStatistics, frechet_distance


def statistics(*parts: Tensor) -> GaussianStatistics:
    return GaussianStatistics.of(parts)


def random(count: int, width: int, seed: int) -> Tensor:
    """Correlated features of unequal sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(width, width, generator=generator, dtype=torch.float64)
    samples = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return samples @ mixture + torch.randn(width, generator=generator, dtype=torch.float64)


def exactly(mean: Tensor, axes: Tensor, deviations: Tensor) -> Tensor:
    """Samples that have this mean and, along the orthogonal `axes`, exactly these standard deviations."""
    width = len(mean)
    scale = ((2 * width - 1) / 2) ** 0.5  # two samples on each axis, divided by the count - 1
    spread = (axes * deviations).T * scale
    return mean + torch.cat([spread, -spread])


@pytest.mark.parametrize("zeros", [0, 3])
def test_closed_form_for_commuting_covariances(zeros: int) -> None:
    """On common axes it is |m1 - m2|² + Σ (s1 - s2)²; some deviations may be zero, in either."""
    width = 7
    generator = torch.Generator().manual_seed(4)
    axes = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    means = torch.randn(2, width, generator=generator, dtype=torch.float64) * 100
    deviations = torch.rand(2, width, generator=generator, dtype=torch.float64) * 9
    deviations[0, :zeros] = 0
    deviations[1, 1 : 1 + zeros] = 0
    first, second = (statistics(exactly(means[i], axes, deviations[i])) for i in range(2))
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-11)


@given(width=st.integers(1, 12), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_equal_to_the_matrix_root_of_scipy(width: int, seed: int, scale: float) -> None:
    first, second = random(3 * width + 5, width, seed) * scale, random(2 * width + 4, width, seed + 1) * scale
    one, two = (np.atleast_2d(np.cov(features.numpy(), rowvar=False)) for features in (first, second))
    shift = (first.mean(0) - second.mean(0)).square().sum().item()
    expected = shift + np.trace(one + two) - 2 * np.trace(sqrtm(one @ two)).real
    assert frechet_distance(statistics(first), statistics(second)) == pytest.approx(expected, rel=1e-6)


def test_fewer_samples_than_features() -> None:
    """Singular covariances: 0 for the same samples, and the closed form against a point."""
    few = random(6, 300, 1)
    assert 0 <= frechet_distance(statistics(few), statistics(few.flip(0))) < 1e-6
    flat = torch.zeros(6, 300, dtype=torch.float64)
    covariance = statistics(few).covariance()
    expected = few.mean(0).square().sum() + covariance.trace()
    assert frechet_distance(statistics(few), statistics(flat)) == pytest.approx(expected.item(), rel=1e-12)


@given(cuts=st.lists(st.integers(0, 30), max_size=5), offset=st.sampled_from([0.0, 1e6]))
def test_fed_in_parts_of_any_size(cuts: list[int], offset: float) -> None:
    """Empty ones too; a mean a million times the spread loses no digits of the spread."""
    features = random(30, 5, 3) + offset
    parts = [features[first:last] for first, last in pairwise([0, *sorted(cuts), 30])]
    expected = torch.from_numpy(np.cov(random(30, 5, 3).numpy(), rowvar=False))
    for result in (statistics(*parts), statistics(*reversed(parts))):
        assert result.count == 30
        torch.testing.assert_close(result.mean, features.mean(0), rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(result.covariance(), expected, rtol=1e-7, atol=1e-7)


def test_too_few_and_infinite_features_are_errors() -> None:
    many = statistics(random(5, 3, 1))
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"at least 2 samples, got {count}"):
            frechet_distance(many, statistics(random(count, 3, 1)))
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            many.update(torch.tensor([[0.0, wrong, 0.0]]))
    assert many.count == 5


def test_merged_and_stored_statistics_are_those_of_all_samples() -> None:
    samples = random(40, 5, seed=3)
    merged = GaussianStatistics(5)
    for part in samples.split([1, 0, 25, 14]):
        merged.merge(GaussianStatistics.from_tensor(statistics(part).to_tensor()))
    assert merged.count == 40
    torch.testing.assert_close(merged.mean, samples.mean(0))
    torch.testing.assert_close(merged.covariance(), torch.cov(samples.T))
