"""Random training clips, a function of (seed, sample index) alone."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Num, UInt8
from torch import Tensor

from regen.console import progress_bar
from regen.data.catalog import Catalog, FolderCatalog, open_collection
from regen.data.draws import ATTEMPTS, WeightedDraws, first_readable, held_out
from regen.data.failures import Failures
from regen.data.frame_cache import FrameCache
from regen.media.files import Blob, VideoError, shrunk_size
from regen.media.pixels import uint8_to_signed
from regen.media.reader import TIME_TOLERANCE, read_frames
from regen.runtime import generator_for


@dataclass(frozen=True)
class ClipSpec:
    """A clip of `frames` frames of `size` (height, width), 1 / `frame_rate` seconds apart.

    Without a rate the frames are consecutive. The picture is scaled by a factor drawn between the two of
    `scale` (0.5: twice the height and width are shrunk to `size`); None: the largest crop of its aspect
    ratio, so that the whole picture is seen. With `aspect_ratios` (width / height) only
    media qualify whose own is nearest, by its logarithm, to number `bucket` of them.
    """

    frames: int
    size: tuple[int, int]
    scale: tuple[float, float] | None = (1.0, 1.0)
    frame_rate: float | None = None
    aspect_ratios: tuple[float, ...] = ()
    bucket: int = 0

    def __post_init__(self) -> None:
        assert self.frames >= 1 and min(self.size) >= 1, (self.frames, self.size)
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"The scale of clips must be two rising positive numbers, got {self.scale}.")

    def is_nearest(
        self, height: Num[np.ndarray, " sample"], width: Num[np.ndarray, " sample"]
    ) -> Bool[np.ndarray, " sample"]:
        """Which pictures are of the bucket; all without aspect ratios."""
        if not self.aspect_ratios:
            return np.ones(len(height), dtype=bool)
        distances = [np.abs(np.log(width / height) - np.log(ratio)) for ratio in self.aspect_ratios]
        return np.argmin(distances, axis=0) == self.bucket


@dataclass(frozen=True)
class ClipDraw:
    """The random choices for a clip: the sample's number, the others uniform in [0, 1)."""

    number: int
    start: float
    mirror: float
    scale: float
    top: float
    left: float


@dataclass(frozen=True)
class ClipSample:
    """A clip in 8 bits of sample `number` of the collection.

    `replaced`: the number of failed draws before it for each of `failures.KINDS`. `latents`: its latents,
    where they were exported; the first of them is latent frame `begin` of its chunk.
    """

    video: UInt8[Tensor, "3 t h w"]
    number: int
    replaced: tuple[int, int, int]
    latents: Float[Tensor, "c n y x"] | None = None
    begin: int = 0


