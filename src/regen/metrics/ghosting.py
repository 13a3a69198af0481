"""Temporal errors: temporal MAE and ghosting rate (both are ours).

PSNR, SSIM and LPIPS compare single frames. A decoder with too few latents for its frames shows a moving thing
twice, half transparent, or blends neighbouring frames. Two metrics measure that:

`TemporalMae`: mean absolute error of frame differences, over pixels and channels, in 8-bit levels. A constant
error (a wrong tint) does not count, noise and flicker count fully, blur counts where things move.

`GhostingRate`: of the blocks (8 x 8 pixels) in which the reference moves, the fraction where a mean of
reference frames explains the reconstruction better than any single frame.

- Candidates are the reference frame, its neighbours (at the ends of a video the one that exists), and the
  means of two or three of them. The error of a candidate is its mean squared difference to the reconstruction
  after the weights of three Gaussian blurs of it are fitted: so blur alone is not ghosting, and a blurred
  ghost is.
- The reference moves in a block when each mean differs from each frame by 3 levels (root mean square) after
  the same fit. Elsewhere a ghost can't be seen, and the block does not count.
- A block is ghosted when the best mean has less than half the error of the best single frame. The margin is
  needed because a mean is nearer to anything, such as noise or a wrong frame, than a single frame is.

The rate is taken over the whole video: 0 for the reference and for a late, blurred or noisy copy of it, near
1 for means of neighbouring frames.
"""

from itertools import combinations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

BLOCK = 8  # pixels of a side
BLURS = (1.0, 2.0, 4.0)  # standard deviations in pixels
VISIBLE = 3.0  # levels, root mean square over a block
MARGIN = 0.5  # of the error of the best single frame


class TemporalMae:
    """Mean absolute error of frame differences in 8-bit levels; see above."""

    def __init__(self) -> None:
        self.total, self.changes = 0.0, 0
        self._last: Tensor | None = None

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, any number, on any device."""
        assert reference.shape == other.shape, "compare frames of equal size"
        for original, frame in zip(reference, other, strict=True):
            error = frame.short() - original.short()
            if self._last is not None:
                self.total += int((error - self._last).abs().sum()) / error.numel()
                self.changes += 1
            self._last = error

    def compute(self) -> float | None:
        """0 when all changes equal those of the reference; None for fewer than two frames."""
        return self.total / self.changes if self.changes else None


class GhostingRate:
    """Fraction of moving blocks that are blends of neighbouring frames, between 0 and 1; see above.

    A frame is evaluated when the next one is there: two reference frames and one reconstruction are held.
    """

    def __init__(self) -> None:
        self.moving, self.ghosted = 0, 0  # blocks
        self._references: list[Tensor] = []  # blurred blocks of the pending frame and the one before
        self._pending: Tensor | None = None  # blocks of the reconstruction

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, any number, on any device."""
        assert reference.shape == other.shape, "compare frames of equal size"
        for original, frame in zip(reference, other, strict=True):
            self._references.append(_blurred_blocks(original))
            moving, ghosted = self._count()
            self.moving, self.ghosted = self.moving + moving, self.ghosted + ghosted
            del self._references[:-2]
            self._pending = _blocks(frame)

    def compute(self) -> float | None:
        """0 is free of ghosts; None when nothing moves, as in a single frame."""
        moving, ghosted = self._count()  # the last frame, which has no next one
        return (self.ghosted + ghosted) / (self.moving + moving) if self.moving + moving else None

    def _count(self) -> tuple[int, int]:
        """Number of blocks of the pending frame that move, and of those that are ghosted."""
        if self._pending is None or len(self._references) < 2:
            return 0, 0
        moving, ghosted = _moving_and_ghosted(self._pending, self._references)
        return int(moving.sum()), int(ghosted.sum())


def _blocks(frame: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "n v"]:
    """The n complete blocks of a frame, v = 8 x 8 x 3 values each."""
    return _to_blocks(rearrange(frame, "h w c -> c 1 h w").to(torch.float32))


def _blurred_blocks(frame: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "k n v"]:
    """The blocks of a frame, and how each blur changes them."""
    image = rearrange(frame, "h w c -> c 1 h w").to(torch.float32)
    return torch.stack([_to_blocks(image), *(_to_blocks(blur(image, sigma) - image) for sigma in BLURS)])


def _to_blocks(image: Float[Tensor, "c 1 h w"]) -> Float[Tensor, "n v"]:
    height, width = (side // BLOCK * BLOCK for side in image.shape[2:])
    whole = image[..., :height, :width]
    return rearrange(whole, "c 1 (y p) (x q) -> (y x) (c p q)", p=BLOCK, q=BLOCK)


def blur(image: Float[Tensor, "c 1 h w"], sigma: float) -> Float[Tensor, "c 1 h w"]:
    """Gaussian blur up to three standard deviations, with replicated borders."""
    radius = round(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image, [radius] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])


def _moving_and_ghosted(
    frame: Float[Tensor, "n v"], references: list[Tensor]
) -> tuple[Bool[Tensor, " m"], Bool[Tensor, " m"]]:
    """Which of the m candidate blocks move, and which of these are ghosted."""
    pairs = list(combinations(references, 2))
    # A mean of two frames differs from each by half their difference: an upper bound, cheap to test.
    bound = torch.stack([(a[0] - b[0]).square().mean(1).sqrt() / 2 for a, b in pairs]).amin(0)
    candidates = bound >= VISIBLE
    target = frame[candidates]
    singles = [reference[:, candidates] for reference in references]
    groups = [group for count in (2, 3) for group in combinations(singles, count)]
    means = [torch.stack(group).mean(0) for group in groups]
    distances = [_error(mean[0], single) for mean in means for single in singles]
    moving = torch.stack(distances).amin(0) >= VISIBLE**2
    best_single = torch.stack([_error(target, single) for single in singles]).amin(0)
    best_mean = torch.stack([_error(target, mean) for mean in means]).amin(0)
    return moving, moving & (best_mean < MARGIN * best_single)


def _error(target: Float[Tensor, "n v"], candidate: Float[Tensor, "k n v"]) -> Float[Tensor, " n"]:
    """Mean squared error of a candidate with the best blur for each block (least squares)."""
    error = target - candidate[0]
    changes = rearrange(candidate[1:], "k n v -> n v k")
    identity = torch.eye(len(BLURS), device=error.device, dtype=error.dtype)
    normal = changes.mT @ changes + identity  # regularised for flat blocks; visible changes are much larger
    weights = torch.linalg.solve(normal, changes.mT @ error[..., None])
    return (error - (changes @ weights)[..., 0]).square().mean(1)
