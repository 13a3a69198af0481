"""Read video and image files, whatever their size, rate, rotation or pixel format, as 8-bit RGB frames."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from regen.data.decoding import Decoder, time_base
from regen.data.media import Frame, VideoError, VideoInfo, find_media, is_image, read_image, shrunk_size
from regen.data.pixels import RgbConverter, display_matrix, upright
from regen.data.writer import VideoWriter

__all__ = ["Frame", "VideoError", "VideoInfo", "VideoReader", "VideoWriter", "find_media"]

TIME_TOLERANCE = 1e-3  # seconds; Matroska rounds its times to milliseconds
SEEK_AHEAD = 2.0  # seconds; a longer gap is jumped over, a shorter one decoded
SEEK_BACK = (0.0, 2.0, 10.0)  # seconds; tried in turn when a seek lands behind its aim

TimedFrame = tuple[av.VideoFrame, float]


class VideoReader:
    """Reads one video, or one image as a video of one frame.

    Frames come upright (display matrix, EXIF), converted with the tagged colour matrix and range (without
    a tag BT.709 from 720 lines on and BT.601 below), alpha over black. High dynamic range is not tone-mapped.
    With `short_side` frames are shrunk while they are converted, so that the short side is at most that
    many pixels; `info` tells the size in the file. `threads` is the number of threads, 0 for one per core.
    Every time is in seconds after the first frame.

    Raises VideoError, one sentence that names the file, when not a single frame can be read.
    """

    def __init__(self, path: Path, threads: int = 0, short_side: int | None = None) -> None:
        self.path = path
        self.damage: str | None = None
        self._threads = threads
        self._decoder: Decoder | None = None
        self._still: Tensor | None = None
        if is_image(path):
            self._still, self.info = read_image(path, short_side)
        else:
            self._decoder = Decoder(path, threads)
            self.info = self._probe(self._decoder, short_side)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; only `info` can be used afterwards."""
        if self._decoder is not None:
            self._decoder.container.close()

    def __iter__(self) -> Iterator[Frame]:
        """All frames in display order; afterwards `damage` says in words what could not be read, or None.

        Each iteration opens the file anew and starts at the first frame; memory does not grow with length.
        """
        self.damage = None
        if self._still is not None:
            yield Frame(self._still, 0.0)
            return
        with Decoder(self.path, self._threads) as decoder:
            for frame, time in self._timed(decoder.decode()):
                yield Frame(self._convert(frame), time)
            self.damage = decoder.damage(self.info.frame_rate)

    def read_at(self, times: Sequence[float]) -> UInt8[Tensor, "t h w 3"]:
        """The frames shown at `times` (seconds after the first frame, in any order).

        The frame shown at a time is the last one that starts no more than a millisecond after it; before
        the first frame it is the first, after the end the last. Raises VideoError when a frame that is
        needed can't be decoded.
        """
        assert len(times) > 0
        if self._still is not None:
            return torch.stack([self._still] * len(times))
        order = sorted(range(len(times)), key=lambda index: times[index])
        frames = dict(zip(order, self._shown_at([times[index] for index in order]), strict=True))
        return torch.stack([frames[index] for index in range(len(times))])

    def frame_times(self) -> Float64[np.ndarray, " t"]:
        """The time of every frame, in seconds, rising, read from the packets without decoding."""
        if self._still is not None:
            return np.zeros(1)
        with Decoder(self.path, self._threads) as decoder:
            packets = (packet for packet in decoder.demux() if packet.size and not packet.is_discard)
            ticks = [packet.pts for packet in packets]
        known = np.array([tick for tick in ticks if tick is not None], dtype=np.float64)
        if len(known) == len(ticks):
            return np.unique((known - self._start) * float(self._time_base))
        return np.arange(len(ticks)) / float(self.info.frame_rate)

    def _probe(self, decoder: Decoder, short_side: int | None) -> VideoInfo:
        """Decode the first frame, which alone tells size and rotation, and whether anything can be read."""
        first = next(decoder.decode(), None)
        if first is None:
            self.close()
            raise VideoError(f"Not a single frame of {self.path} can be decoded; it is empty or damaged.")
        stream, container = decoder.stream, decoder.container
        self._time_base = time_base(stream)
        start = stream.start_time if decoder.errors else None  # the first frames may be lost
        self._start = (first.pts if start is None else start) or 0
        # AVI has no presentation times; where frames are reordered, what FFmpeg makes up is wrong.
        self._untimed = container.format.name == "avi" and stream.codec_context.has_b_frames
        size = shrunk_size(first.width, first.height, short_side)
        self._convert = RgbConverter(*size, display_matrix(first), self._threads)
        shown = upright(np.empty((first.height, first.width, 0), np.uint8), self._convert.matrix)
        seconds = stream.duration and float(stream.duration * self._time_base)
        return VideoInfo(
            width=shown.shape[1],
            height=shown.shape[0],
            frame_rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            frames=stream.frames or None,
            duration=seconds or (container.duration and container.duration / av.time_base),
            has_audio=bool(container.streams.audio),
            is_image=False,
        )

    def _timed(self, frames: Iterator[av.VideoFrame]) -> Iterator[TimedFrame]:
        """Each frame with its time; where the file gives none, one frame's duration after the last."""
        step = float(1 / self.info.frame_rate)
        time = -step
        for frame in frames:
            if self._untimed or frame.pts is None:
                time += step
            else:
                time = float((frame.pts - self._start) * self._time_base)
            yield frame, time

    def _shown_at(self, times: list[float]) -> list[UInt8[Tensor, "h w 3"]]:
        """The frames shown at the sorted `times`; a frame that is asked for twice is converted once."""
        images: list[Tensor] = []
        shown = converted = following = None
        frames: Iterator[TimedFrame] = iter(())
        for time in times:
            if shown is None or time - shown[1] > SEEK_AHEAD:
                frames = self._from(time)
                shown, following = next(frames), next(frames, None)
            while following is not None and following[1] <= time + TIME_TOLERANCE:
                shown, following = following, next(frames, None)
            self._require_sound(time, shown[1], following is None)
            if shown[0] is not converted:
                converted, image = shown[0], self._convert(shown[0])
            images.append(image)
        return images

    def _from(self, time: float) -> Iterator[TimedFrame]:
        """Frames in display order from one that is shown at `time` or before; from the first if need be."""
        assert self._decoder is not None
        for back in SEEK_BACK:
            ticks = self._start + int((time - back) / self._time_base)
            if self._untimed or time - back <= 0 or not self._decoder.seek(ticks):
                break
            frames = self._timed(self._decoder.decode_soundly(after_seek=True))
            first = next(frames, None)
            if first is not None and first[0].pts is not None and first[1] <= time + TIME_TOLERANCE:
                return chain([first], frames)
        self.close()
        self._decoder = Decoder(self.path, self._threads)
        frames = self._timed(self._decoder.decode_soundly(after_seek=False))
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{self.path} is damaged; not a single frame can be decoded any more.")
        return chain([first], frames)

    def _require_sound(self, time: float, start: float, is_last: bool) -> None:
        """Raises VideoError when damage hides the frame at `time` and the nearest one begins at `start`."""
        assert self._decoder is not None
        late = is_last and time - start > float(1 / self.info.frame_rate) + TIME_TOLERANCE
        if self._decoder.errors and (late or time < start - TIME_TOLERANCE):
            raise VideoError(f"{self.path} is damaged at {time:.2f} seconds; copy or record it again.")
