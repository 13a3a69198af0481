"""One video or image, decoded, as the chunks of frames that a model sees."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.corpus.sources import Corpus, Sample
from regen.media.files import Frame, MissingFileError, VideoError
from regen.media.prefetch import prefetch
from regen.media.reader import TIME_TOLERANCE, VideoReader
from regen.media.sizes import Size, resize_center_crop

Item = TypeVar("Item")
DEPTH = 2  # chunks of each video that are decoded before they are asked for


@dataclass(frozen=True)
class FrameView:
    """What of a video a model sees.

    Frames are fitted to `size` (see `data.sizes.fit`); without one their sides are cut down at the centre
    to multiples of `multiple`. `fps` frames a second, by default the video's own; of these the first
    `frames`, by default all; `chunk_frames` in a chunk.
    """

    size: Size | None
    fps: Fraction | None
    frames: int | None
    chunk_frames: int
    multiple: int


@dataclass(frozen=True)
class Chunk:
    """The next frames of a sample, `chunk_frames` or, at its end, what is left; and what is known of it."""

    frames: UInt8[np.ndarray, "t h w 3"]
    frame_rate: float
    source_height: int
    source_width: int
    caption: str
    label: int


@dataclass(frozen=True)
class Skipped:
    """Why a sample can't be embedded, in words; nothing comes after it."""

    reason: str


Decoded = Chunk | Skipped


def decoded(corpus: Corpus, sample: Sample, view: FrameView) -> Iterator[Decoded]:
    """The chunks of a sample as they get ready. Raises MissingFileError when its file can't be opened."""
    try:
        material = corpus.open(sample)
        with VideoReader(material.source, threads=1) as reader:
            info = reader.info
            fps = None if info.is_image else view.fps
            rate = info.frame_rate if fps is None else fps
            shown = images(reader) if fps is None else at_rate(reader, fps, info.frame_rate)
            known = float(rate), info.height, info.width, material.caption, material.label
            for frames in _chunks(islice(shown, view.frames), view):
                yield Chunk(frames, *known)
            if reader.damage is not None:
                yield Skipped(f"{reader.path}: {reader.damage}.")
    except MissingFileError:
        raise
    except VideoError as error:
        yield Skipped(str(error))


def decode_samples(
    corpus: Corpus, samples: Iterable[Sample], view: FrameView
) -> Iterator[tuple[int, Decoded]]:
    """The chunks of several samples, one sample after the other, each with the number of its sample."""
    for sample in samples:
        for piece in decoded(corpus, sample, view):
            yield sample.number, piece


def images(frames: Iterable[Frame]) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The pictures of `frames`."""
    return (frame.image for frame in frames)


def at_rate(frames: Iterable[Frame], rate: Fraction, own: Fraction) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames shown at evenly spaced moments, `rate` a second; `own` is the average rate of `frames`.

    The moments lie in the middle of a frame's time, as in training, and what is shown then is what
    `VideoReader.read_at` answers, so rounded time stamps do no harm.
    """
    half, count = 0.5 / float(own), 0
    shown: Frame | None = None
    for frame in frames:
        while shown is not None and count / rate + half + TIME_TOLERANCE < frame.time:
            yield shown.image
            count += 1
        shown = frame
    assert shown is not None
    while count / rate < shown.time + 2 * half - TIME_TOLERANCE:
        yield shown.image
        count += 1


@contextmanager
def prefetch_streams(streams: Iterable[Iterable[Item]], width: int) -> Iterator[Iterator[Iterator[Item]]]:
    """In the block: the items of each stream, stream by stream in their order.

    The one that is asked for and those after it, `width` in all, are iterated in threads at the same time,
    each up to `DEPTH` items ahead.
    """
    waiting = iter(streams)
    begun: deque[tuple[ExitStack, Iterator[Item]]] = deque()

    def begin() -> None:
        for stream in islice(waiting, width - len(begun)):
            threads = ExitStack()
            begun.append((threads, threads.enter_context(prefetch(stream, DEPTH))))

    def each() -> Iterator[Iterator[Item]]:
        begin()
        while begun:
            yield begun[0][1]
            begun.popleft()[0].close()
            begin()

    try:
        yield each()
    finally:
        for threads, _ in begun:
            threads.close()


def _chunks(
    frames: Iterable[UInt8[Tensor, "h w 3"]], view: FrameView
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Raises VideoError when the picture is too small, or changes its size on the way."""
    waiting: list[Tensor] = []
    shape: torch.Size | None = None
    for frame in frames:
        image = resize_center_crop(frame, view.size) if view.size else _cut(frame, view.multiple)
        shape = shape or image.shape
        if image.shape != shape:
            raise VideoError("The picture changes its size within the video; give one by --size HxW.")
        waiting.append(image)
        if len(waiting) == view.chunk_frames:
            yield torch.stack(waiting).numpy()
            waiting = []
    if waiting:
        yield torch.stack(waiting).numpy()


def _cut(frame: UInt8[Tensor, "h w 3"], multiple: int) -> UInt8[Tensor, "h2 w2 3"]:
    """The centre of a frame, its sides cut down to multiples of `multiple`."""
    height, width = (side // multiple * multiple for side in frame.shape[:2])
    if min(height, width) == 0:
        raise VideoError(
            f"The picture has {frame.shape[1]}x{frame.shape[0]} pixels; a latent has {multiple}x{multiple}."
        )
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
