"""How visible the seams between chunks are: the jump across their borders over that inside them.

Chunks that are decoded apart meet with a small jump of brightness and texture at every border, and latent
extension makes these jumps smaller (REGEN paper, section on latent extension; spec A9). The measure:

- The jump between two neighbouring frames is the mean absolute difference of their 8-bit levels, over all
  pixels and channels. It crosses a border when its later frame is the first of a chunk.
- A video's step is its mean jump across borders over its mean jump inside chunks, 0.1 levels added to both,
  so that a still picture has one, too.
- The ratio is the step of the reconstruction over that of the reference. What the reference does at its own
  borders, such as a cut, thus counts for nothing: 1 is seamless, 2 is a border that jumps twice as far.
"""

from statistics import fmean

from jaxtyping import UInt8
from torch import Tensor

JUMP_EPS = 0.1  # levels added to every mean jump, so that no mean is zero; too few for an eye to see


def jump(before: UInt8[Tensor, "h w 3"], after: UInt8[Tensor, "h w 3"]) -> float:
    """Mean absolute difference of two frames in levels, 0 to 255."""
    return int((after.short() - before.short()).abs().sum()) / before.numel()


class ChunkJumps:
    """The jumps of one video in levels, those across the borders of its chunks and those inside them."""

    def __init__(self, chunk_frames: int) -> None:
        self.chunk_frames = chunk_frames
        self.across_borders: list[float] = []
        self.inside_chunks: list[float] = []
        self.frames = 0
        self._last: Tensor | None = None

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames, any number; only the last one is kept."""
        last = self._last
        for frame in frames:
            if last is not None:
                is_border = self.frames % self.chunk_frames == 0
                (self.across_borders if is_border else self.inside_chunks).append(jump(last, frame))
            last = frame
            self.frames += 1
        self._last = None if last is None else last.clone()  # a view would keep all of `frames`

    def step(self) -> float | None:
        """Mean jump across borders over that inside chunks; None without a border or without an inside."""
        if not self.across_borders or not self.inside_chunks:
            return None
        return (fmean(self.across_borders) + JUMP_EPS) / (fmean(self.inside_chunks) + JUMP_EPS)


class SeamRatio:
    """How much larger a video's jumps are at chunk borders than those of its reference; see above.

    `reference` and `other` hold the jumps of both videos. ValueError when `chunk_frames` is under 1.
    """

    def __init__(self, chunk_frames: int) -> None:
        if chunk_frames < 1:
            raise ValueError(f"A chunk of {chunk_frames} frames is impossible; give 1 or more.")
        self.reference, self.other = ChunkJumps(chunk_frames), ChunkJumps(chunk_frames)

    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames of both videos: 8-bit RGB of equal size, any number, on any device."""
        assert reference.shape == other.shape, "compare frames of equal size"
        self.reference.update(reference)
        self.other.update(other)

    def compute(self) -> float | None:
        """1 is seamless; None while there is no border or no inside: one chunk, or chunks of one frame."""
        reference, other = self.reference.step(), self.other.step()
        return None if reference is None or other is None else other / reference
