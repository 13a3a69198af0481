"""Seam ratio: how visible the borders between chunks are.

Independently decoded chunks differ a little in brightness and texture where they meet; latent extension
reduces these jumps (REGEN, Sec. 3.4). The metric:

- The jump between neighbouring frames is their mean absolute difference in 8-bit levels, over pixels and
  channels. It crosses a border when its later frame is the first of a chunk.
- The step of a video is its mean jump across borders over its mean jump inside chunks, with 0.1 levels added
  to both for still pictures.
- The seam ratio is the step of the reconstruction over that of the reference, so jumps of the reference
  itself, such as a cut, cancel out. 1 is seamless, 2 is a border that jumps twice as far.
"""

from statistics import fmean
from typing import Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

JUMP_EPS = 0.1  # levels added to every mean jump


def jump(before: UInt8[Tensor, "h w 3"], after: UInt8[Tensor, "h w 3"]) -> float:
    """Mean absolute difference of two frames in levels, 0 to 255."""
    return int((after.short() - before.short()).abs().sum()) / before.numel()


class ChunkJumps:
    """Jumps of one video in levels, across the borders of its chunks and inside them."""

    def __init__(self, chunk_frames: int) -> None:
        self.chunk_frames = chunk_frames
        self.across_borders: list[float] = []
        self.inside_chunks: list[float] = []
        self.frames = 0
        self._last: Tensor | None = None

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames, any number; only the last one is held."""
        last = self._last
        for frame in frames:
            if last is not None:
                is_border = self.frames % self.chunk_frames == 0
                (self.across_borders if is_border else self.inside_chunks).append(jump(last, frame))
            last = frame
            self.frames += 1
        self._last = None if last is None else last.clone()  # a view would hold all of `frames`

    def step(self) -> float | None:
        """Mean jump across borders over that inside chunks; None when either has no frames."""
        if not self.across_borders or not self.inside_chunks:
            return None
        return (fmean(self.across_borders) + JUMP_EPS) / (fmean(self.inside_chunks) + JUMP_EPS)


@runtime_checkable
class Jumps(Protocol):
    """Jumps of one video, in two groups."""

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None: ...

    def step(self) -> float | None: ...


class JumpRatio:
    """The step of a video relative to that of its reference."""

    def __init__(self, reference: Jumps, other: Jumps) -> None:
        self.reference, self.other = reference, other

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, any number, on any device."""
        assert reference.shape == other.shape, "compare frames of equal size"
        self.reference.update(reference)
        self.other.update(other)

    def compute(self) -> float | None:
        """1 is invisible; None for videos without borders, or of borders alone."""
        reference, other = self.reference.step(), self.other.step()
        return None if reference is None or other is None else other / reference


class SeamRatio(JumpRatio):
    """Jumps of a video at chunk borders relative to its reference; see above."""

    def __init__(self, chunk_frames: int) -> None:
        super().__init__(ChunkJumps(chunk_frames), ChunkJumps(chunk_frames))