class ClipDataset:
    """Random clips of the videos and images in `paths`: files, folders of files, and shard sets.

    Each file is opened once at the start; those that can't be read are left out and listed in `skipped` with
    the reason. Of shards only the index is read. With `short_side` frames are shrunk to a short side of at
    most that many pixels, to which the `scale` of a clip refers. With the folder `cache` each file is decoded
    once and its frames are kept there; samples in shards need no cache. Reading a sample takes at most
    `decode_timeout` seconds (see `failures.time_limit`). A dataset holds no open files and may be used in any
    number of processes.

    Raises ValueError when nothing is left.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        cache: Path | None = None,
        short_side: int | None = None,
        decode_timeout: float | None = 60.0,
    ) -> None:
        self.short_side, self.decode_timeout = short_side, decode_timeout
        self.failures = Failures()
        self.collection = open_collection(paths, decode_timeout)
        self.skipped = self.collection.skipped
        self._cache = None if cache is None else FrameCache(cache, short_side)
        self._select(np.arange(len(self.collection.columns)))

    def _select(self, numbers: np.ndarray) -> None:
        self._numbers = numbers  # of the samples in the collection
        self.columns = self.collection.columns.take(numbers)
        columns = self.columns
        self._draws = WeightedDraws(columns.frames, columns.frame_rate, columns.is_image)

    def __len__(self) -> int:
        return len(self._numbers)

    def fingerprint(self) -> str:
        """Depends on the file names, lengths and sizes of the media, not on their folders."""
        digest = hashlib.blake2b(digest_size=8)
        names = self.collection.file_names(self._numbers)
        columns = (self.columns.frames.tolist(), self.columns.width.tolist(), self.columns.height.tolist())
        for index, (name, frames, width, height) in enumerate(zip(names, *columns, strict=True)):
            digest.update(b"\n" * (index > 0) + name + f" {frames} {width}x{height}".encode())
        return digest.hexdigest()

    def split(self, num_val: int, frames: int = 1) -> tuple["ClipDataset", "ClipDataset"]:
        """(training, validation): `num_val` videos of at least `frames` frames, or images without any videos.

        The choice depends on the file names alone, so it hardly changes when files are added. Raises
        ValueError when there are too few.
        """
        videos = ~self.columns.is_image
        fits = (videos if videos.any() else ~videos) & (self.columns.frames >= frames)
        candidates = np.flatnonzero(fits)
        if not 0 < num_val < len(self) or num_val > len(candidates):
            raise ValueError(
                f"{num_val} videos can't be held out of {len(self)} files, {len(candidates)} of which have "
                f"{frames} frames; add longer videos, or lower --data.num-val-videos."
            )
        names = self.collection.file_names(self._numbers[candidates])
        chosen = np.zeros(len(self), dtype=bool)
        chosen[held_out(names, candidates, num_val)] = True
        parts = copy.copy(self), copy.copy(self)
        parts[0]._select(self._numbers[~chosen])
        parts[1]._select(self._numbers[chosen])
        return parts

    def fill_cache(self) -> None:
        """Decode what is not in the cache yet, with a progress bar."""
        assert self._cache is not None, "a ClipDataset without a cache has none to fill"
        with progress_bar("decoding videos") as on_progress:
            for done, number in enumerate(self._numbers):
                on_progress(done, len(self))
                catalog, index = self.collection.find(int(number))
                if not isinstance(catalog, FolderCatalog):
                    continue
                name = catalog.name(index)
                try:
                    self._cache.read(Path(name))
                except VideoError as error:
                    self.failures.record(name, error)

    def read(
        self,
        sample_index: int,
        frames: int,
        size: tuple[int, int],
        scale: tuple[float, float],
        seed: int,
        frame_rate: float | None = None,
    ) -> Float[Tensor, "3 t h w"]:
        """The video of `sample`, RGB in [-1, 1]."""
        spec = ClipSpec(frames, size, scale, frame_rate)
        return uint8_to_signed(self.sample(sample_index, spec, seed).video)

    def sample(self, sample_index: int, spec: ClipSpec, seed: int) -> ClipSample:
        """Clip number `sample_index`, RGB in 0..255; a function of (seed, sample_index).

        Videos that are long enough are drawn with their duration, at most 10 seconds, as weight; images, for
        clips of one frame, weigh as much as one second. Start, mirroring, position and scale are uniform;
        media that are too small are enlarged. A video that is damaged, gone or too slow is recorded in
        `failures` (of the reading process), and another one is drawn. Raises ValueError when no video is long
        enough or all that were drawn failed.
        """

        def attempts() -> Iterator[tuple[str, int, Callable[[], UInt8[Tensor, "3 t h w"]]]]:
            for attempt in range(ATTEMPTS):
                draw = self.draw(sample_index, spec, seed, attempt)
                catalog, index = self.collection.find(draw.number)
                yield catalog.name(index), draw.number, partial(self._video, catalog, index, spec, draw)

        return ClipSample(*first_readable(attempts(), self.failures, self.decode_timeout))

    def draw(self, sample_index: int, spec: ClipSpec, seed: int, attempt: int = 0) -> ClipDraw:
        """The random choices for clip number `sample_index`; numbers are those of the collection."""
        generator = generator_for(seed, sample_index, attempt)
        which, *rest = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        return ClipDraw(int(self._numbers[self._choose(spec, which)]), *rest)

    def weight(self, spec: ClipSpec) -> float:
        """The sum of the weights of all media that qualify for `spec`."""
        return float(self._cumulative_weights(spec)[-1])

    def require_length(self, frames: int, frame_rate: float | None = None) -> None:
        """Raise ValueError unless some video has `frames` frames, at `frame_rate` or its own rate."""
        self._choose(ClipSpec(frames, (1, 1), frame_rate=frame_rate), 0.0)

    def _choose(self, spec: ClipSpec, draw: float) -> int:
        total = self._cumulative_weights(spec)
        if total[-1] == 0:
            raise ValueError(
                f"Clips need {spec.frames} frames, but the longest of {len(self)} videos has "
                f"{self.columns.frames.max()}; add longer videos or choose a lower ratio."
            )
        return int(np.searchsorted(total, draw * total[-1], side="right"))

    def _cumulative_weights(self, spec: ClipSpec) -> Float64[np.ndarray, " sample"]:
        """The running sum of the weights of media that qualify."""
        kind = (spec.frames, spec.frame_rate, spec.aspect_ratios, spec.bucket)
        return self._draws.sums(kind, partial(self._fits, spec))

    def _fits(self, spec: ClipSpec) -> Bool[np.ndarray, " sample"]:
        if spec.frame_rate is None:
            fits = self.columns.frames >= spec.frames
        else:
            fits = self.columns.seconds >= (spec.frames - 1) / spec.frame_rate - TIME_TOLERANCE
        return fits & spec.is_nearest(self.columns.height, self.columns.width)

    def _video(
        self, catalog: Catalog, index: int, spec: ClipSpec, draw: ClipDraw
    ) -> UInt8[Tensor, "3 t h w"]:
        source = catalog.source(index)
        times = catalog.times(index, source)
        rate = float(catalog.columns.frame_rate[index])
        shown = pick_frame_times(times, rate, spec, draw)
        width, height = int(catalog.columns.width[index]), int(catalog.columns.height[index])
        width, height = shrunk_size(width, height, self.short_side)
        rows, columns = crop_window(height, width, spec, draw)
        if self._cache is None or isinstance(source, Blob):
            images = read_frames(source, shown.tolist(), self.short_side, rows, columns)
        else:
            stored, stored_times = self._cache.read(source)
            found = (np.searchsorted(stored_times, shown + TIME_TOLERANCE, side="right") - 1).clip(min=0)
            if np.abs(stored_times[found] - shown).max() > 1.5 / rate:
                raise VideoError(f"{source} is damaged at {shown[0]:.2f} seconds; copy or record it again.")
            images = stored[found, rows, columns]
        if images.shape[1:3] != (rows.stop - rows.start, columns.stop - columns.start):
            raise VideoError(f"{source} has shrunk since the start; restart the training.")
        return resize(images, spec.size, mirrored=draw.mirror < 0.5)


def pick_frame_times(
    times: Float64[np.ndarray, " all"], own_rate: float, spec: ClipSpec, draw: ClipDraw
) -> Float64[np.ndarray, " t"]:
    """The times of the frames that are shown at evenly spaced times, from a random frame on.

    These lie in the middle of a frame's duration, so that at its own rate a video gives consecutive frames
    even where its time stamps are rounded.
    """
    shown_at = np.arange(spec.frames) / (own_rate if spec.frame_rate is None else spec.frame_rate)
    half = 0.5 / own_rate
    starts = max(1, int(np.searchsorted(times, times[-1] - shown_at[-1] + half, side="right")))
    shown_at += times[int(draw.start * starts)] + half
    return times[np.searchsorted(times, shown_at, side="right") - 1]


def crop_window(height: int, width: int, spec: ClipSpec, draw: ClipDraw) -> tuple[slice, slice]:
    """The rows and columns that are kept of a frame of `height` x `width`."""
    low, high = spec.scale or (0.0, 0.0)
    factor = max(low + draw.scale * (high - low), spec.size[0] / height, spec.size[1] / width)
    rows = min(height, max(1, round(spec.size[0] / factor)))
    columns = min(width, max(1, round(spec.size[1] / factor)))
    top, left = int(draw.top * (height - rows + 1)), int(draw.left * (width - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)


def resize(
    images: UInt8[np.ndarray, "t h w 3"], size: tuple[int, int], mirrored: bool
) -> UInt8[Tensor, "3 t h2 w2"]:
    """Resize to `size` (antialiased bicubic), and mirror."""
    clip = rearrange(torch.from_numpy(images), "t h w c -> t c h w")
    if clip.shape[-2:] != size:  # 8-bit, colours last in memory: ten times as fast as in float
        clip = torch.nn.functional.interpolate(clip, size, mode="bicubic", antialias=True)
    return rearrange(clip.flip(-1) if mirrored else clip, "t c h w -> c t h w").contiguous()
