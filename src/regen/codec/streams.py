"""Frames in and out of a reconstruction: sized frames, comparison videos, sound."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from regen.media.audio import SUFFIX
from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader, VideoWriter

Frame = UInt8[Tensor, "h w 3"]
WritePair = Callable[[Frame, Frame, float], None]

LABEL_HEIGHT = 20  # pixels; even, so that two of them keep the height even
GREY, WHITE = (32, 32, 32), (230, 230, 230)


class FrameStream:
    """The frames of an open video at the coded size, each with its time in seconds."""

    def __init__(self, reader: VideoReader, size: Size | None) -> None:
        self.reader, self.size = reader, size
        self.height = size.height if size else reader.info.height
        self.width = size.width if size else reader.info.width
        self.frame_rate = reader.info.frame_rate

    def __iter__(self) -> Iterator[tuple[Frame, float]]:
        for frame in self.reader:
            yield resize_center_crop(frame.image, self.size), frame.time

    def writer(self, path: Path, source: Path, height: int | None = None) -> VideoWriter:
        """A writer for a video with the stream's width, frame rate, sound and (unless given) height."""
        audio = source if self.reader.info.has_audio else None
        return VideoWriter(path, self.width, height or self.height, self.frame_rate, audio)


@contextmanager
def comparison_writer(stream: FrameStream, source: Path, path: Path | None, name: str) -> Iterator[WritePair]:
    """Write the original above the reconstruction, both labelled, to `path`; None writes nothing."""
    if path is None:
        yield lambda original, reconstruction, time: None
        return
    above, below = label("original", stream.width), label(name, stream.width)
    with stream.writer(path, source, height=2 * (stream.height + LABEL_HEIGHT)) as writer:
        yield lambda original, reconstruction, time: writer.write(
            torch.cat([above, original, below, reconstruction]), time
        )


def label(text: str, width: int) -> UInt8[Tensor, "h width 3"]:
    """A dark strip of `width` x LABEL_HEIGHT pixels with `text`, cut off where it is too long."""
    strip = Image.new("RGB", (width, LABEL_HEIGHT), GREY)
    ImageDraw.Draw(strip).text((4, 3), text, fill=WHITE, font=ImageFont.load_default(12))
    return torch.from_numpy(np.array(strip))


@contextmanager
def audio_file(audio: bytes | None) -> Iterator[Path | None]:
    """A temporary file with the sound of a latent file; None for no sound."""
    if audio is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "audio").with_suffix(SUFFIX)
        path.write_bytes(audio)
        yield path
