"""Patches of several frames, the first frame of a clip on its own."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from regen.layers.attention import Grid


@dataclass(frozen=True)
class Patches:
    """Patches of `frames` frames and `side` x `side` pixels (docs/method.md, 14)."""

    frames: int = 4
    side: int = 16

    @property
    def pixels(self) -> int:
        """Number of positions of a patch in time and space."""
        return self.frames * self.side**2

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Patches of a clip along t, y and x: 1 + ⌈(T - 1) / P_t⌉, ⌈H / P_s⌉, ⌈W / P_s⌉."""
        return 1 - (1 - frames) // self.frames, -(-height // self.side), -(-width // self.side)

    def pad(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c T H W"]:
        """Replicate the first frame to fill a patch, the last one to fill its group, and the right and lower
        border; `crop` is the inverse."""
        t, h, w = clip.shape[2:]
        (n, y, x), front = self.grid(t, h, w), self.frames - 1
        sides = (0, x * self.side - w, 0, y * self.side - h, front, n * self.frames - front - t)
        return F.pad(clip, sides, mode="replicate")

    def crop(
        self, padded: Float[Tensor, "b c T H W"], frames: int, height: int, width: int
    ) -> Float[Tensor, "b c t h w"]:
        """Remove the padding of a clip of the given size."""
        front = self.frames - 1
        return padded[:, :, front : front + frames, :height, :width]

    def patchify(self, padded: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b n e"]:
        """Turn each patch of a padded clip into one token, t slowest."""
        sizes = {"p": self.frames, "q": self.side, "r": self.side}
        return rearrange(padded, "b c (t p) (y q) (x r) -> b (t y x) (p q r c)", **sizes)

    def unpatchify(self, tokens: Float[Tensor, "b n e"], grid: Grid) -> Float[Tensor, "b c T H W"]:
        """Inverse of `patchify` for e / (P_t P_s²) channels: 3-D pixel shuffle."""
        sizes = dict(zip("tyxpqr", (*grid, self.frames, self.side, self.side), strict=True))
        return rearrange(tokens, "b (t y x) (p q r c) -> b c (t p) (y q) (x r)", **sizes)
