"""From a video to a training clip: which frames, which part of the picture, at which size."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class ClipSpec:
    """What to cut out of a video: `frames` frames of `size` (height, width), 1 / `frame_rate` seconds apart.

    Without a rate they are those of the video as they are. The picture is scaled by a factor drawn between
    the two of `scale` (0.5: twice as many pixels are shrunk to `size`). With `aspect_ratios` (width /
    height) only those media serve whose own is nearest, by its logarithm, to number `bucket` of them.
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
            raise ValueError(f"The scale of clips must be two rising positive numbers, not {self.scale}.")


@dataclass(frozen=True)
class ClipDraw:
    """What chance decides about a clip: which sample, from when on, and which part of the picture.

    All but the number are evenly distributed from 0 to 1; below 0.5 `mirror` mirrors.
    """

    number: int
    start: float
    mirror: float
    scale: float
    top: float
    left: float


@dataclass(frozen=True)
class CropWindow:
    """A rectangle in stored pixels, and whether it is mirrored."""

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
    """The times of the frames that are shown at evenly spaced moments, from a random frame on.

    The moments lie in the middle of a frame's time, so that at its own rate a video gives consecutive
    frames even where its time stamps are rounded.
    """
    moments = np.arange(spec.frames) / (own_rate if spec.frame_rate is None else spec.frame_rate)
    half = 0.5 / own_rate
    starts = max(1, int(np.searchsorted(times, times[-1] - moments[-1] + half, side="right")))
    moments += times[int(draw.start * starts)] + half
    shown = np.searchsorted(times, moments, side="right") - 1
    return times[shown]


def crop_window(height: int, width: int, spec: ClipSpec, draw: ClipDraw) -> CropWindow:
    """The part of a stored frame of `height` x `width` that becomes the clip."""
    factor = spec.scale[0] + draw.scale * (spec.scale[1] - spec.scale[0])
    factor = max(factor, spec.size[0] / height, spec.size[1] / width)
    rows = min(height, max(1, round(spec.size[0] / factor)))
    columns = min(width, max(1, round(spec.size[1] / factor)))
    top, left = int(draw.top * (height - rows + 1)), int(draw.left * (width - columns + 1))
    return CropWindow(top, left, rows, columns, mirrored=draw.mirror < 0.5)


def resize(
    images: UInt8[np.ndarray, "t h w 3"], size: tuple[int, int], mirrored: bool
) -> UInt8[Tensor, "3 t h2 w2"]:
    """A clip of `size`: bicubic, smoothed where it shrinks."""
    clip = rearrange(torch.from_numpy(images), "t h w c -> t c h w")
    if clip.shape[-2:] != size:  # 8-bit, colours last in memory: ten times as fast as in float
        clip = torch.nn.functional.interpolate(clip, size, mode="bicubic", antialias=True)
    return rearrange(clip.flip(-1) if mirrored else clip, "t c h w -> c t h w").contiguous()
