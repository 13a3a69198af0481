"""LPIPS of whole videos, fed a few frames at a time: every frame alone, then the mean over frames."""

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.evaluate.metrics import FrameMean
from regen.losses.perceptual import Lpips

PIXELS_AT_ONCE = 512 * 512  # of one video; bounds the memory whatever the number of frames


class LpipsOfFrames(FrameMean):
    """Mean LPIPS over the frames of one video, measured on the device of `lpips` (name its `net` with it)."""

    def __init__(self, lpips: Lpips) -> None:
        super().__init__()
        self.lpips = lpips

    @torch.no_grad()
    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames of both videos: 8-bit RGB of equal size, on any device.

        ValueError when a side is under the 31 (alex) or 16 (vgg) pixels that the network needs.
        """
        assert reference.shape == other.shape, "compare frames of equal size"
        if len(reference) == 0:
            return
        count = max(1, PIXELS_AT_ONCE // reference[0, ..., 0].numel())
        for first, second in zip(reference.split(count), other.split(count), strict=True):
            self.add(self.lpips(self._images(second), self._images(first)))

    def _images(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "t 3 h w"]:
        images = rearrange(frames.to(self.lpips.mean.device), "t h w c -> t c h w")
        return images.to(self.lpips.mean.dtype) / 127.5 - 1
