"""Border ratio: how visible the borders between patches of 8 x 8 pixels are.

Decoders that make each patch from one token leave edges between patches. The metric:

- The step of a video is the mean absolute difference of neighbouring pixels on two sides of a border (at
  multiples of 8), over that of neighbours inside a patch, with 0.1 levels added to both for
  flat pictures.
- The border ratio is the step of the reconstruction over that of the reference. 1 is invisible, 2 is a border
  that jumps twice as far.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.metrics.seams import JUMP_EPS, JumpRatio

SIDE = 8  # of a patch


class PatchJumps:
    """Differences of neighbouring pixels of one video in levels, across the borders of patches and inside."""

    def __init__(self) -> None:
        self.sums, self.counts = [0, 0], [0, 0]  # inside, across

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames, any number."""
        for frame in frames.short():
            for axis in (0, 1):
                lines = frame.diff(dim=axis).abs().sum((1 - axis, 2))
                is_border = torch.arange(1, len(lines) + 1, device=lines.device) % SIDE == 0
                for index, chosen in enumerate((~is_border, is_border)):
                    self.sums[index] += int(lines[chosen].sum())
                    self.counts[index] += int(chosen.sum()) * frame.shape[1 - axis] * 3

    def step(self) -> float | None:
        """Mean jump across borders over that inside patches; None without borders."""
        if not all(self.counts):
            return None
        inside, across = (total / count for total, count in zip(self.sums, self.counts, strict=True))
        return (across + JUMP_EPS) / (inside + JUMP_EPS)


class BorderRatio(JumpRatio):
    """Jumps of a video at the borders of patches relative to its reference; see above."""

    def __init__(self) -> None:
        super().__init__(PatchJumps(), PatchJumps())
