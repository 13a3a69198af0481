"""Analysis of one file: shots, motion, black bars, perceptual hashes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from regen.console import first_line
from regen.curate.options import Filters
from regen.curate.sources import SourceFile, read_sidecars
from regen.data.shards import SampleInfo, sample_info
from regen.media.reader import VideoReader
from regen.workers import ExtendDeadline, Failure, JobError

SECONDS_PER_FRAME = 0.15  # of work, beyond the time limit
MIN_BYTES_PER_SECOND = 1e7  # slowest disk
ANALYSIS_SIDE = 64  # pixels of the short side of the frames that are measured
SAMPLE_INTERVAL = 0.25  # seconds between two frames that motion, bars and hashes are taken from
HASH_SIDE = 16  # bits along each side of a perceptual hash
HASH_POSITIONS = (1 / 6, 1 / 2, 5 / 6)  # where in a video its hashes are taken
NOISE = 2.0  # of 255 levels; key frames of still pictures differ by as much
BLACK_LEVEL = 24.0  # of 255 levels; brighter is not black, also where black is stored as 16
MAX_LIT_IN_BAR = 0.02  # share of a line that may be lit in a black bar
MIN_LIT_AT_EDGE = 0.5  # a picture begins at a line that is lit this far, relative to the line lit most
MAX_BAR_DIFFERENCE = 2  # small pixels by which two opposite bars may differ


@dataclass(frozen=True)
class Shot:
    """Frames `first` to before `end` of a file, and what was measured on them.

    `start` is the time of its first frame and `seconds` the time from there to its end, including the
    duration of the last frame. `motion` is None where there are too few frames, `bars` is the larger share of
    height or width, `hashes` are three perceptual hashes in hexadecimal digits, or empty.
    """

    first: int
    end: int
    start: float
    seconds: float
    motion: float | None
    bars: float
    hashes: tuple[str, ...]

    @property
    def frames(self) -> int:
        return self.end - self.first

    @property
    def middle(self) -> float:
        """Time of the middle, in seconds."""
        return self.start + self.seconds / 2


@dataclass(frozen=True)
class Analysis:
    """Result for one file.

    `shots` is the file as a whole, or each of its shots when it is to be split; `cuts` are the times of the
    cuts in seconds. With a `failure` the rest is empty.
    """

    key: str
    stamp: str
    bytes: int = 0
    info: SampleInfo | None = None
    cuts: tuple[float, ...] = ()
    shots: tuple[Shot, ...] = ()
    failure: Failure | None = None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Analysis":
        """The inverse of `dataclasses.asdict`, also after a detour through JSON."""
        info, failure = row["info"], row["failure"]
        changed = {
            "info": None if info is None else SampleInfo(**info),
            "cuts": tuple(row["cuts"]),
            "shots": tuple(Shot(**(shot | {"hashes": tuple(shot["hashes"])})) for shot in row["shots"]),
            "failure": None if failure is None else Failure(**failure),
        }
        return cls(**(row | changed))


def analyse(source: SourceFile, extend: ExtendDeadline, *, filters: Filters) -> Analysis:
    """Decode and measure a file. Raises VideoError, or JobError if only a part or a sidecar is damaged."""
    try:
        size = source.path.stat().st_size
    except OSError as error:
        raise JobError("damaged", f"it can't be opened ({first_line(error)})") from None
    extend(size / MIN_BYTES_PER_SECOND)
    caption, label = read_sidecars(source.path)
    cut_finder = None if filters.cuts == "keep" else CutFinder(filters.cut_threshold)
    stats = FrameStats(Hasher() if filters.duplicates == "drop" else None)
    with VideoReader(source.path, threads=1, short_side=ANALYSIS_SIDE) as reader:
        info = sample_info(reader, source.key + source.suffix, caption, label)
        extend(SECONDS_PER_FRAME * info.frames)
        times: list[float] = []
        for frame in reader:
            image = frame.image.numpy()
            if cut_finder is not None and not info.is_image:
                cut_finder.add(image)
            stats.add(len(times), frame.time, image)
            times.append(frame.time)
        if reader.damage is not None:
            raise JobError("damaged", reader.damage)
    if len(times) != info.frames:  # then frames are found by their times only
        info = replace(info, is_regular=False)
    cuts = cut_finder.cuts if cut_finder is not None else []
    bounds = [0, *cuts, len(times)] if filters.cuts == "split" else [0, len(times)]
    shots = [_shot(stats, times, first, end, info.frame_rate) for first, end in pairwise(bounds)]
    cut_times = tuple(round(times[cut], 4) for cut in cuts)
    return Analysis(source.key, source.stamp, size, info, cut_times, tuple(shots))


def _shot(stats: "FrameStats", times: Sequence[float], first: int, end: int, rate: float) -> Shot:
    stop = times[end] if end < len(times) else times[-1] + 1 / rate
    motion = stats.motion(first, end)
    return Shot(
        first=first,
        end=end,
        start=times[first],
        seconds=stop - times[first],
        motion=None if motion is None else round(motion, 4),
        bars=round(stats.bars(first, end), 4),
        hashes=tuple(stats.hashes(first, end)),
    )


def check_installed(filters: Filters) -> None:
    """Raises ValueError when a library that the filters need is not installed."""
    if filters.cuts != "keep":
        CutFinder(filters.cut_threshold)
    if filters.duplicates == "drop":
        Hasher()


class CutFinder:
    """Shot cuts by PySceneDetect's AdaptiveDetector, which a moving camera does not mislead.

    `add` every frame in turn; `cuts` are the numbers of the frames that begin a shot. Raises ValueError when
    PySceneDetect is not installed.
    """

    def __init__(self, threshold: float) -> None:
        try:
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ImportError as error:
            raise _missing("Detecting shot cuts", "PySceneDetect", error, "--cuts keep") from None
        self._timecode = FrameTimecode
        self._detector = AdaptiveDetector(adaptive_threshold=threshold, min_scene_len=1)
        self._frames = 0
        self.cuts: list[int] = []

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        # The detector counts frames; the rate only turns their numbers into times, which are not used.
        timecode = self._timecode(self._frames, fps=25.0)
        self.cuts += [cut.frame_num for cut in self._detector.process_frame(timecode, image[..., ::-1])]
        self._frames += 1


class Hasher:
    """Perceptual hashes by imagehash. Raises ValueError when it is not installed."""

    def __init__(self) -> None:
        try:
            from imagehash import phash
        except ImportError as error:
            raise _missing("Finding duplicates", "imagehash", error, "--duplicates keep") from None
        self._hash = phash

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> str:
        """256 bits of one picture, as hexadecimal digits."""
        bits = self._hash(Image.fromarray(image), hash_size=HASH_SIDE).hash
        return np.packbits(bits).tobytes().hex()


def _missing(action: str, library: str, error: ImportError, without: str) -> ValueError:
    return ValueError(
        f'{action} needs {library} ({error}); install it by pip install "regen[shards]", or use {without}.'
    )


class FrameStats:
    """Motion, bars and hashes from a frame every quarter of a second; memory grows by 0.5 kB for each."""

    def __init__(self, hasher: Hasher | None) -> None:
        self._hasher = hasher
        self._next = 0.0
        self._grey: np.ndarray | None = None
        self._frames: list[int] = []
        self._changes: list[float] = []  # from the frame before; the first has none
        self._rows: list[np.ndarray] = []
        self._columns: list[np.ndarray] = []
        self._hashes: list[str] = []

    def add(self, number: int, time: float, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Add the next frame of the video; most are skipped."""
        if time < self._next - 1e-3:
            return
        self._next = time + SAMPLE_INTERVAL
        grey = image.mean(-1, dtype=np.float32)
        change = 0.0 if self._grey is None else np.maximum(np.abs(grey - self._grey) - NOISE, 0).mean()
        self._changes.append(float(change))
        self._grey = grey
        lit = grey > BLACK_LEVEL
        self._rows.append(lit.mean(1, dtype=np.float32))
        self._columns.append(lit.mean(0, dtype=np.float32))
        self._hashes.append("" if self._hasher is None else self._hasher(image))
        self._frames.append(number)

    def motion(self, first: int, end: int) -> float | None:
        """Mean change beyond noise, in levels, of frames from `first` to before `end`; None below two."""
        a, b = np.searchsorted(self._frames, [first, end])
        return None if b - a < 2 else float(np.mean(self._changes[a + 1 : b]))

    def bars(self, first: int, end: int) -> float:
        """The part of the height or of the width, whichever is larger, that black bars take."""
        a, b = np.searchsorted(self._frames, [first, end])
        if a == b:
            return 0.0
        return max(bar_share(np.max(lines[a:b], axis=0)) for lines in (self._rows, self._columns))

    def hashes(self, first: int, end: int) -> list[str]:
        """Three hashes, or none without a hasher."""
        a, b = np.searchsorted(self._frames, [first, end])
        if self._hasher is None or a == b:
            return []
        return [self._hashes[a + round(part * (b - a - 1))] for part in HASH_POSITIONS]


def bar_share(lit: Float[np.ndarray, " n"]) -> float:
    """The part of a picture's lines in a pair of black bars, from the largest lit share of each line.

    Bars are equally thick and end sharply, so a dark room or a planet in the night sky has none.
    """
    bright = np.flatnonzero(lit > MAX_LIT_IN_BAR)
    if len(bright) == 0:
        return 0.0
    before, after = int(bright[0]), len(lit) - 1 - int(bright[-1])
    if not before or not after or abs(before - after) > MAX_BAR_DIFFERENCE:
        return 0.0
    # A line may be half bar, half picture; the next one must be picture.
    inner = min(before + 1, len(lit) - 1), max(len(lit) - after - 2, 0)
    if min(lit[list(inner)]) < MIN_LIT_AT_EDGE * lit.max():
        return 0.0
    return (before + after) / len(lit)
