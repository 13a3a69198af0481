"""Videos and images encoded again: smaller, with more key frames, or cut into their shots."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from regen.curate.analysis import open_facts
from regen.curate.workers import Extend, JobError
from regen.data.shards import SampleFacts
from regen.media.files import Frame, VideoError
from regen.media.reader import VideoReader
from regen.media.writer import VideoWriter

PATIENCE = 1.5  # seconds of work for each frame, beyond the time limit


@dataclass(frozen=True)
class Part:
    """Frames `first` to before `end` of a file, and the file that they become. `name` is for the index."""

    first: int
    end: int
    target: Path
    name: str


@dataclass(frozen=True)
class Encoding:
    """A file to be decoded once, from which all `parts`, in their order, are encoded.

    `short_side` None leaves the size; `key_every` is the number of frames from one key frame to the next.
    """

    path: Path
    parts: tuple[Part, ...]
    short_side: int | None
    key_every: int


def encode(job: Encoding, extend: Extend) -> tuple[SampleFacts, ...]:
    """Write the parts that are not there yet, each whole or absent; returns the facts of all.

    Sound is left out. Raises VideoError or JobError when the file can't be read any more, JobError with the
    reason "disk" when a part can't be written.
    """
    missing = [part for part in job.parts if not part.target.exists()]
    if missing:
        extend(PATIENCE * sum(part.end - part.first for part in missing))
        with VideoReader(job.path, threads=1, short_side=job.short_side) as reader:
            try:
                _write_parts(reader, missing, job.key_every)
            except VideoError as error:  # of the writer; the reader's are JobErrors by now
                raise JobError("disk", str(error)) from None
    return tuple(open_facts(part.target, part.name) for part in job.parts)


def _write_parts(reader: VideoReader, parts: list[Part], key_every: int) -> None:
    frames = _numbered(reader)
    for part in parts:
        number, frame = next(item for item in frames if item[0] == part.first)
        start, image = frame.time, even(frame.image)
        height, width = image.shape[:2]
        with VideoWriter(part.target, width, height, reader.info.frame_rate, key_every=key_every) as writer:
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
