"""Write a video or an image file: complete under its name, or not there at all."""

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import av
import torch
from av.codec.context import Flags
from jaxtyping import UInt8
from torch import Tensor

from regen.console import first_line
from regen.media.decoding import READ_ERRORS
from regen.media.files import IMAGE_SUFFIXES, VideoError, is_image, write_image
from regen.media.pixels import YuvConverter
from regen.media.soundtrack import TICKS, Soundtrack

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "14"  # x264's constant rate factor: hardly visible losses
BT709, LIMITED = 1, 1  # FFmpeg's numbers for the colour tags


class VideoWriter:
    """Writes frames of `width` x `height` to a .mp4, .m4v, .mov or .mkv (H.264), or one frame to an image.

    Use it in a `with` block: the file gets its name at the end of the block; after an error or an
    interruption nothing is left. `frame_rate` (frames per second) times the frames that come without a
    time and the last one. The sound of `audio_from`, if it has any, is carried over; the first frame of that
    file is at `audio_delay` (seconds), which is 0 unless frames are written that come before it. With
    `keyframe_interval` the file is made for fast random access, with a key frame at least that often, and
    its bytes do not depend on the number of cores.

    Raises VideoError, one sentence that names the file: at the start for a suffix that is not supported, a
    size that is not positive, a delay below 0 or a place that can't be written; later when the disk is full.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        frame_rate: Fraction,
        audio_from: Path | None = None,
        audio_delay: Fraction = Fraction(0),
        keyframe_interval: int | None = None,
    ) -> None:
        suffix = path.suffix.lower()
        if suffix not in (*CONTAINERS, *IMAGE_SUFFIXES):
            known = ", ".join((*CONTAINERS, *IMAGE_SUFFIXES))
            raise VideoError(f"{path} can't be written; its name must end in one of {known}.")
        if width < 1 or height < 1:
            raise VideoError(f"{path} can't be written with {width}x{height} pixels; both must be positive.")
        if frame_rate <= 0:
            raise VideoError(
                f"{path} can't be written at {frame_rate} frames per second; use a positive rate."
            )
        if audio_delay < 0:
            raise VideoError(
                f"The sound of {path} can't start {-audio_delay} s early; use a delay from 0 on."
            )
        self.path, self.width, self.height = path, width, height
        self.frame_rate, self.audio_from, self.audio_delay = frame_rate, audio_from, audio_delay
        self.keyframe_interval = keyframe_interval
        self._temporary = path.with_name(f".{path.stem[:100]}.{uuid4().hex[:8]}{suffix}")
        self._file: _MovieFile | _ImageFile

    def __enter__(self) -> "VideoWriter":
        if self.path.is_dir():
            raise VideoError(f"{self.path} is a folder; give the name of a file in it.")
        try:
            with self._temporary.open("xb"):
                pass
        except OSError as error:
            raise self._failure(error) from None
        try:
            self._file = self._open()
        except BaseException:
            self._temporary.unlink()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, image: UInt8[Tensor, "h w 3"], time: float | None = None) -> None:
        """Append a frame, shown from `time` on (seconds; rising), or right after the last one."""
        assert image.shape[:2] == (self.height, self.width), (image.shape, self.height, self.width)
        try:
            self._file.write(image, time)
        except READ_ERRORS as error:
            raise self._failure(error) from None

    def _open(self) -> "_MovieFile | _ImageFile":
        if is_image(self.path):
            return _ImageFile(self._temporary, self.width, self.height)
        movie = _MovieFile(self._temporary, self.width, self.height, self.frame_rate, self.keyframe_interval)
        if self.audio_from is not None and not is_image(self.audio_from):
            movie.copy_audio(self.audio_from, self.audio_delay)
        return movie

    def _finish(self) -> None:
        if self._file.frames == 0:
            raise VideoError(f"{self.path} was not written, because there was no frame to write.")
        try:
            self._file.finish()
            os.replace(self._temporary, self.path)
        except READ_ERRORS as error:
            raise self._failure(error) from None

    def _failure(self, error: BaseException) -> VideoError:
        return VideoError(
            f"{self.path} can't be written ({first_line(error)}); check that its folder exists, is writable "
            "and has space left."
        )


class _ImageFile:
    """One frame, written at the end."""

    def __init__(self, path: Path, width: int, height: int) -> None:
        self.path, self.frames = path, 0
        self._image = torch.zeros(height, width, 3, dtype=torch.uint8)

    def write(self, image: UInt8[Tensor, "h w 3"], time: float | None) -> None:
        if self.frames:
            raise VideoError("An image file holds one frame; choose a name that ends in .mp4 for a video.")
        self._image, self.frames = image, 1

    def finish(self) -> None:
        write_image(self._image, self.path)

    def close(self) -> None:
        pass


class _MovieFile:
    """H.264 video, and the sound of another file interleaved with it."""

    def __init__(
        self, path: Path, width: int, height: int, frame_rate: Fraction, keyframe_interval: int | None
    ) -> None:
        self.frames = 0
        self.frame_rate = frame_rate.limit_denominator(10_000)
        # A multiple of the rate's numerator, so that a constant frame rate is exact.
        self._ticks = self.frame_rate.numerator * -(-TICKS // self.frame_rate.numerator)
        self._container = av.open(str(path.absolute()), "w", format=CONTAINERS[path.suffix.lower()])
        self._sound: Soundtrack | None = None
        try:
            self._stream = self._video_stream(width, height, keyframe_interval)
        except BaseException:
            self._container.close()
            raise
        self._convert = YuvConverter(self._stream.pix_fmt)
        self._waiting: av.VideoFrame | None = None  # its duration is known when the next one comes
        self._first: av.Packet | None = None

    def copy_audio(self, audio_from: Path, delay: Fraction) -> None:
        """Give the video a sound, before the first frame. Closes the file when that fails."""
        try:
            self._sound = Soundtrack(audio_from, self._container, delay)
        except BaseException:
            self._container.close()
            raise

    def write(self, image: UInt8[Tensor, "h w 3"], time: float | None) -> None:
        frame = self._convert(image)
        frame.time_base = self._stream.codec_context.time_base
        frame.pts = round((self.frames / self.frame_rate if time is None else time) * self._ticks)
        if self._waiting is not None:
            frame.pts = max(frame.pts, self._waiting.pts + 1)
            self._encode(self._waiting, frame.pts - self._waiting.pts)
        else:
            self._begin = frame.pts
        self._waiting = frame
        self.frames += 1

    def finish(self) -> None:
        """Write what is left. The last frame lasts so long that the average rate comes out right."""
        last = self._waiting
        assert last is not None
        end = self._begin + round(self.frames / self.frame_rate * self._ticks)
        if end <= last.pts:
            end = last.pts + round(self._ticks / self.frame_rate)
        self._encode(last, end - last.pts)
        rest = self._stream.encode()
        if rest:  # MP4 adds up what frames last in decoding order
            first = self._first or rest[0]
            rest[-1].duration = max(1, end - self._begin - (rest[-1].dts - first.dts))
        self._container.mux(rest)
        if self._sound is not None:
            self._sound.write_until(None)
        self._container.close()

    def close(self) -> None:
        """Give the files back, after `finish` or in place of it."""
        if self._sound is not None:
            self._sound.close()
        with suppress(*READ_ERRORS):  # the file is about to be deleted
            self._container.close()

    def _video_stream(self, width: int, height: int, keyframe_interval: int | None) -> av.VideoStream:
        odd = bool(width % 2 or height % 2)
        # With colour at full size x264 takes six levels of quality from it; give them back.
        options = {"crf": QUALITY, "x264-params": f"chroma-qp-offset={-6 if odd else 0}"}
        if keyframe_interval is not None:
            options["tune"] = "fastdecode"  # in 0.6 of the time, with a tenth more bytes
            options["x264-params"] += ":mbtree=0"  # with it the bytes differ now and then, from call to call
        stream = self._container.add_stream("libx264", rate=self.frame_rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        coder = stream.codec_context
        if keyframe_interval is not None:
            coder.gop_size, coder.thread_count = keyframe_interval, 1
        stream.time_base = coder.time_base = Fraction(1, self._ticks)
        coder.flags |= Flags.frame_duration
        coder.colorspace = coder.color_primaries = coder.color_trc = BT709
        coder.color_range = LIMITED
        return stream

    def _encode(self, frame: av.VideoFrame, duration: int) -> None:
        frame.duration = duration
        if self._sound is not None:
            self._sound.write_until(frame.pts / self._ticks)
        packets = self._stream.encode(frame)
        if self._first is None and packets:
            self._first = packets[0]
        self._container.mux(packets)
