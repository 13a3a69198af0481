"""Writer of video and image files, atomic."""

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.context import Flags
from jaxtyping import UInt8
from torch import Tensor

from regen.console import first_line
from regen.io import atomic_path
from regen.media.audio import TICKS, AudioCopier
from regen.media.decoding import READ_ERRORS
from regen.media.files import WRITABLE_IMAGE_SUFFIXES, Source, VideoError, is_image, write_image
from regen.media.frame_folder import is_frames
from regen.media.pixels import YuvConverter

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
SUFFIXES = (*CONTAINERS, *WRITABLE_IMAGE_SUFFIXES)
QUALITY = "14"  # x264's constant rate factor: hardly visible losses
MAX_SIDE = 1 << 16  # pixels
MIN_RATE, MAX_RATE = Fraction(1, 1_000_000), 1_000_000  # frames per second
SLOW_RATE, SLOW_TICKS = Fraction(1, 100), 100  # frames and ticks per second: 32 bits hold a duration
BT709, LIMITED = 1, 1  # FFmpeg's numbers for the colour tags
# Of errors of the disk or the folder; all others are of a stream.
DISK_ERRORS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EIO, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ESTALE),
}


class VideoWriter:
    """Writes frames of `width` x `height` to a .mp4, .m4v, .mov or .mkv (H.264), or one frame to an image.

    A context manager: the file gets its name at the end of the block; after an error or an interruption
    nothing is left. `frame_rate` (frames per second) times the frames without a time and the last one. The
    audio of `audio_from`, if it has any, is copied; the first frame of that file is at `audio_delay`
    (seconds), which is 0 unless frames are written that come before it. With `keyframe_interval` the file is
    made for random access, with a key frame at least that often, and its bytes do not depend on the number of
    cores. A pixel is shown `pixel_aspect` times as wide as high. `notes` says what was wrong with the sound.

    Raises VideoError: at the start for an unknown suffix, a size or rate out of range, a negative
    delay or an unwritable path; later when the disk is full.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        frame_rate: Fraction,
        audio_from: Source | None = None,
        audio_delay: Fraction = Fraction(0),
        keyframe_interval: int | None = None,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise VideoError(f"The output must end in one of {', '.join(SUFFIXES)}, got {path}.")
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and MIN_RATE <= frame_rate <= MAX_RATE):
            raise VideoError(
                f"{path} needs 1 to {MAX_SIDE} pixels a side and {float(MIN_RATE)} to {MAX_RATE} frames per "
                f"second, got {width}x{height} and {float(min(frame_rate, Fraction(2 * MAX_RATE))):g}."
            )
        if audio_delay < 0:
            raise VideoError(f"The audio delay of {path} must be at least 0, got {audio_delay} s.")
        self.path, self.width, self.height = path, width, height
        self.frame_rate, self.audio_from, self.audio_delay = frame_rate, audio_from, audio_delay
        self.keyframe_interval, self.pixel_aspect = (
            keyframe_interval,
            pixel_aspect.limit_denominator(MAX_SIDE),
        )
        self.notes: list[str] = []
        self._block = self._writing()
        self._file: _MovieFile | _ImageFile

    def __enter__(self) -> "VideoWriter":
        self._block.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self.path.is_dir():
            raise VideoError(f"{self.path} is a folder; give the name of a file in it.")
        callers_error = None
        try:
            with atomic_path(self.path) as temporary:
                temporary.touch(exist_ok=False)
                opened = _ImageFile if is_image(self.path) else _MovieFile
                with closing(opened(temporary, self)) as self._file:
                    try:
                        yield
                    except BaseException as error:
                        callers_error = error
                        raise
                    if self._file.frames == 0:
                        raise VideoError(f"{self.path} was not written, because there was no frame to write.")
                    self.notes += self._file.finish()
        except READ_ERRORS as error:
            if error is callers_error:
                raise
            raise self._failure(error) from None

    def write(self, image: UInt8[Tensor, "h w 3"], time: float | None = None) -> None:
        """Append a frame, shown from `time` on (seconds; rising), or right after the last one."""
        assert image.shape[:2] == (self.height, self.width), (image.shape, self.height, self.width)
        try:
            self._file.write(image, time)
        except READ_ERRORS as error:
            raise self._failure(error) from None

    def _failure(self, error: BaseException) -> VideoError:
        if getattr(error, "errno", None) in DISK_ERRORS:
            advice = "its folder must exist, be writable and have space left"
        else:
            advice = "this kind of file does not take the picture or the sound; try an output in .mkv"
        return VideoError(f"{self.path} can't be written ({first_line(error)}); {advice}.")


class _ImageFile:
    """One frame, written at the end."""

    def __init__(self, path: Path, writer: VideoWriter) -> None:
        self.path, self.suffix, self.frames = path, writer.path.suffix, 0

    def write(self, image: UInt8[Tensor, "h w 3"], time: float | None) -> None:
        if self.frames:
            raise VideoError("An image file holds one frame; choose a name that ends in .mp4 for a video.")
        self._image, self.frames = image, 1

    def finish(self) -> list[str]:
        write_image(self._image, self.path, self.suffix)
        return []

    def close(self) -> None:
        pass


class _MovieFile:
    """H.264 video with the settings of `writer`, interleaved with the audio of another file."""

    def __init__(self, path: Path, writer: VideoWriter) -> None:
        self.frames = 0
        self.frame_rate = _limited(writer.frame_rate)
        # A multiple of the rate's numerator, so that a constant frame rate is exact.
        ticks = TICKS if self.frame_rate > SLOW_RATE else SLOW_TICKS
        self._ticks = self.frame_rate.numerator * -(-ticks // self.frame_rate.numerator)
        container_format = CONTAINERS[writer.path.suffix.lower()]
        self._container = av.open(str(path.absolute()), "w", format=container_format)
        self._audio: AudioCopier | None = None
        try:
            self._stream = self._video_stream(writer.width, writer.height, writer.keyframe_interval)
            self._stream.codec_context.sample_aspect_ratio = writer.pixel_aspect
            if writer.audio_from is not None and not is_frames(writer.audio_from):
                self._audio = AudioCopier(writer.audio_from, self._container, writer.audio_delay)
        except BaseException:
            self._container.close()
            raise
        self._convert = YuvConverter(self._stream.pix_fmt)
        self._pending: av.VideoFrame | None = None  # its duration is known when the next one comes
        self._first: av.Packet | None = None

    def write(self, image: UInt8[Tensor, "h w 3"], time: float | None) -> None:
        frame = self._convert(image)
        frame.time_base = self._stream.codec_context.time_base
        frame.pts = round((self.frames / self.frame_rate if time is None else time) * self._ticks)
        if self._pending is not None:
            frame.pts = max(frame.pts, self._pending.pts + 1)
            self._encode(self._pending, frame.pts - self._pending.pts)
        else:
            self._begin = frame.pts
        self._pending = frame
        self.frames += 1

    def finish(self) -> list[str]:
        """Write the rest; returns what was wrong with the sound.

        The duration of the last frame makes the average rate exact.
        """
        last = self._pending
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
        if self._audio is not None:
            self._audio.write_until(None)
        self._container.close()
        text = None if self._audio is None else self._audio.report.text()
        return [] if text is None else [text]

    def close(self) -> None:
        """Close the files, after `finish` or instead of it."""
        if self._audio is not None:
            self._audio.close()
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
        if self._audio is not None:
            self._audio.write_until(frame.pts / self._ticks)
        packets = self._stream.encode(frame)
        if self._first is None and packets:
            self._first = packets[0]
        self._container.mux(packets)


def _limited(rate: Fraction) -> Fraction:
    """The nearest rate with small numbers, also of less than a frame per second."""
    return rate.limit_denominator(10_000) if rate >= 1 else 1 / (1 / rate).limit_denominator(10_000)
