"""Draws of samples: by weight, once more where one can't be read; and the samples that are held out."""

import hashlib
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num, Shaped

from regen.data.failures import KINDS, Failures, ReadTimeoutError, time_limit
from regen.media.files import VideoError

T = TypeVar("T")
MAX_WEIGHT_SECONDS = 10.0  # longer videos are drawn no more often than one of this length
IMAGE_SECONDS = 1.0  # an image is drawn as often as a video of this length
ATTEMPTS = 100  # draws for one sample, when one video after the other can't be decoded
MAX_CACHED_SUMS = 16  # cached running sums of weights, one for each kind of clip


class WeightedDraws:
    """Draws among the samples that qualify for a kind of clip, by the seconds of a video, at most 10."""

    def __init__(
        self,
        frames: Num[np.ndarray, " sample"],
        frame_rate: Float64[np.ndarray, " sample"],
        is_image: Bool[np.ndarray, " sample"],
    ) -> None:
        seconds = np.minimum(frames / frame_rate, MAX_WEIGHT_SECONDS)
        self._weights = np.where(is_image, IMAGE_SECONDS, seconds)
        self._cached: dict[Hashable, Float64[np.ndarray, " sample"]] = {}

    def sums(
        self, kind: Hashable, fits: Callable[[], Bool[np.ndarray, " sample"]]
    ) -> Float64[np.ndarray, " sample"]:
        """The running sum of the weights of the samples that qualify for `kind`; a draw is a place in it."""
        if kind not in self._cached:
            if len(self._cached) >= MAX_CACHED_SUMS:
                del self._cached[next(iter(self._cached))]
            self._cached[kind] = np.cumsum(np.where(fits(), self._weights, 0.0))
        return self._cached[kind]


def first_readable(
    attempts: Iterable[tuple[str, int, Callable[[], T]]], failures: Failures, seconds: float | None
) -> tuple[T, int, tuple[int, int, int]]:
    """The first of some draws (name, number, how it is read) that can be read: its content and number.

    And the number of failed draws before it for each of `failures.KINDS`. Each read takes at most `seconds`.
    Raises ValueError when all fail.
    """
    replaced = [0] * len(KINDS)
    for name, number, read in attempts:
        try:
            if name in failures.slow:  # don't wait for it again
                raise ReadTimeoutError(failures.reasons[name])
            with time_limit(seconds, name):
                content = read()
        except VideoError as error:
            replaced[failures.record(name, error)] += 1
            continue
        return content, number, (replaced[0], replaced[1], replaced[2])
    reason = next(iter(failures.reasons.values()))
    raise ValueError(f"None of {sum(replaced)} drawn videos could be decoded; the first error: {reason}")


def held_out(
    names: Iterable[bytes], candidates: Int64[np.ndarray, " candidate"], count: int
) -> Shaped[np.ndarray, " count"]:
    """`count` of the candidates, chosen by their names alone, so that it hardly changes with more samples."""
    hashes = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return candidates[np.argsort(np.frombuffer(hashes, dtype=">u8"), kind="stable")[:count]]
