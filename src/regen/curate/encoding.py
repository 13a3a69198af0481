"""Videos and images encoded again: smaller, with more key frames, or cut into their shots."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from regen.curate.analysis import read_sample_info
from regen.curate.workers import ExtendDeadline, JobError
from regen.data.shards import SampleInfo
from regen.media.files import Frame, VideoError
from regen.media.reader import VideoReader
from regen.media.writer import VideoWriter

SECONDS_PER_FRAME = 1.5  # seconds of work for each frame, beyond the time limit


@dataclass(frozen=True)
class Segment:
    """Frames `first` to before `end` of a file, and the file that they become. `name` is for the index."""

    first: int
    end: int
    target: Path
    name: str


@dataclass(frozen=True)
class EncodeJob:
    """A file to be decoded once, from which all `parts`, in their order, are encoded.

    `short_side` None leaves the size; `keyframe_interval` counts the frames between key frames.
    """

    path: Path
    segments: tuple[Segment, ...]
    short_side: int | None
    keyframe_interval: int


def encode(job: EncodeJob, extend: ExtendDeadline) -> tuple[SampleInfo, ...]:
    """Write the parts that are not there yet, each whole or absent; returns the facts of all.

    Sound is left out. Raises VideoError or JobError when the file can't be read any more, JobError with the
    reason "disk" when a part can't be written.
    """
    missing = [part for part in job.segments if not part.target.exists()]
    if missing:
        extend(SECONDS_PER_FRAME * sum(part.end - part.first for part in missing))
        with VideoReader(job.path, threads=1, short_side=job.short_side) as reader:
            try:
                _write_segments(reader, missing, job.keyframe_interval)
            except VideoError as error:  # of the writer; the reader's are JobErrors by now
                raise JobError("disk", str(error)) from None
    return tuple(read_sample_info(part.target, part.name) for part in job.segments)


def _write_segments(reader: VideoReader, parts: list[Segment], keyframe_interval: int) -> None:
    frames = _numbered(reader)
    for part in parts:
        number, frame = next(item for item in frames if item[0] == part.first)
        start, image = frame.time, even(frame.image)
        height, width = image.shape[:2]
        with VideoWriter(
            part.target, width, height, reader.info.frame_rate, keyframe_interval=keyframe_interval
        ) as writer:
            writer.write(image, 0.0)
            while number + 1 < part.end:
                number, frame = next(frames)
                writer.write(even(frame.image), frame.time - start)


def _numbered(reader: VideoReader) -> Iterator[tuple[int, Frame]]:
    try:
        yield from enumerate(reader)
    except VideoError as error:
        raise JobError("damaged", str(error)) from None


def even(image: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "h2 w2 3"]:
    """Without its last row or column where their number is odd: then colour can be stored at half size."""
    height, width = image.shape[:2]
    if height % 2 and height > 1:
        image = image[:-1]
    if width % 2 and width > 1:
        image = image[:, :-1]
    return image
