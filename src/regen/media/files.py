"""Errors, file descriptions, in-memory files, still images."""

import stat
import struct
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from regen.console import first_line

WRITABLE_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGE_SUFFIXES = (*WRITABLE_IMAGE_SUFFIXES, ".tif", ".tiff", ".avif")
Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".gif", ".y4m", ".yuv", ".mxf"),
)


START_BYTES = 16
# How images begin that FFmpeg reads in part or not at all, and files that hold other media.
PILLOW_STARTS = (b"\x89PNG", b"II*\0", b"MM\0*")
PILLOW_KINDS = (b"WEBP", b"avif", b"avis")
VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"FLV", b"\0\0\1\xba", b"OggS", b"GIF8")


class VideoError(ValueError):
    """A file can't be read or written; the message names it."""


class MissingFileError(VideoError):
    """A file can't be opened; its content may be fine."""


PILLOW_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, ArithmeticError, RuntimeError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow and its plugins raise for damaged images."""


@dataclass(frozen=True)
class Blob:
    """A file in memory. The suffix of `name` gives its type."""

    name: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix


Source = Path | Blob


@dataclass(frozen=True)
class VideoInfo:
    """Description of a video or an image.

    `width` and `height` are in pixels after rotation, `frame_rate` is the average in frames per second,
    `frames` is the declared count (None without one), `duration` is in seconds. A pixel is shown
    `pixel_aspect` times as wide as high.
    """

    width: int
    height: int
    frame_rate: Fraction
    frames: int | None
    duration: float | None
    has_audio: bool
    is_image: bool
    pixel_aspect: Fraction = Fraction(1)


@dataclass(frozen=True)
class Frame:
    """One frame: RGB in 0..255, and its time in seconds after the first frame."""

    image: UInt8[Tensor, "h w 3"]
    time: float


def open_for_ffmpeg(source: Source) -> str | BytesIO:
    """An argument for `av.open`: an absolute path, since FFmpeg takes "a:b.mp4" for a protocol, or a file.

    Raises MissingFileError when the file can't be opened, VideoError when it is a folder or empty.
    """
    if isinstance(source, Blob):
        return BytesIO(source.content)
    if not read_start(source):
        raise VideoError(f"{source} is empty; it holds no video, so copy or record it again.")
    return str(source.absolute())


def read_start(source: Source) -> bytes:
    """The first bytes of a file.

    Raises MissingFileError when it can't be opened, VideoError when it is a folder, a pipe or a device, which
    could be read once or never end.
    """
    if isinstance(source, Blob):
        return source.content[:START_BYTES]
    try:
        mode = source.stat().st_mode
        if stat.S_ISDIR(mode):
            raise VideoError(f"{source} is a folder; give the path of a video or an image file.")
        if not stat.S_ISREG(mode):
            raise VideoError(f"{source} is a pipe or a device; give the path of a video or an image file.")
        with source.open("rb") as file:
            return file.read(START_BYTES)
    except FileNotFoundError:
        raise MissingFileError(f"There is no file {source}; check the path.") from None
    except OSError as error:
        raise MissingFileError(f"{source} can't be opened: {first_line(error)}.") from None


def is_image(path: Source) -> bool:
    """Whether `path` has the suffix of a still image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def holds_image(source: Source) -> bool:
    """Whether Pillow reads a file as an image: by its first bytes if they tell, else by its suffix."""
    try:
        start = read_start(source)
    except VideoError:  # whoever reads it says so
        return is_image(source)
    kind = start[8:12] if start[:4] == b"RIFF" or start[4:8] == b"ftyp" else b""
    if kind in PILLOW_KINDS or start.startswith(PILLOW_STARTS):
        return True
    return is_image(source) and not kind and not start.startswith(VIDEO_STARTS)


def shrunk_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) shrunk at the same aspect ratio to a short side of at most `short_side`."""
    short = min(width, height)
    if short_side is None or short <= short_side:
        return width, height
    return max(1, round(width * short_side / short)), max(1, round(height * short_side / short))


def blend_over(rgba: np.ndarray, background: Colour) -> np.ndarray:
    """8-bit RGBA `h w 4` blended over a colour, as 8-bit RGB `h w 3`."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    below = np.array(background, np.uint16)
    return ((colour * alpha + below * (255 - alpha) + 127) // 255).astype(np.uint8)


def read_image(
    path: Source, short_side: int | None = None, background: Colour = BLACK
) -> tuple[UInt8[Tensor, "h w 3"], VideoInfo]:
    """A still image, upright (EXIF), transparent parts over `background`, and its description.

    The image is shrunk to a short side of at most `short_side`; the description has the size in the file.
    Raises VideoError when the image is damaged or of unknown format, MissingFileError when there is none.
    """
    if not read_start(path):
        raise VideoError(f"{path} is empty; it holds no image, so copy or save it again.")
    try:
        with Image.open(BytesIO(path.content) if isinstance(path, Blob) else path) as file:
            image = ImageOps.exif_transpose(file)
            width, height = image.size
            pixels = to_rgb(image, background)
    except UnidentifiedImageError:
        raise VideoError(
            f"{path} can't be read as an image; expected PNG, JPEG, WebP, AVIF, TIFF or BMP."
        ) from None
    except PILLOW_ERRORS as error:
        raise VideoError(f"The image {path} can't be read ({first_line(error)}); save it again.") from None
    return shrink(pixels, short_side), VideoInfo(width, height, Fraction(1), 1, None, False, True)


def shrink(pixels: UInt8[np.ndarray, "h w 3"], short_side: int | None) -> UInt8[Tensor, "h2 w2 3"]:
    """An image shrunk to a short side of at most `short_side`."""
    height, width = pixels.shape[:2]
    size = shrunk_size(width, height, short_side)
    if size != (width, height):
        pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels)


def to_rgb(image: Image.Image, background: Colour) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a Pillow image in sRGB, transparent parts over `background`."""
    if image.mode.startswith("I"):  # 16-bit grey: keep the high byte
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "F":  # grey in 0..1 or in 0..255
        values = np.nan_to_num(np.asarray(image))
        grey = (values * (255 if values.max(initial=0) <= 1 else 1)).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    image = _to_srgb(image)
    if image.has_transparency_data:
        return blend_over(np.asarray(image.convert("RGBA")), background)
    return np.array(image.convert("RGB"))


def _to_srgb(image: Image.Image) -> Image.Image:
    """An image in the colours of its profile, converted to sRGB; as it is without a usable profile."""
    content = image.info.get("icc_profile")
    if not content or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(content))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return image
        plain = image if alpha is None else image.convert("RGB")
        found = ImageCms.profileToProfile(plain, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    if found is not None and alpha is not None:
        found.putalpha(alpha)
    return image if found is None else found


def write_image(image: UInt8[Tensor, "h w 3"], path: Path, suffix: str | None = None) -> None:
    """Save an image in the format of `suffix`, by default that of `path` (JPEG and WebP at quality 95)."""
    image_format = Image.registered_extensions()[(suffix or path.suffix).lower()]
    Image.fromarray(image.cpu().numpy()).save(path, image_format, quality=95)
