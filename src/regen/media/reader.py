"""Reader of videos, images and folders of frames as 8-bit RGB frames."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import chain

import av
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from regen.media.decoding import Decoder, time_base
from regen.media.files import Frame, Source, VideoError, VideoInfo, shrunk_size
from regen.media.frame_folder import ImageFrames, is_frames
from regen.media.pixels import RgbConverter, apply_display_matrix, display_matrix
from regen.media.writer import VideoWriter

__all__ = ["TIME_TOLERANCE", "Frame", "VideoError", "VideoInfo", "VideoReader", "VideoWriter"]

TIME_TOLERANCE = 1e-3  # seconds; Matroska rounds its times to milliseconds
SEEK_AHEAD = 2.0  # seconds; over a longer gap it seeks, through a shorter one it decodes
SEEK_BACK = (0.0, 2.0, 10.0)  # seconds; tried in turn when a seek lands after its target
ALL = slice(None)

TimedFrame = tuple[av.VideoFrame, float]


class VideoReader:
    """Reads one video: a file, a folder of numbered images, or one image as a video of one frame.

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
        self._images: ImageFrames
        if is_frames(path):
            self._images = ImageFrames(path, short_side)
            self.info = self._images.info
        else:
            self._seeker = Seeker(path, threads)
            self.info = self._probe(self._seeker, short_side)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; only `info` can be used afterwards."""
        if self._seeker is not None:
            self._seeker.close()

    def __iter__(self) -> Iterator[Frame]:
        """All frames in display order; `damage` then says what could not be read. Opens the file anew."""
        self.damage = None
        if self._seeker is None:
            for number, time in enumerate(self._images.times().tolist()):
                yield Frame(self._images[number], time)
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
            shown = self._images.shown_at(times, TIME_TOLERANCE)
            stills = {number: self._images[number] for number in set(shown)}
            return torch.stack([stills[number] for number in shown])
        order = sorted(range(len(times)), key=lambda index: times[index])
        frames = self._seeker.frames_shown_at([times[index] for index in order])
        images = _stacked(frames, len(times), self._convert, ALL, ALL)
        return torch.from_numpy(images if order == sorted(order) else images[np.argsort(order)])

    def frame_times(self) -> Float64[np.ndarray, " t"]:
        """The time of every frame in seconds, rising, from packets without decoding."""
        if self._seeker is None:
            return self._images.times()
        with Decoder(self.path, self._threads) as decoder:
            packets = (packet for packet in decoder.demux() if packet.size and not packet.is_discard)
            ticks = [packet.pts for packet in packets]
        known = np.array([tick for tick in ticks if tick is not None], dtype=np.float64)
        if len(known) == len(ticks):
            return np.unique((known - self._seeker.start) * float(self._seeker.time_base))
        return np.arange(len(ticks)) / float(self.info.frame_rate)

    def _probe(self, seeker: "Seeker", short_side: int | None) -> VideoInfo:
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
    """The pixels of `VideoReader.read_at` in a crop, faster, at `times` of frames. Raises VideoError."""
    if is_frames(path):
        stills = ImageFrames(path, short_side)
        shown = stills.shown_at(times, TIME_TOLERANCE)
        return np.stack([stills[number].numpy()[rows, columns] for number in shown])
    with closing(Seeker(path, 1)) as seeker:
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


class Seeker:
    """The frames of a video by their times in seconds after the first one, with little decoding.

    Call `decode_first` or `locate_first` first. Raises VideoError when `path` can't be opened.
    """

    def __init__(self, path: Source, threads: int) -> None:
        self.path, self._threads = path, threads
        self.decoder = Decoder(path, threads)
        stream = self.decoder.stream
        self.frame_rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.time_base = time_base(stream)
        # AVI has no presentation times; where frames are reordered, those that FFmpeg guesses are wrong.
        reordered = stream.codec_context.has_b_frames
        self.is_untimed = self.decoder.container.format.name == "avi" and bool(reordered)
        self.start = 0  # of the first frame, in ticks
        self._opened: Iterator[av.VideoFrame] = iter(())

    def close(self) -> None:
        self.decoder.container.close()

    def decode_first(self) -> av.VideoFrame:
        """Decode the first frame. Raises VideoError when not a single one can be decoded."""
        frames = self.decoder.decode()
        first = next(frames, None)
        if first is None:
            self.close()
            raise VideoError(f"Not a single frame of {self.path} can be decoded; it is empty or damaged.")
        start = self.decoder.stream.start_time if self.decoder.errors else None  # the first may be lost
        self.start = (first.pts if start is None else start) or 0
        self._opened = self.decoder.until_damage(chain([first], frames), after_seek=False)
        return first

    def locate_first(self) -> None:
        """Find the time of the first frame, from packets where possible, else by decoding it."""
        start = self.decoder.first_pts()
        if start is None:
            self.close()
            self.decoder = Decoder(self.path, self._threads)
            self.decode_first()
        else:
            self.start, self._opened = start, _decode_from(self.decoder, start)

    def with_times(self, frames: Iterator[av.VideoFrame]) -> Iterator[TimedFrame]:
        """Each frame with its time; without one in the file, one frame duration after the last."""
        step = float(1 / self.frame_rate)
        time = -step
        up, down = self.time_base.numerator, self.time_base.denominator
        for frame in frames:
            if self.is_untimed or frame.pts is None:
                time += step
            else:
                time = (frame.pts - self.start) * up / down
            yield frame, time

    def frames_starting_at(self, times: Sequence[float]) -> list[av.VideoFrame]:
        """The frames that begin at the rising `times`; empty when one is missing or damaged."""
        if self.is_untimed or not self.decoder.seek(self._ticks(times[0] + TIME_TOLERANCE)):
            return []
        ticks = [self.start + round(time / self.time_base) for time in times]
        tolerance = round(TIME_TOLERANCE / self.time_base)
        found: list[av.VideoFrame] = []
        for frame in self.decoder.until_damage(self.decoder.decode_only(ticks, tolerance), after_seek=True):
            while len(found) < len(ticks) and abs(ticks[len(found)] - frame.pts) <= tolerance:
                found.append(frame)
            if len(found) == len(ticks):
                return found
        return []

    def frames_shown_at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """The frames at sorted `times`, one object per frame. Raises VideoError when one can't be decoded."""
        shown = following = None
        frames: Iterator[TimedFrame] = iter(())
        for time in times:
            if shown is None or time - shown[1] > SEEK_AHEAD:
                frames = self._frames_from(time)
                shown, following = next(frames), next(frames, None)
            while following is not None and following[1] <= time + TIME_TOLERANCE:
                shown, following = following, next(frames, None)
            late = following is None and time - shown[1] > float(1 / self.frame_rate) + TIME_TOLERANCE
            if self.decoder.errors and (late or time < shown[1] - TIME_TOLERANCE):
                raise VideoError(f"{self.path} is damaged at {time:.2f} seconds; copy or record it again.")
            yield shown[0]

    def _frames_from(self, time: float) -> Iterator[TimedFrame]:
        """Frames in display order, from one at or before `time`; from the first one if need be."""
        begun, self._opened = self.with_times(self._opened), iter(())
        if self.decoder.is_in_first_group(self._ticks(time)):
            first = next(begun, None)
            if first is not None:
                return chain([first], begun)
        for back in SEEK_BACK:
            if self.is_untimed or time - back <= 0 or not self.decoder.seek(self._ticks(time - back)):
                break
            frames = self.with_times(self.decoder.until_damage(self.decoder.decode(), after_seek=True))
            first = next(frames, None)
            if first is not None and first[0].pts is not None and first[1] <= time + TIME_TOLERANCE:
                return chain([first], frames)
        self.close()
        self.decoder = Decoder(self.path, self._threads)
        frames = self.with_times(self.decoder.until_damage(self.decoder.decode(), after_seek=False))
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{self.path} is damaged; not a single frame can be decoded any more.")
        return chain([first], frames)

    def _ticks(self, time: float) -> int:
        return self.start + int(time / self.time_base)


def _decode_from(decoder: Decoder, ticks: int) -> Iterator[av.VideoFrame]:
    """The frames from the key frame at `ticks` on. Not a method: a cycle would keep the Seeker alive."""
    if decoder.seek(ticks):
        yield from decoder.until_damage(decoder.decode(), after_seek=True)
