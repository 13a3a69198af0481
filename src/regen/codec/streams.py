"""What flows through a reconstruction: frames at the coded size with their times, and files to write."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from regen.codec.comparison import STRIP, Comparison
from regen.media.audio import SUFFIX
from regen.media.reader import VideoReader, VideoWriter
from regen.media.sizes import Size, fit

Image = UInt8[Tensor, "h w 3"]
WritePair = Callable[[Image, Image, float], None]


class FrameStream:
    """The frames of an opened video at the size that is coded, each with its time in seconds."""

    def __init__(self, reader: VideoReader, size: Size | None) -> None:
        self.reader, self.size = reader, size
        self.height = size.height if size else reader.info.height
        self.width = size.width if size else reader.info.width
        self.frame_rate = reader.info.frame_rate

    def __iter__(self) -> Iterator[tuple[Image, float]]:
        for frame in self.reader:
            yield fit(frame.image, self.size), frame.time

    def writer(self, path: Path, source: Path, extra_height: int = 0) -> VideoWriter:
        """A video of this size, rate and sound."""
        audio = source if self.reader.info.has_audio else None
        return VideoWriter(path, self.width, self.height + extra_height, self.frame_rate, audio)


@contextmanager
def comparison_writer(stream: FrameStream, source: Path, path: Path | None, name: str) -> Iterator[WritePair]:
    """Writes original above reconstruction to `path`; nothing when there is none."""
    if path is None:
        yield lambda original, image, at: None
        return
    comparison = Comparison(stream.width, "original", name)
    with stream.writer(path, source, stream.height + 2 * STRIP) as writer:
        yield lambda original, image, at: writer.write(comparison.stack(original, image), at)


@contextmanager
def audio_file(audio: bytes | None) -> Iterator[Path | None]:
    """The sound of a latent file as a file of its own while it is needed."""
    if audio is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "audio").with_suffix(SUFFIX)
        path.write_bytes(audio)
        yield path
