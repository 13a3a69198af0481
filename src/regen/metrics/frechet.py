"""Fréchet distance of two sets of features: of the Gaussians with their means and covariances.

d² = |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½) (Dowson and Landau 1982; of video features: Unterthiner et al.
2018, arXiv 1812.01717). S is the unbiased covariance. All is float64, and the trace of the root is a sum of
singular values, so the result depends on no iterative matrix root and on no version of another library.

The distance falls with the number of samples. With no more samples than features the covariances are
singular; the distance exists nevertheless, but only numbers of the very same clips can then be compared.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class GaussianStatistics:
    """Count, mean and covariance of feature vectors, fed in parts of any size, in any order."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean: Float64[Tensor, " d"] = torch.zeros(width, dtype=torch.float64)
        self._scatter: Float64[Tensor, "d d"] = torch.zeros(width, width, dtype=torch.float64)

    @property
    def width(self) -> int:
        """Features of a sample."""
        return len(self.mean)

    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Take the next samples, any number, from any device; ValueError for another width, inf and nan."""
        self._check_width(features.shape[1])
        if not features.isfinite().all():
            raise ValueError("Some features are infinite or not a number; check the videos they come from.")
        if len(features) > 0:
            values = features.detach().to("cpu", torch.float64)
            centred = values - values.mean(0)
            self._merge(len(values), values.mean(0), centred.T @ centred)

    def merge(self, other: "GaussianStatistics") -> None:
        """Take all samples that `other` has seen; it stays as it is. ValueError for another width."""
        self._check_width(other.width)
        if other.count > 0:
            self._merge(other.count, other.mean, other._scatter)

    def covariance(self) -> Float64[Tensor, "d d"]:
        """Unbiased (divided by count - 1); ValueError before the second sample."""
        if self.count < 2:
            raise ValueError(
                f"A covariance needs 2 samples or more, not {self.count}; give more or longer videos."
            )
        return self._scatter / (self.count - 1)

    def _merge(self, count: int, mean: Float64[Tensor, " d"], scatter: Float64[Tensor, "d d"]) -> None:
        """Pairwise update, which loses no digits to a large mean (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        total = self.count + count
        step = mean - self.mean
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def _check_width(self, width: int) -> None:
        if width != self.width:
            raise ValueError(
                f"Samples of {width} and {self.width} features can't be compared; use one extractor for all."
            )


def frechet_distance(first: GaussianStatistics, second: GaussianStatistics) -> float:
    """The squared distance, as FID and FVD report it: 0 for equal statistics, symmetric, never negative.

    ValueError when either has fewer than 2 samples, or their widths differ.
    """
    first._check_width(second.width)
    covariances = first.covariance(), second.covariance()
    traces = sum(float(covariance.trace()) for covariance in covariances)
    roots = [_root(covariance) for covariance in covariances]
    shared = float(torch.linalg.svdvals(roots[0].T @ roots[1]).sum())
    means = float((first.mean - second.mean).square().sum())
    return max(0.0, means + traces - 2 * shared)


def _root(covariance: Float64[Tensor, "d d"]) -> Float64[Tensor, "d r"]:
    """R with R R^T = covariance, of full column rank r: directions without variance are left out.

    The trace of the root of S1 S2 is the sum of the singular values of R1^T R2. Taken so, rounding enters
    with its size, and not with the root of its size as it does through the eigenvalues of S1 S2.
    """
    values, vectors = torch.linalg.eigh(covariance)
    rounding = values[-1].clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
    kept = values > rounding
    return vectors[:, kept] * values[kept].sqrt()
