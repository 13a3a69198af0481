"""One file looked at: what is known of it, its shots, and what is measured on each of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from regen.curate.filters import Filters, Measurements
from regen.curate.frame_stats import ANALYSIS_SIDE, CutFinder, FrameStats, Hasher
from regen.curate.sources import SourceFile, read_sidecars
from regen.curate.workers import ExtendDeadline, Failure, JobError
from regen.data.shards import SampleInfo
from regen.media.reader import VideoReader

SECONDS_PER_FRAME = 0.15  # seconds of work for each frame, beyond the time limit
MIN_BYTES_PER_SECOND = 1e7  # bytes that are read in a second, at least
TIME_TOLERANCE = 5e-4  # seconds that a frame may be off its place at a constant rate


@dataclass(frozen=True)
class Shot:
    """Frames `first` to before `end` of a file, by their numbers, and what was measured on them.

    `start` and `seconds` are times: of its first frame, and from there to its end. `prints` are three
    perceptual hashes in hexadecimal digits, or none.
    """

    first: int
    end: int
    start: float
    seconds: float
    motion: float | None
    bars: float
    hashes: tuple[str, ...]

    @property
    def middle(self) -> float:
        """A moment to look at, in seconds."""
        return self.start + self.seconds / 2


@dataclass(frozen=True)
class Analysis:
    """What a look at a file gave.

    `shots` is the file as a whole, or each of its shots when it is to be split; `cuts` are the times of the
    cuts in seconds. With a `failure` the rest is empty.
    """

    key: str
    stamp: str
    bytes: int
    info: SampleInfo | None
    cuts: tuple[float, ...]
    shots: tuple[Shot, ...]
    failure: Failure | None = None

    def measurements(self, shot: Shot) -> Measurements:
        """What the filters want to know of one shot."""
        facts = self.info
        assert facts is not None
        return Measurements(
            frames=shot.end - shot.first,
            seconds=shot.seconds,
            width=facts.width,
            height=facts.height,
            is_image=facts.is_image,
            cuts=self.cuts,
            motion=shot.motion,
            bars=shot.bars,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Analysis":
        facts, failure = row["facts"], row["failure"]
        shots = [Shot(**(shot | {"prints": tuple(shot["prints"])})) for shot in row["shots"]]
        changed = {
            "facts": None if facts is None else SampleInfo(**facts),
            "cuts": tuple(row["cuts"]),
            "shots": tuple(shots),
            "failure": None if failure is None else Failure(**failure),
        }
        return cls(**(row | changed))


def failed(source: SourceFile, failure: Failure) -> Analysis:
    """What is known of a file that could not be looked at."""
    return Analysis(source.key, source.stamp, 0, None, (), (), failure)


def make_analyse(filters: Filters) -> "partial[Analysis]":
    """The work of a process: `analyse` with what the filters need."""
    return partial(
        analyse,
        cut_threshold=None if filters.cuts == "keep" else filters.cut_threshold,
        split=filters.cuts == "split",
        hashes=filters.duplicates == "drop",
    )


def analyse(
    source: SourceFile, extend: ExtendDeadline, *, cut_threshold: float | None, split: bool, hashes: bool
) -> Analysis:
    """Decode all of a file and measure it. Cuts are looked for when there is a `cut_threshold`.

    Raises VideoError when it can't be read, JobError when it can be read in part or has wrong sidecars.
    """
    size = source.path.stat().st_size
    extend(size / MIN_BYTES_PER_SECOND)
    caption, label = read_sidecars(source.path)
    finder = None if cut_threshold is None else CutFinder(cut_threshold)
    look = FrameStats(Hasher() if hashes else None)
    with VideoReader(source.path, threads=1, short_side=ANALYSIS_SIDE) as reader:
        facts = sample_info(reader, source.key + source.suffix, caption, label)
        extend(SECONDS_PER_FRAME * facts.frames)
        times: list[float] = []
        for frame in reader:
            image = frame.image.numpy()
            if finder is not None and not facts.is_image:
                finder.add(image)
            look.add(len(times), frame.time, image)
            times.append(frame.time)
        if reader.damage is not None:
            raise JobError("damaged", reader.damage)
    if len(times) != facts.frames:  # then frames are found by their times only
        facts = SampleInfo(**(asdict(facts) | {"is_regular": False}))
    cuts = finder.cuts if finder is not None else []
    bounds = [0, *cuts, len(times)] if split else [0, len(times)]
    shots = [_shot(look, times, first, end, facts.frame_rate) for first, end in pairwise(bounds)]
    return Analysis(
        source.key, source.stamp, size, facts, tuple(round(times[cut], 4) for cut in cuts), tuple(shots)
    )


def _shot(look: FrameStats, times: Sequence[float], first: int, end: int, rate: float) -> Shot:
    stop = times[end] if end < len(times) else times[-1] + 1 / rate
    motion = look.motion(first, end)
    return Shot(
        first=first,
        end=end,
        start=times[first],
        seconds=stop - times[first],
        motion=None if motion is None else round(motion, 4),
        bars=round(look.bars(first, end), 4),
        hashes=tuple(look.hashes(first, end)),
    )


def sample_info(reader: VideoReader, name: str, caption: str = "", label: int = -1) -> SampleInfo:
    """What the index of shards tells of a file, with the size of its upright frames; it is not decoded."""
    times, info = reader.frame_times(), reader.info
    rate = float(info.frame_rate)
    span = float(times[-1] - times[0])
    measured = (len(times) - 1) / span if span > 0 else rate  # where a file declares a wrong rate
    is_regular = _is_regular(times, rate)
    if not is_regular and _is_regular(times, measured):
        rate, is_regular = measured, True
    return SampleInfo(
        name=name,
        frames=len(times),
        frame_rate=rate,
        seconds=span,
        width=info.width,
        height=info.height,
        is_image=info.is_image,
        is_regular=is_regular,
        caption=caption,
        label=label,
    )


def _is_regular(times: np.ndarray, rate: float) -> bool:
    return bool(np.abs(times - np.arange(len(times)) / rate).max() <= TIME_TOLERANCE)


def read_sample_info(path: Path, name: str) -> SampleInfo:
    """`sample_info` a file that is opened for it."""
    with VideoReader(path, threads=1) as reader:
        return sample_info(reader, name)
