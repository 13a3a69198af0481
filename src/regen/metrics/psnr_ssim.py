"""PSNR, SSIM and sharpness of whole videos, updated a few frames at a time.

The protocol (REGEN, Sec. 4; the paper leaves the details open):

- Both videos are 8-bit RGB: reconstructions are rounded to 8 bits first. Metrics see RGB in [0, 1], and each
  frame is compared on its own, over all pixels and channels.
- PSNR of a frame is -10 log10 of its mean squared error, at most 100 dB (identical frames).
- SSIM of a frame is that of torchmetrics: an 11 x 11 Gaussian window with sigma 1.5 around every pixel, with
  mirrored borders, mean over pixels and channels. Its float32 sums are accurate to 0.0005 where a frame is
  flat. Sides under 11 pixels are extended to 11 by repeating the last row or column.
- A video has the mean over its frames, a set the mean over its videos. The PSNR of a video's mean squared
  error, which some papers report instead, is lower (`Psnr.compute_pooled`).
- Sharpness (ours) measures fine detail, right or wrong. The gradient of a pixel and channel is the length of
  its differences to the right and lower neighbours in 8-bit levels; sharpness is the mean gradient of the
  reconstruction over that of the original, with 0.1 levels added to both for flat pictures. Below 1 is
  blurred. Noise and block borders raise it, also above 1: read it next to PSNR.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

MAX_PSNR = 100.0  # dB, of identical frames
SSIM_SIGMA = 1.5
SSIM_WINDOW = 11
GRADIENT_EPS = 0.1  # levels added to every mean gradient


def psnr_per_frame(
    reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]
) -> Float[Tensor, " t"]:
    """PSNR of each frame in dB, between 0 and 100."""
    assert reference.shape == other.shape, "compare frames of equal size"
    difference = (reference.to(torch.float32) - other.to(torch.float32)) / 255
    errors = difference.square().mean(dim=(1, 2, 3), dtype=torch.float64)
    return (-10 * errors.log10()).clamp(max=MAX_PSNR)


def ssim_per_frame(
    reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]
) -> Float[Tensor, " t"]:
    """SSIM of each frame, between -1 and 1, one frame at a time to bound the memory."""
    # Here, because its import takes half a second that encoding and decoding do without.
    from torchmetrics.functional.image import structural_similarity_index_measure

    assert reference.shape == other.shape, "compare frames of equal size"
    values: list[Any] = []
    for pair in zip(other, reference, strict=True):
        first, second = map(_pad_to_window, pair)
        values.append(structural_similarity_index_measure(first, second, sigma=SSIM_SIGMA, data_range=1.0))
    return torch.stack(values)


def _pad_to_window(frame: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "1 3 h2 w2"]:
    image = rearrange(frame, "h w c -> 1 c h w").to(torch.float32) / 255
    missing = [max(0, SSIM_WINDOW - side) for side in frame.shape[:2]]
    return F.pad(image, (0, missing[1], 0, missing[0]), mode="replicate")


def gradient_per_frame(frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, " t"]:
    """Mean gradient length of each frame in levels, 0 to 361; zero beyond the last row and column."""
    lengths = []
    for frame in frames:
        levels = frame.to(torch.float32)
        down, right = levels.diff(dim=0, append=levels[-1:]), levels.diff(dim=1, append=levels[:, -1:])
        lengths.append(torch.hypot(down, right).mean(dtype=torch.float64))
    return torch.stack(lengths)


class FrameMean:
    """Mean of one value per frame."""

    def __init__(self) -> None:
        self.total, self.frames = 0.0, 0

    def add_values(self, values: Float[Tensor, " t"]) -> None:
        self.total += float(values.sum(dtype=torch.float64))
        self.frames += len(values)

    def compute(self) -> float:
        """Mean over all frames so far. Raises ValueError before the first frame."""
        if self.frames == 0:
            raise ValueError("A metric needs at least one frame, got none.")
        return self.total / self.frames


class Psnr(FrameMean):
    """Mean PSNR in dB over the frames of one video; see the protocol above."""

    def __init__(self) -> None:
        super().__init__()
        self.errors = FrameMean()

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, on any device."""
        values = psnr_per_frame(reference, other)
        self.add_values(values)
        self.errors.add_values(10 ** (-values / 10))

    def compute_pooled(self) -> float:
        """PSNR in dB of the mean squared error over all frames so far, at most `compute`."""
        return -10 * math.log10(self.errors.compute())


class Ssim(FrameMean):
    """Mean SSIM over the frames of one video; see the protocol above."""

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, on any device."""
        self.add_values(ssim_per_frame(reference, other))


class Sharpness:
    """Fine detail of a video relative to its reference; see the protocol above."""

    def __init__(self) -> None:
        self.reference, self.other = FrameMean(), FrameMean()

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, on any device."""
        assert reference.shape == other.shape, "compare frames of equal size"
        self.reference.add_values(gradient_per_frame(reference))
        self.other.add_values(gradient_per_frame(other))

    def compute(self) -> float:
        """1 is as sharp as the reference, less is blurred. Raises ValueError before the first frame."""
        return (self.other.compute() + GRADIENT_EPS) / (self.reference.compute() + GRADIENT_EPS)
