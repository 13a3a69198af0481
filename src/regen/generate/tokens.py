"""Latents as a row of tokens: where each lies, of what kind it is, and what is known of it beforehand."""

from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from regen.latents import Latents
from regen.layers.attention import Grid
from regen.tiling import Tiling

FIRST_FRAME, OTHER_FRAMES, SEQUENCE, LENGTH = range(
    4
)  # kinds of tokens; the last two only where there are 1D latents


class SequenceTokens(NamedTuple):
    """What is known of each 1D latent of a batch besides its values."""

    positions: Float[Tensor, "b s 3"]
    index: Int64[Tensor, "b s"]  # in its region, from 0
    chunk: Int64[Tensor, "b s"]
    mask: Bool[Tensor, "b s"]  # False for what fills up


@dataclass(frozen=True)
class TokenLayout:
    """How latents of several chunks in a row lie in time and in the picture.

    Positions are (t, y, x): t counts chunks, with the latent frames of a chunk at equal parts of it; y and x
    count tokens, of `patch` x `patch` places.
    """

    chunk_latents: int
    patch_size: int
    region_size: int | None
    num_queries: int | None = None

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Tokens along t, y, x. Raises ValueError when the patches don't divide the places."""
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"Latents of {height} x {width} places don't divide into patches of {self.patch_size}; give a "  # noqa: E501
                "size in pixels that does."
            )
        return frames, height // self.patch_size, width // self.patch_size

    def token_types(self, grid: Grid, device: torch.device) -> Int64[Tensor, " n"]:
        """The kind of each token of the grid: of a chunk's first latent frame (content), or of another."""
        frames = torch.arange(grid[0], device=device) % self.chunk_latents
        return frames.clamp(max=OTHER_FRAMES).repeat_interleave(grid[1] * grid[2])

    def positions(self, grid: Grid, device: torch.device) -> Float[Tensor, "n 3"]:
        """Of the tokens of the grid, t slowest."""
        times = torch.arange(grid[0], device=device, dtype=torch.float32) / self.chunk_latents
        axes = [times, *(torch.arange(size, device=device, dtype=torch.float32) for size in grid[1:])]
        return torch.cartesian_prod(*axes)

    def regions(self, frames: int, height: int, width: int) -> Tiling:
        """The regions of one chunk with 1D latents of their own, as `HybridAutoencoder.regions` has them.

        `frames` latent frames of chunks in a row, or one of an image; `height` and `width` in places.
        """
        n, side = min(frames, self.chunk_latents), self.region_size or max(height, width)
        if self.num_queries is not None and n * min(height, side) * min(width, side) > self.num_queries:
            side = max(1, isqrt(self.num_queries // n))
        return Tiling.non_overlapping(height, width, side)

    def region_centres(self, grid: Grid, device: torch.device) -> Float[Tensor, "r 3"]:
        """The middles of the regions of all chunks, chunk after chunk: where their 1D latents lie."""
        places = self.regions(grid[0], grid[1] * self.patch_size, grid[2] * self.patch_size).boxes
        middles = [[(top + bottom) / 2, (left + right) / 2] for (top, bottom), (left, right) in places]
        inside = (torch.tensor(middles, device=device) - self.patch_size / 2) / self.patch_size
        chunks = -(-grid[0] // self.chunk_latents)
        times = torch.arange(chunks, device=device, dtype=torch.float32)
        return torch.cat(
            [
                repeat(times, "k -> (k r) 1", r=len(inside)),
                repeat(inside, "r two -> (k r) two", k=chunks),
            ],
            dim=1,
        )

    def sequence(self, latents: Latents) -> SequenceTokens:
        """The 1D latents of a batch; `lengths` has the regions of all chunks, chunk after chunk."""
        frames, height, width = latents.shape[2:]
        centres = self.region_centres(self.grid(frames, height, width), latents.lengths.device)
        assert latents.lengths.shape[1] == len(centres), "one length for each region of each chunk"
        ends = latents.lengths.cumsum(1)
        steps = torch.arange(latents.sequence.shape[2], device=ends.device).expand(len(ends), -1)
        region = torch.searchsorted(ends, steps.contiguous(), right=True).clamp(max=len(centres) - 1)
        index = steps - (ends - latents.lengths).gather(1, region)
        chunk = region // (len(centres) // -(-frames // self.chunk_latents))
        return SequenceTokens(centres[region], index, chunk, steps < ends[:, -1:])

    def unknown_masks(self, latents: Latents, given: Bool[Tensor, "b f"]) -> Latents:
        """The mask of the values that exist and are not given, as latents of 1 channel.

        The 1D latents of a chunk are given with its last latent frame.
        """
        unknown = ~given[:, None, :, None, None]
        if not latents.has_sequence:
            return Latents.of(unknown)
        tokens = self.sequence(latents)
        last = given[:, self.chunk_latents - 1 :: self.chunk_latents]
        known = last.gather(1, tokens.chunk.clamp(max=max(0, last.shape[1] - 1))) if last.shape[1] else None
        there = tokens.mask if known is None else tokens.mask & ~known
        return Latents(unknown, there[:, None], latents.lengths)


def concat_chunks(chunks: Latents) -> Latents:
    """The chunks of a video, a batch of k, as latents in a row without a batch axis."""
    grid = rearrange(chunks.grid, "k c n y x -> c (k n) y x")
    return Latents(grid, chunks.flat(), chunks.lengths.flatten())


def split_chunks(latents: Latents, chunk_latents: int) -> list[Latents]:
    """The inverse of `concat_chunks`: the latents of each chunk."""
    grids = latents.grid.split(chunk_latents, dim=1)
    lengths = latents.lengths.chunk(len(grids))
    sequences = latents.sequence.split(torch.stack(lengths).sum(1).tolist(), dim=-1)
    return [Latents(*parts) for parts in zip(grids, sequences, lengths, strict=True)]
