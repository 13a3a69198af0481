"""Reader of videos, images and folders of frames as 8-bit RGB frames."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction

import av
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from regen.console import first_line
from regen.media.decoding import READ_ERRORS, Decoder
from regen.media.dynamic_range import is_high_dynamic_range
from regen.media.files import BLACK, Colour, Frame, Source, VideoError, VideoInfo, shrunk_size
from regen.media.frame_folder import ImageFrames, is_frames
from regen.media.pixels import RgbConverter, apply_display_matrix, display_matrix
from regen.media.seeking import TIME_TOLERANCE, Seeker
from regen.media.writer import VideoWriter

__all__ = ["TIME_TOLERANCE", "Frame", "VideoError", "VideoInfo", "VideoReader", "VideoWriter"]

ALL = slice(None)
MAX_PIXEL_ASPECT = 8  # of width and height or height and width; beyond it a file is wrong
# What libraries raise for content that they do not expect.
UNEXPECTED = (*READ_ERRORS, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError)


class VideoReader:
    """Reads one video: a file, a folder of numbered images, or one image as a video of one frame.

    Frames are upright (display matrix, EXIF), converted with the tagged colour matrix and range (without a
    tag BT.709 from 720 lines on and BT.601 below), alpha over `background`, high dynamic range tone-mapped to
    BT.709. Pixels that are not square become so by scaling the width, unless
    `square_pixels` is False. With `short_side` frames are shrunk to a short side of at most that many pixels;
    `info` has the size before that. `threads` 0 means one per core. Times are in seconds after the first
    frame; where the clock of the file restarts they go on at the frame rate. `notes` says in words what was
    converted or mended.

    Raises VideoError when not a single frame can be read.
    """

    def __init__(
        self,
        path: Source,
        threads: int = 0,
        short_side: int | None = None,
        square_pixels: bool = True,
        background: Colour = BLACK,
    ) -> None:
        self.path = path
        self.damage: str | None = None
        self.notes: list[str] = []
        self._square_pixels, self._background = square_pixels, background
        self._threads = threads
        self._seeker: Seeker | None = None
        self._images: ImageFrames
        if is_frames(path):
            self._images = ImageFrames(path, short_side, background)
            self.info = self._images.info
        else:
            with _video_errors(path):
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
        with _video_errors(self.path), Decoder(self.path, self._threads) as decoder:
            for frame, time in self._seeker.with_times(decoder.decode()):
                yield Frame(self._convert(frame), time)
            self.damage = decoder.damage_report(self.info.frame_rate)
            if self._seeker.restarts:
                self.notes.append(f"its clock restarts {self._seeker.restarts} times; its times are joined")

    def read_at(self, times: Sequence[float]) -> UInt8[Tensor, "t h w 3"]:
        """The frames shown at `times` (seconds after the first frame, in any order).

        That is the last frame that starts no more than a millisecond, and half a frame, after a time, or
        else the first one. Raises VideoError when such a frame can't be decoded.
        """
        assert len(times) > 0
        if self._seeker is None:
            shown = self._images.shown_at(times, TIME_TOLERANCE)
            stills = {number: self._images[number] for number in set(shown)}
            return torch.stack([stills[number] for number in shown])
        order = sorted(range(len(times)), key=lambda index: times[index])
        with _video_errors(self.path):
            frames = self._seeker.frames_shown_at([times[index] for index in order])
            images = _stacked(frames, len(times), self._convert, ALL, ALL)
        return torch.from_numpy(images if order == sorted(order) else images[np.argsort(order)])

    def frame_times(self) -> Float64[np.ndarray, " t"]:
        """The time of every frame in seconds, rising, from packets without decoding."""
        if self._seeker is None:
            return self._images.times()
        with _video_errors(self.path):
            return self._seeker.packet_times()

    def _probe(self, seeker: "Seeker", short_side: int | None) -> VideoInfo:
        """Decode the first frame, which has the size and the rotation."""
        first = seeker.decode_first()
        stream, container = seeker.decoder.stream, seeker.decoder.container
        aspect = _pixel_aspect(stream)
        width = round(first.width * aspect) if self._square_pixels else first.width
        self._convert = _converter(first, short_side, self._threads, width, self._background)
        if is_high_dynamic_range(first):
            self.notes.append("its high dynamic range is tone-mapped: highlights are darker than they were")
        if first.interlaced_frame:
            self.notes.append("it is interlaced: both fields stay in one picture (FFmpeg's bwdif parts them)")
        shown = apply_display_matrix(np.empty((first.height, width, 0), np.uint8), self._convert.matrix)
        seconds = stream.duration and float(stream.duration * seeker.time_base)
        return VideoInfo(
            width=shown.shape[1],
            height=shown.shape[0],
            frame_rate=seeker.frame_rate,
            frames=stream.frames or None,
            duration=seconds or (container.duration and container.duration / av.time_base),
            has_audio=bool(container.streams.audio),
            is_image=False,
            pixel_aspect=self._shown_aspect(aspect),
        )

    def _shown_aspect(self, aspect: Fraction) -> Fraction:
        """The aspect of a pixel of the frames, upright, from that in the file."""
        if self._square_pixels:
            return Fraction(1)
        turned = abs(self._convert.matrix[0, 1]) > abs(self._convert.matrix[0, 0])
        return 1 / aspect if turned else aspect


def read_frames(
    path: Source,
    times: Sequence[float],
    short_side: int | None = None,
    rows: slice = ALL,
    columns: slice = ALL,
) -> UInt8[np.ndarray, "t h w 3"]:
    """The pixels of `VideoReader.read_at` in a crop, faster, at `times` of frames, in any order.

    Raises VideoError.
    """
    if is_frames(path):
        stills = ImageFrames(path, short_side)
        shown = stills.shown_at(times, TIME_TOLERANCE)
        return np.stack([stills[number].numpy()[rows, columns] for number in shown])
    order = np.argsort(times, kind="stable")
    rising = [times[index] for index in order]
    with _video_errors(path), closing(Seeker(path, 1)) as seeker:
        seeker.locate_first()
        frames = seeker.frames_starting_at(rising) or list(seeker.frames_shown_at(rising))
        width = round(frames[0].width * _pixel_aspect(seeker.decoder.stream))
        convert = _converter(frames[0], short_side, 1, width, BLACK)
        images = _stacked(frames, len(times), convert, rows, columns)
    return images if rising == list(times) else images[np.argsort(order)]


@contextmanager
def _video_errors(path: Source) -> Iterator[None]:
    """Whatever a library raises for the content of `path` becomes a VideoError."""
    try:
        yield
    except VideoError:
        raise
    except UNEXPECTED as error:
        raise VideoError(
            f"{path} can't be read as a video ({first_line(error)}); copy or record it again."
        ) from error


def _pixel_aspect(stream: av.VideoStream) -> Fraction:
    """How many times as wide as high a pixel is; 1 where the file does not say or can't be right."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    is_possible = Fraction(1, MAX_PIXEL_ASPECT) <= aspect <= MAX_PIXEL_ASPECT
    return aspect if is_possible else Fraction(1)


def _converter(
    frame: av.VideoFrame, short_side: int | None, threads: int, width: int, background: Colour
) -> RgbConverter:
    size = shrunk_size(max(1, width), frame.height, short_side)
    return RgbConverter(*size, display_matrix(frame), threads, background)


def _stacked(
    frames: Iterable[av.VideoFrame], count: int, convert: RgbConverter, rows: slice, columns: slice
) -> UInt8[np.ndarray, "{count} h w 3"]:
    """A crop of `count` frames in RGB; repeated frames are converted once."""
    last, images = None, np.empty((count, 0, 0, 3), np.uint8)
    for index, frame in enumerate(frames):
        if frame is last:
            images[index] = images[index - 1]
            continue
        last, image = frame, convert.pixels(frame)[rows, columns]
        if not index:
            images = np.empty((count, *image.shape), np.uint8)
        images[index] = image
    return images
