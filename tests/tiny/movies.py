"""Small media files for the tests of the data package, written with PyAV alone."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

HEIGHT, WIDTH = 48, 64


def numbered(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Grey frames, each 5 levels brighter than the last, with a red block in the upper left corner."""
    images = [np.full((height, width, 3), 20 + 5 * (index % 45), np.uint8) for index in range(count)]
    for image in images:
        image[: height // 3, : width // 3] = (250, 10, 10)
    return images


def number_of(image: np.ndarray) -> int:
    """Which of `numbered` frames this is, by its lower right part."""
    height, width = image.shape[:2]
    return round((float(np.asarray(image)[height // 2 :, width // 2 :].mean()) - 20) / 5)


def noisy(count: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Frames of noise that moves sideways: they need many bytes."""
    base = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return [np.roll(base, index, axis=1) for index in range(count)]


def make_movie(
    path: Path,
    images: list[np.ndarray],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction = Fraction(25),
    times: list[float] | None = None,
    rotation: tuple[float, bool] | None = None,
    audio: str | None = None,
    colours: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    layout: str = "stereo",
    transfer: tuple[int, int] | None = None,
) -> Path:
    """A video of these RGB(A) images. `times` in seconds; `colours` are FFmpeg's matrix and range.

    `transfer` are its transfer curve and primaries, `metadata` is of the stream, `layout` of the sound.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.metadata.update(metadata or {})
        if transfer is not None:
            stream.codec_context.color_trc, stream.codec_context.color_primaries = transfer
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation[0], hflip=rotation[1])
        if colours is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = colours
        if audio is not None:
            _add_tone(container, audio, float(len(images) / rate), layout)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.shape[-1] == 3 else "rgba")
            matrix, full = colours or (None, None)
            frame = frame.reformat(format=pixel_format, dst_colorspace=matrix, dst_color_range=full)
            frame.pts = index if times is None else round(times[index] * 1000)
            frame.time_base = 1 / rate if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_sound(path: Path, codec: str = "aac", seconds: float = 0.5) -> Path:
    """A file with a tone and nothing else."""
    with av.open(str(path), "w") as container:
        _add_tone(container, codec, seconds)
    return path


def _add_tone(
    container: av.container.OutputContainer, codec: str, seconds: float, layout: str = "stereo"
) -> None:
    rate = 48000 if codec == "libopus" else 44100
    stream = container.add_stream(codec, rate=rate, layout=layout)
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)
    frame = av.AudioFrame.from_ndarray(
        np.stack([wave] * stream.layout.nb_channels).astype(np.float32), "fltp", layout
    )
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def damage(path: Path, start: float, end: float) -> Path:
    """Overwrite the part of the file between two fractions of its length with noise."""
    content = bytearray(path.read_bytes())
    first, last = int(start * len(content)), int(end * len(content))
    content[first:last] = np.random.default_rng(1).integers(0, 255, last - first, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    return path


def truncate(path: Path, part: float) -> Path:
    """Keep this part of the file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    return path


def smooth(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A gradient to the right in red and downwards in green."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 0 * x + 90], -1).astype(np.uint8)


def distance(image: torch.Tensor, expected: np.ndarray) -> np.ndarray:
    """The absolute difference of two 8-bit images, value by value."""
    return np.abs(image.numpy().astype(int) - expected)
