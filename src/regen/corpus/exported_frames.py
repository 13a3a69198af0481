"""ExportedFrames: the frames of samples as an export saw them, read from any place."""

import math
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8

from regen.corpus.sources import Corpus, CorpusSample, FrameSpec, frames_of
from regen.data.frame_cache import FrameCache
from regen.media.files import Source, VideoError
from regen.media.reader import TIME_TOLERANCE, VideoReader, read_frames

MAX_TIMINGS = 10_000  # files whose frame times stay in memory


class Timing(NamedTuple):
    """The times of all frames of a file in seconds, the numbers of the exported ones, and their size."""

    times: Float64[np.ndarray, " t"]
    exported: Int64[np.ndarray, " n"]
    height: int
    width: int


class ExportedFrames:
    """Frames of a corpus at the frame rate, size and crop of `spec`, without decoding all before them.

    With the folder `cache` each file is decoded once; samples in shards need none. Holds no open file.
    """

    def __init__(self, corpus: Corpus, spec: FrameSpec, cache: Path | None) -> None:
        self.corpus, self.spec = corpus, spec
        self._cache = None if cache is None else FrameCache(cache, None)
        self._timings: dict[CorpusSample, Timing] = {}

    def fill_cache(self, sample: CorpusSample) -> None:
        """Decode the file of a sample, if it is new. Raises VideoError."""
        assert self._cache is not None, "frames without a cache have none to fill"
        source, _, _ = self.corpus.open(sample)
        if isinstance(source, Path):
            self._cache.read(source)

    def read(
        self, sample: CorpusSample, count: int, chosen: range, rows: slice, columns: slice
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """A crop of the `chosen` ones of the `count` frames of a sample that were exported.

        Raises VideoError when they can't be read, or are others.
        """
        source, _, _ = self.corpus.open(sample)
        times, exported, height, width = self._timing(sample, source)
        at = exported[chosen.start : chosen.stop]
        if len(exported) != count:  # where packets don't tell which frames a file has
            with VideoReader(source, threads=1) as reader:
                images = [*islice(frames_of(reader, self.spec), chosen.start, chosen.stop)]
            pixels = (
                torch.stack(images).numpy()[:, rows, columns] if images else np.empty((0, 0, 0, 3), np.uint8)
            )
        elif self.spec.size is None:
            across = _moved(rows, height % self.spec.multiple), _moved(columns, width % self.spec.multiple)
            pixels = self._pixels(source, times, at, *across)
        else:
            whole = torch.from_numpy(self._pixels(source, times, at))
            pixels = np.stack([self.spec.resize(image).numpy()[rows, columns] for image in whole])
        if pixels.shape[:3] != (len(chosen), rows.stop - rows.start, columns.stop - columns.start):
            raise VideoError(f"{source} has other frames than were exported; export it again.")
        return pixels

    def _pixels(
        self,
        source: Source,
        times: Float64[np.ndarray, " t"],
        at: Int64[np.ndarray, " n"],
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> UInt8[np.ndarray, "n h w 3"]:
        if self._cache is None or not isinstance(source, Path):
            return read_frames(source, times[at].tolist(), None, rows, columns)
        return self._cache.read(source)[0][at, rows, columns]

    def _timing(self, sample: CorpusSample, source: Source) -> Timing:
        if sample not in self._timings:
            if len(self._timings) >= MAX_TIMINGS:
                del self._timings[next(iter(self._timings))]
            with VideoReader(source, threads=1) as reader:
                info = reader.info
                if self._cache is not None and isinstance(source, Path):
                    times = self._cache.read(source)[1]
                else:
                    times = reader.frame_times()
            numbers = np.arange(len(times))
            if self.spec.fps is not None and not info.is_image:
                # As `sources.at_rate` shows them, in the same arithmetic.
                half, rate = 0.5 / float(info.frame_rate), self.spec.fps
                count = math.ceil((times[-1] + 2 * half - TIME_TOLERANCE) * rate)
                middles = [number / rate + half + TIME_TOLERANCE for number in range(count)]
                numbers = (np.searchsorted(times, middles, side="right") - 1).clip(min=0)
            self._timings[sample] = Timing(times, numbers[: self.spec.frames], info.height, info.width)
        return self._timings[sample]


def _moved(part: slice, more: int) -> slice:
    """A part of the centre of a side that has `more` pixels than that."""
    return slice(part.start + more // 2, part.stop + more // 2)
