"""Training clips from folders of videos and images, as a function of (seed, sample index) alone."""

import copy
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float64, UInt8
from rich.progress import track
from torch import Tensor

from regen.data.frame_cache import FrameCache
from regen.data.media import VideoError, find_media, shrunk_size
from regen.data.video import TIME_TOLERANCE, VideoReader
from regen.runtime import generator_for

LONGEST = 10.0  # seconds; longer videos are drawn no more often than one of this length
IMAGE_SECONDS = 1.0  # an image is drawn as often as a video of this length
ATTEMPTS = 100  # draws for one sample, when one video after the other can't be decoded


@dataclass(frozen=True)
class Media:
    """A video or an image that can be read; `times` are those of its frames in seconds, rising."""

    path: Path
    times: Float64[np.ndarray, " t"]
    frame_rate: float
    width: int
    height: int
    is_image: bool


@dataclass(frozen=True)
class _Window:
    """A rectangle in stored pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


class ClipDataset:
    """Random clips of the videos and images in `paths` (files and folders).

    Each file is opened once at the start; those that can't be read are left out and named in `skipped` with
    the reason. With `short_side` frames are shrunk so that their short side is at most that many pixels;
    that is the size to which the `scale` of `read` refers. With `cache`, a folder, each file is decoded once
    and its frames are kept there. A dataset holds no open files and may be used in any number of processes.

    Raises ValueError when no file is left.
    """

    def __init__(
        self, paths: Sequence[Path], cache: Path | None = None, short_side: int | None = None
    ) -> None:
        self.short_side = short_side
        self.skipped: dict[Path, str] = {}
        self.failures: Counter[Path] = Counter()
        media = []
        files = find_media(paths)
        for path in files:
            try:
                media.append(_examine(path))
            except VideoError as error:
                self.skipped[path] = str(error)
        if not media:
            places = ", ".join(str(path) for path in paths)
            if not files:
                raise ValueError(f"There is no video or image in {places}; give a folder that holds some.")
            first = next(iter(self.skipped.values()))
            raise ValueError(
                f"None of the {len(files)} videos and images in {places} can be used, as: {first}"
            )
        self._cache = None if cache is None else FrameCache(cache, short_side)
        self._use(media)

    def _use(self, media: list[Media]) -> None:
        self.media = media
        self._counts = np.array([len(one.times) for one in media])
        self._spans = np.array([one.times[-1] - one.times[0] for one in media])
        seconds = self._counts / np.array([one.frame_rate for one in media])
        images = np.array([one.is_image for one in media])
        self._weights = np.where(images, IMAGE_SECONDS, np.minimum(seconds, LONGEST))

    def split(self, holdout: int, frames: int = 1) -> tuple["ClipDataset", "ClipDataset"]:
        """(train, held out): `holdout` videos of at least `frames` frames, or images where there are no
        videos, chosen by their names.

        The choice depends on the names alone, so it hardly changes when files are added. Raises ValueError
        when that many can't be spared.
        """
        candidates = [one for one in self.media if not one.is_image] or self.media
        candidates = [one for one in candidates if len(one.times) >= frames]
        if not 0 < holdout < len(self.media) or holdout > len(candidates):
            raise ValueError(
                f"{holdout} videos can't be held out of {len(self.media)} files, of which {len(candidates)} "
                f"have {frames} frames; add longer videos, or hold out fewer (--data.held-out)."
            )
        chosen = {one.path for one in sorted(candidates, key=_name_order)[:holdout]}
        parts = copy.copy(self), copy.copy(self)
        parts[0]._use([one for one in self.media if one.path not in chosen])
        parts[1]._use([one for one in self.media if one.path in chosen])
        return parts

    def fill_cache(self) -> None:
        """Decode what is not in the cache yet, with a progress bar; needs the `cache` folder."""
        assert self._cache is not None, "a ClipDataset without a cache has none to fill"
        for one in track(self.media, description="decoding videos"):
            try:
                self._cache.read(one.path)
            except VideoError as error:
                self._record(one, error)

    def read(
        self,
        sample_index: int,
        frames: int,
        size: tuple[int, int],
        scale: tuple[float, float],
        seed: int,
        frame_rate: float | None = None,
    ) -> Float[Tensor, "3 t h w"]:
        """Clip number `sample_index`: `frames` frames of `size` (height, width), RGB in [-1, 1].

        The video is drawn with a weight of its duration, at most 10 seconds, among those that are long
        enough; an image, which serves only `frames` = 1, weighs as much as one second. Start, mirroring,
        place and the scaling in `scale` (0.5: twice as many pixels are shrunk to `size`) are drawn uniformly;
        media that are too small are enlarged. Frames lie 1/`frame_rate` seconds apart, by default at
        the average rate of their video. A video that turns out to be damaged is recorded in `skipped`,
        counted in `failures` (both of the process that reads), and another one is drawn.

        All draws follow from (seed, sample_index). Raises ValueError when no video is long enough or
        all that were drawn are damaged.
        """
        assert frames >= 1 and min(size) >= 1, (frames, size)
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"The scale of clips must be two rising positive numbers, not {scale}.")
        for attempt in range(ATTEMPTS):
            generator = generator_for(seed, sample_index, attempt)
            draws = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
            one = self._choose(frames, frame_rate, draws[0])
            window = self._place(one, size, scale, draws[2:])
            try:
                images = self._images(one, _pick_frames(one, frames, frame_rate, draws[1]), window)
            except VideoError as error:
                self._record(one, error)
                continue
            return _finish(images, size, window.flip)
        reason = next(iter(self.skipped.values()))
        raise ValueError(f"{ATTEMPTS} videos were drawn and not one could be decoded: {reason}")

    def require(self, frames: int, frame_rate: float | None = None) -> None:
        """Raise ValueError unless some video has `frames` frames, at `frame_rate` or its own rate."""
        self._choose(frames, frame_rate, 0.0)

    def _choose(self, frames: int, frame_rate: float | None, draw: float) -> Media:
        if frame_rate is None:
            fits = self._counts >= frames
        else:
            fits = self._spans >= (frames - 1) / frame_rate - TIME_TOLERANCE
        if not fits.any():
            raise ValueError(
                f"No video is long enough for {frames} frames; the longest of {len(self.media)} has "
                f"{self._counts.max()}, so add longer videos or choose a lower ratio."
            )
        total = np.cumsum(np.where(fits, self._weights, 0.0))
        return self.media[int(np.searchsorted(total, draw * total[-1], side="right"))]

    def _place(
        self, one: Media, size: tuple[int, int], scale: tuple[float, float], draws: list[float]
    ) -> _Window:
        """The part of the stored frame that becomes the clip."""
        width, height = shrunk_size(one.width, one.height, self.short_side)
        factor = scale[0] + draws[1] * (scale[1] - scale[0])
        factor = max(factor, size[0] / height, size[1] / width)
        rows = min(height, max(1, round(size[0] / factor)))
        columns = min(width, max(1, round(size[1] / factor)))
        top, left = int(draws[2] * (height - rows + 1)), int(draws[3] * (width - columns + 1))
        return _Window(top, left, rows, columns, flip=draws[0] < 0.5)

    def _images(
        self, one: Media, times: Float64[np.ndarray, " t"], window: _Window
    ) -> UInt8[np.ndarray, "t h w 3"]:
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        if self._cache is None:
            with VideoReader(one.path, threads=1, short_side=self.short_side) as reader:
                return reader.read_at(times.tolist()).numpy()[:, rows, columns]
        stored, stored_times = self._cache.read(one.path)
        found = np.searchsorted(stored_times, times + TIME_TOLERANCE, side="right") - 1
        found = found.clip(min=0)
        if np.abs(stored_times[found] - times).max() > 1.5 / one.frame_rate:
            raise VideoError(f"{one.path} is damaged at {times[0]:.2f} seconds; copy or record it again.")
        return stored[found, rows, columns]

    def _record(self, one: Media, error: VideoError) -> None:
        if one.path not in self.skipped:  # said where it happens: a process that loads data has no other way
            print(f"regen: warning: {error} Another video is drawn instead.", file=sys.stderr)
        self.skipped[one.path] = str(error)
        self.failures[one.path] += 1


def _examine(path: Path) -> Media:
    with VideoReader(path, threads=1) as reader:
        times, info = reader.frame_times(), reader.info
    return Media(path, times, float(info.frame_rate), info.width, info.height, info.is_image)


def _name_order(one: Media) -> tuple[bytes, Path]:
    return hashlib.blake2b(one.path.name.encode(), digest_size=8).digest(), one.path


def _pick_frames(one: Media, frames: int, frame_rate: float | None, draw: float) -> Float64[np.ndarray, " t"]:
    """The times of the frames that are shown at evenly spaced moments, from a random frame on.

    The moments lie in the middle of a frame's time, so that at its own rate a video gives consecutive
    frames even where its time stamps are rounded.
    """
    moments = np.arange(frames) / (one.frame_rate if frame_rate is None else frame_rate)
    half = 0.5 / one.frame_rate
    starts = max(1, int(np.searchsorted(one.times, one.times[-1] - moments[-1] + half, side="right")))
    moments += one.times[int(draw * starts)] + half
    shown = np.searchsorted(one.times, moments, side="right") - 1
    return one.times[shown]


def _finish(
    images: UInt8[np.ndarray, "t h w 3"], size: tuple[int, int], flip: bool
) -> Float[Tensor, "3 t h2 w2"]:
    clip = rearrange(torch.from_numpy(np.ascontiguousarray(images)), "t h w c -> t c h w")
    if clip.shape[-2:] != size:  # 8-bit, colours last in memory: ten times as fast as in float
        clip = torch.nn.functional.interpolate(clip, size, mode="bicubic", antialias=True)
    clip = rearrange(clip.flip(-1) if flip else clip, "t c h w -> c t h w")
    return clip.contiguous().float() / 127.5 - 1
