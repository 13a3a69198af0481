"""What is wrong between the frames: motion that differs, and frames blended into each other (ghosting).

PSNR, SSIM and LPIPS look at frames alone. A decoder that has too few latents for its frames shows a moving
thing twice, half transparent, or lets neighbouring frames flow into each other. Two measures look for it
(both are ours):

`DifferenceError`: the mean absolute error of the change from frame to frame, over pixels and channels, in
8-bit levels. It is not divided by the motion of the reference, so it reads like an error of pixels. A
constant mistake (a wrong tint) counts for nothing, noise and flicker count fully, blur where things move.

`BlendedShare`: where the reference moves, the share of the reconstruction that a mixture of frames explains
better than any single frame. It is decided for blocks of 8 x 8 pixels:

- The candidates are the reference frame, the ones before and after it (at the ends of a video the one that
  exists), and the means of any two and of all three of them. A candidate's error is its mean squared
  difference to the reconstruction, after the weights of three Gaussian blurs of it have been fitted: blur
  alone is no ghosting, and a blurred ghost is one.
- The reference moves in a block when each mean differs from each of the frames by 3 levels (root mean square)
  even after that fit. Where the picture is still, or so slow or smooth that the mean of its frames looks like
  one of them, no ghost can be seen, and the block does not count.
- A block is blended when the best mean has less than half the error of the best single frame. The margin is
  there because a mean is nearer to anything, to noise and to a wrong frame, than a single frame is.

The share is that of the blended blocks among those that move, over the whole video: 0 for the reference
itself, for one that is late, blurred or noisy, and near 1 for means of neighbours.
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
    """Mean absolute error of the changes between frames in levels; see above."""

    def __init__(self) -> None:
        self.total, self.changes = 0.0, 0
        self._last: Tensor | None = None

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames of both videos: 8-bit RGB of equal size, any number, on any device."""
        assert reference.shape == other.shape, "compare frames of equal size"
        for original, frame in zip(reference, other, strict=True):
            error = frame.short() - original.short()
            if self._last is not None:
                self.total += int((error - self._last).abs().sum()) / error.numel()
                self.changes += 1
            self._last = error

    def compute(self) -> float | None:
        """0 when everything changes as in the reference; None while there are fewer than two frames."""
        return self.total / self.changes if self.changes else None


class GhostingRate:
    """Share of what moves that is a blend of neighbouring frames, between 0 and 1; see above.

    A frame is judged when the next one has come; two reference frames and one reconstruction wait for that.
    """

    def __init__(self) -> None:
        self.moving, self.blended = 0, 0  # blocks
        self._references: list[Tensor] = []  # blurred blocks of the frame before the waiting one, and of it
        self._waiting: Tensor | None = None  # blocks of the reconstruction

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames of both videos: 8-bit RGB of equal size, any number, on any device."""
        assert reference.shape == other.shape, "compare frames of equal size"
        for original, frame in zip(reference, other, strict=True):
            self._references.append(_blurred_blocks(original))
            moving, blended = self._judge()
            self.moving, self.blended = self.moving + moving, self.blended + blended
            del self._references[:-2]
            self._waiting = _blocks(frame)

    def compute(self) -> float | None:
        """0 is free of ghosts; None while nothing moves, as in a video of one frame or of a still picture."""
        moving, blended = self._judge()  # the last frame, which has none after it
        return (self.blended + blended) / (self.moving + moving) if self.moving + moving else None

    def _judge(self) -> tuple[int, int]:
        """How many blocks of the waiting frame move, and how many of these are blended."""
        if self._waiting is None or len(self._references) < 2:
            return 0, 0
        moving, blended = _judge(self._waiting, self._references)
        return int(moving.sum()), int(blended.sum())


def _blocks(frame: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "n v"]:
    """The n whole blocks of a frame, v = 8 x 8 x 3 values; what fills no block at the border is left out."""
    return _cut(rearrange(frame, "h w c -> c 1 h w").to(torch.float32))


def _blurred_blocks(frame: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "k n v"]:
    """The blocks of a frame, and the changes that each of the blurs makes to them."""
    image = rearrange(frame, "h w c -> c 1 h w").to(torch.float32)
    return torch.stack([_cut(image), *(_cut(_blur(image, sigma) - image) for sigma in BLURS)])


def _cut(image: Float[Tensor, "c 1 h w"]) -> Float[Tensor, "n v"]:
    height, width = (side // BLOCK * BLOCK for side in image.shape[2:])
    whole = image[..., :height, :width]
    return rearrange(whole, "c 1 (y p) (x q) -> (y x) (c p q)", p=BLOCK, q=BLOCK)


def _blur(image: Float[Tensor, "c 1 h w"], sigma: float) -> Float[Tensor, "c 1 h w"]:
    """Gaussian blur, cut off at three standard deviations, the frame repeated beyond its border."""
    reach = round(3 * sigma)
    ramp = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    bell = torch.exp(-ramp.square() / (2 * sigma**2))
    bell = bell / bell.sum()
    padded = F.pad(image, [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, bell[None, None, None]), bell[None, None, :, None])


def _judge(
    frame: Float[Tensor, "n v"], references: list[Tensor]
) -> tuple[Bool[Tensor, " m"], Bool[Tensor, " m"]]:
    """Which of the blocks that may move do so, and which of them are blended."""
    pairs = list(combinations(references, 2))
    # The mean of two frames is half their difference away from each: an upper bound, quick to test.
    near = torch.stack([(a[0] - b[0]).square().mean(1).sqrt() / 2 for a, b in pairs]).amin(0)
    candidates = near >= VISIBLE
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
    """Mean squared error of a candidate with the blur that suits each block best (least squares)."""
    error = target - candidate[0]
    changes = rearrange(candidate[1:], "k n v -> n v k")
    identity = torch.eye(len(BLURS), device=error.device, dtype=error.dtype)
    normal = changes.mT @ changes + identity  # the identity, small beside visible changes, for flat blocks
    weights = torch.linalg.solve(normal, changes.mT @ error[..., None])
    return (error - (changes @ weights)[..., 0]).square().mean(1)
