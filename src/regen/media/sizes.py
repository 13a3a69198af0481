"""Frames at a given size: scale to cover, then cut out the centre (REGEN paper, section 4)."""

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
                    f"A side of {side} pixels is not between {MIN_SIDE} and {MAX_SIDE}; try 256 or 176x312."
                )

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def parse_size(text: str) -> Size:
    """Read `"256"` (a square of 256 x 256) or `"176x312"` (height x width).

    Raises ValueError when the text is neither, or a side is under 8 or over 16384 pixels.
    """
    match = re.fullmatch(r"([+-]?\d{1,9})(?:[xX]([+-]?\d{1,9}))?", text.strip(), flags=re.ASCII)
    if match is None:
        raise ValueError(
            f"{text!r} is not a size; give one number (256) or height x width in pixels (176x312)."
        )
    height = int(match[1])
    return Size(height, int(match[2]) if match[2] else height)


def scaled_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width of a `height` x `width` frame scaled, without distortion, until it just covers `size`.

    One side fits exactly; the other is rounded to the nearest pixel.
    """
    if height * size.width <= width * size.height:  # the height is what is short
        return size.height, max(size.width, round(width * size.height / height))
    return max(size.height, round(height * size.width / width)), size.width


def resize_center_crop(frame: UInt8[Tensor, "h w 3"], size: Size | None) -> UInt8[Tensor, "h2 w2 3"]:
    """One frame at the given size; `None` leaves it as it is.

    The frame is scaled by antialiased bicubic interpolation until it covers `size`, and the centre is cut
    out. It is never distorted. For a square N x N that is: short side to N, then centre crop.
    """
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
