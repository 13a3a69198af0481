"""Reader of video and image files as 8-bit RGB frames."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType

import av
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from regen.media.decoding import Decoder
from regen.media.files import (
    Frame,
    Source,
    VideoError,
    VideoInfo,
    is_image,
    read_image,
    shrunk_size,
)
from regen.media.pixels import RgbConverter, apply_display_matrix, display_matrix
from regen.media.seeking import TIME_TOLERANCE, Seeker
from regen.media.writer import VideoWriter

__all__ = ["TIME_TOLERANCE", "Frame", "VideoError", "VideoInfo", "VideoReader", "VideoWriter"]


ALL = slice(None)


class VideoReader:
    """Reads one video, or one image as a video of one frame.

    Frames are upright (display matrix, EXIF), converted with the tagged colour matrix and range (without a
    tag BT.709 from 720 lines on and BT.601 below), alpha over black. High dynamic range is not tone-mapped.
    With `short_side` frames are shrunk to a short side of at most that many pixels; `info` has the size in
    the file. `threads` 0 means one per core. Times are in seconds after the first frame.

    Raises VideoError when not a single frame can be read.
    """

    def __init__(self, path: Source, threads: int = 0, short_side: int | None = None) -> None:
        self.path = path
        self.damage: str | None = None
        self._threads = threads
        self._seeker: Seeker | None = None
        self._still: Tensor | None = None
        if is_image(path):
            self._still, self.info = read_image(path, short_side)
        else:
            self._seeker = Seeker(path, threads)
            self.info = self._probe(self._seeker, short_side)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; only `info` can be used afterwards."""
        if self._seeker is not None:
            self._seeker.close()

    def __iter__(self) -> Iterator[Frame]:
        """All frames in display order; afterwards `damage` describes what could not be read, or is None.

        Each iteration opens the file anew; memory does not grow with the length.
        """
        self.damage = None
        if self._seeker is None:
            assert self._still is not None
            yield Frame(self._still, 0.0)
            return
        with Decoder(self.path, self._threads) as decoder:
            for frame, time in self._seeker.with_times(decoder.decode()):
                yield Frame(self._convert(frame), time)
            self.damage = decoder.damage_report(self.info.frame_rate)

    def read_at(self, times: Sequence[float]) -> UInt8[Tensor, "t h w 3"]:
        """The frames shown at `times` (seconds after the first frame, in any order).

        That is the last frame that starts no more than a millisecond after a time, or else the first one.
        Raises VideoError when such a frame can't be decoded.
        """
        assert len(times) > 0
        if self._seeker is None:
            assert self._still is not None
            return torch.stack([self._still] * len(times))
        order = sorted(range(len(times)), key=lambda index: times[index])
        frames = self._seeker.frames_shown_at([times[index] for index in order])
        images = _stacked(frames, len(times), self._convert, ALL, ALL)
        return torch.from_numpy(images if order == sorted(order) else images[np.argsort(order)])

    def frame_times(self) -> Float64[np.ndarray, " t"]:
        """The time of every frame in seconds, rising, from packets without decoding."""
        if self._seeker is None:
            return np.zeros(1)
        with Decoder(self.path, self._threads) as decoder:
            packets = (packet for packet in decoder.demux() if packet.size and not packet.is_discard)
            ticks = [packet.pts for packet in packets]
        known = np.array([tick for tick in ticks if tick is not None], dtype=np.float64)
        if len(known) == len(ticks):
            return np.unique((known - self._seeker.start) * float(self._seeker.time_base))
        return np.arange(len(ticks)) / float(self.info.frame_rate)

    def _probe(self, seeker: Seeker, short_side: int | None) -> VideoInfo:
        """Decode the first frame, which has the size and the rotation."""
        first = seeker.decode_first()
        stream, container = seeker.decoder.stream, seeker.decoder.container
        self._convert = _converter(first, short_side, self._threads)
        shown = apply_display_matrix(np.empty((first.height, first.width, 0), np.uint8), self._convert.matrix)
        seconds = stream.duration and float(stream.duration * seeker.time_base)
        return VideoInfo(
            width=shown.shape[1],
            height=shown.shape[0],
            frame_rate=seeker.frame_rate,
            frames=stream.frames or None,
            duration=seconds or (container.duration and container.duration / av.time_base),
            has_audio=bool(container.streams.audio),
            is_image=False,
        )


def read_frames(
    path: Source,
    times: Sequence[float],
    short_side: int | None = None,
    rows: slice = ALL,
    columns: slice = ALL,
) -> UInt8[np.ndarray, "t h w 3"]:
    """A crop of the frames that begin at the rising `times`: the pixels of `VideoReader.read_at`, faster.

    Uses one thread and decodes no frame that is not referenced. Raises VideoError.
    """
    if is_image(path):
        image, _ = read_image(path, short_side)
        return np.stack([image.numpy()[rows, columns]] * len(times))
    with Seeker(path, 1) as seeker:
        seeker.locate_first()
        frames = seeker.frames_starting_at(times) or list(seeker.frames_shown_at(times))
        return _stacked(frames, len(times), _converter(frames[0], short_side, 1), rows, columns)


def _converter(frame: av.VideoFrame, short_side: int | None, threads: int) -> RgbConverter:
    size = shrunk_size(frame.width, frame.height, short_side)
    return RgbConverter(*size, display_matrix(frame), threads)


def _stacked(
    frames: Iterable[av.VideoFrame], count: int, convert: RgbConverter, rows: slice, columns: slice
) -> UInt8[np.ndarray, "{count} h w 3"]:
    """A crop of `count` frames in RGB; repeated frames are converted once."""
    last, images = None, np.empty((count, 0, 0, 3), np.uint8)
    for index, frame in enumerate(frames):
        if frame is last:
            images[index] = images[index - 1]
            continue
        last, channels = frame, [channel[rows, columns] for channel in convert.channels(frame)]
        if not index:
            images = np.empty((count, *channels[0].shape, 3), np.uint8)
        for number, channel in enumerate(channels):
            images[index, ..., number] = channel
    return images
