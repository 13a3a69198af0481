"""Sizes of frames: resize to cover, then center crop (REGEN, Sec. 4)."""

import re
from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

MIN_SIDE, MAX_SIDE = 8, 16384  # pixels: one patch of the embedders; far above any video in use


@dataclass(frozen=True)
class Size:
    """Height and width in pixels of the frames that a model sees."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if not MIN_SIDE <= side <= MAX_SIDE:
                raise ValueError(
                    f"Sides must be {MIN_SIDE} to {MAX_SIDE} pixels, got {side}; try 256 or 176x312."
                )

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def parse_size(text: str) -> Size:
    """Read `"256"` (a square of 256 x 256) or `"176x312"` (height x width).

    Raises ValueError when the text is neither, or a side is under 8 or over 16384 pixels.
    """
    match = re.fullmatch(r"([+-]?\d{1,9})(?:[xX]([+-]?\d{1,9}))?", text.strip(), flags=re.ASCII)
    if match is None:
        raise ValueError(f"A size is one number (256) or height x width (176x312), got {text!r}.")
    height = int(match[1])
    return Size(height, int(match[2]) if match[2] else height)


def scaled_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width of a `height` x `width` frame scaled at the same aspect ratio to just cover `size`.

    One side is exact; the other is rounded to the nearest pixel.
    """
    if height * size.width <= width * size.height:  # the height is what is short
        return size.height, max(size.width, round(width * size.height / height))
    return max(size.height, round(height * size.width / width)), size.width


def resize_center_crop(frame: UInt8[Tensor, "h w 3"], size: Size | None) -> UInt8[Tensor, "h2 w2 3"]:
    """Scale a frame to cover `size` (antialiased bicubic) and crop the centre; None returns it as it is."""
    if size is None:
        return frame
    height, width = scaled_size(frame.shape[0], frame.shape[1], size)
    if (height, width) != tuple(frame.shape[:2]):
        frame = _resize(frame, height, width)
    top, left = (height - size.height) // 2, (width - size.width) // 2
    return frame[top : top + size.height, left : left + size.width].contiguous()


def _resize(frame: UInt8[Tensor, "h w 3"], height: int, width: int) -> UInt8[Tensor, "h2 w2 3"]:
    """Bicubic with antialiasing, on bytes: 5 times as fast as in float, and within 1.5 levels of it."""
    image = rearrange(frame, "h w c -> 1 c h w")  # a view: channels last, the fast kernel's layout
    scaled = F.interpolate(image, size=(height, width), mode="bicubic", antialias=True)
    return rearrange(scaled, "1 c h w -> h w c")
