"""Specification of a training clip: frames, crop, size."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class ClipSpec:
    """A clip of `frames` frames of `size` (height, width), 1 / `frame_rate` seconds apart.

    Without a rate the frames are consecutive. The picture is scaled by a factor drawn between the two of
    `scale` (0.5: twice the height and width are shrunk to `size`). With `aspect_ratios` (width / height) only
    media qualify whose own is nearest, by its logarithm, to number `bucket` of them.
    """

    frames: int
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    frame_rate: float | None = None
    aspect_ratios: tuple[float, ...] = ()
    bucket: int = 0

    def __post_init__(self) -> None:
        assert self.frames >= 1 and min(self.size) >= 1, (self.frames, self.size)
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"The scale of clips must be two rising positive numbers, got {self.scale}.")


@dataclass(frozen=True)
class ClipDraw:
    """The random choices for a clip: the sample's number, the start, and the crop.

    All but the number are uniform in [0, 1); `mirror` below 0.5 mirrors.
    """

    number: int
    start: float
    mirror: float
    scale: float
    top: float
    left: float


@dataclass(frozen=True)
class CropWindow:
    """A rectangle of pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool

    @property
    def rows(self) -> slice:
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.left + self.width)


def pick_frame_times(
    times: Float64[np.ndarray, " all"], own_rate: float, spec: ClipSpec, draw: ClipDraw
) -> Float64[np.ndarray, " t"]:
    """The times of the frames that are shown at evenly spaced times, from a random frame on.

    These lie in the middle of a frame's duration, so that at its own rate a video gives consecutive frames
    even where its time stamps are rounded.
    """
    shown_at = np.arange(spec.frames) / (own_rate if spec.frame_rate is None else spec.frame_rate)
    half = 0.5 / own_rate
    starts = max(1, int(np.searchsorted(times, times[-1] - shown_at[-1] + half, side="right")))
    shown_at += times[int(draw.start * starts)] + half
    return times[np.searchsorted(times, shown_at, side="right") - 1]


def crop_window(height: int, width: int, spec: ClipSpec, draw: ClipDraw) -> CropWindow:
    """The crop of a frame of `height` x `width`."""
    factor = spec.scale[0] + draw.scale * (spec.scale[1] - spec.scale[0])
    factor = max(factor, spec.size[0] / height, spec.size[1] / width)
    rows = min(height, max(1, round(spec.size[0] / factor)))
    columns = min(width, max(1, round(spec.size[1] / factor)))
    top, left = int(draw.top * (height - rows + 1)), int(draw.left * (width - columns + 1))
    return CropWindow(top, left, rows, columns, mirrored=draw.mirror < 0.5)


def resize(
    images: UInt8[np.ndarray, "t h w 3"], size: tuple[int, int], mirrored: bool
) -> UInt8[Tensor, "3 t h2 w2"]:
    """Resize to `size` (antialiased bicubic), and mirror."""
    clip = rearrange(torch.from_numpy(images), "t h w c -> t c h w")
    if clip.shape[-2:] != size:  # 8-bit, colours last in memory: ten times as fast as in float
        clip = torch.nn.functional.interpolate(clip, size, mode="bicubic", antialias=True)
    return rearrange(clip.flip(-1) if mirrored else clip, "t c h w -> c t h w").contiguous()
