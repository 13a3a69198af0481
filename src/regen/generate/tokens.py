"""Latents as tokens: types, positions and masks."""

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

FIRST_FRAME, OTHER_FRAMES, SEQUENCE, LENGTH = range(4)  # token types; the last two only with 1D latents


class SequenceTokens(NamedTuple):
    """The 1D latents of a batch without their values; `rank` counts from 0 in each region."""

    positions: Float[Tensor, "b s 3"]
    rank: Int64[Tensor, "b s"]
    chunk: Int64[Tensor, "b s"]
    mask: Bool[Tensor, "b s"]  # False for padding


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of consecutive chunks in time and space.

    Positions are (t, y, x): t counts chunks, whose latent frames are evenly spaced; y and x count tokens of
    `patch_size` x `patch_size` latent positions. `region_size` and `num_queries`: see `LatentSpec`.
    """

    chunk_latents: int
    patch_size: int
    region_size: int | None
    num_queries: int | None = None

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Number of tokens along t, y, x. Raises ValueError for a size that patches don't divide."""
        patch = self.patch_size
        if height % patch or width % patch:
            raise ValueError(
                f"Latents of {height}x{width} must divide into patches of {patch}; change the size."
            )
        return frames, height // patch, width // patch

    def token_types(self, grid: Grid, device: torch.device) -> Int64[Tensor, " n"]:
        """Type of each token of the grid: of a chunk's first latent frame (content), or of another one."""
        frames = torch.arange(grid[0], device=device) % self.chunk_latents
        return frames.clamp(max=OTHER_FRAMES).repeat_interleave(grid[1] * grid[2])

    def positions(self, grid: Grid, device: torch.device) -> Float[Tensor, "n 3"]:
        """Positions of the tokens of the grid, t slowest."""
        times = torch.arange(grid[0], device=device, dtype=torch.float32) / self.chunk_latents
        axes = [times, *(torch.arange(size, device=device, dtype=torch.float32) for size in grid[1:])]
        return torch.cartesian_prod(*axes)

    def regions(self, frames: int, height: int, width: int) -> Tiling:
        """Regions of one chunk with their own 1D latents, as in `HybridAutoencoder.regions`.

        `frames` latent frames of consecutive chunks, or one of an image; `height` and `width` of the latents.
        """
        n, side = min(frames, self.chunk_latents), self.region_size or max(height, width)
        if self.num_queries is not None and n * min(height, side) * min(width, side) > self.num_queries:
            side = max(1, isqrt(self.num_queries // n))
        return Tiling.non_overlapping(height, width, side)

    def region_centres(self, grid: Grid, device: torch.device) -> Float[Tensor, "r 3"]:
        """Centres of the regions of all chunks, chunk after chunk: the positions of their 1D latents."""
        places = self.regions(grid[0], grid[1] * self.patch_size, grid[2] * self.patch_size).boxes
        middles = [[(top + bottom) / 2, (left + right) / 2] for (top, bottom), (left, right) in places]
        inside = (torch.tensor(middles, device=device) - self.patch_size / 2) / self.patch_size
        chunks = -(-grid[0] // self.chunk_latents)
        times = torch.arange(chunks, device=device, dtype=torch.float32)
        times = repeat(times, "k -> (k r) 1", r=len(inside))
        return torch.cat([times, repeat(inside, "r two -> (k r) two", k=chunks)], dim=1)

    def sequence(self, latents: Latents) -> SequenceTokens:
        """The 1D latents of a batch; `lengths` has the regions of all chunks, chunk after chunk."""
        frames, height, width = latents.shape[2:]
        centres = self.region_centres(self.grid(frames, height, width), latents.lengths.device)
        assert latents.lengths.shape[1] == len(centres), "one length for each region of each chunk"
        ends = latents.lengths.cumsum(1)
        steps = torch.arange(latents.sequence.shape[2], device=ends.device).expand(len(ends), -1)
        region = torch.searchsorted(ends, steps.contiguous(), right=True).clamp(max=len(centres) - 1)
        rank = steps - (ends - latents.lengths).gather(1, region)
        chunk = region // (len(centres) // -(-frames // self.chunk_latents))
        return SequenceTokens(centres[region], rank, chunk, steps < ends[:, -1:])

    def generated_mask(self, latents: Latents, given_mask: Bool[Tensor, "b f"]) -> Latents:
        """Mask of the values to generate, neither padding nor given, as latents of 1 channel.

        The 1D latents of a chunk are given together with its last latent frame.
        """
        grid = ~given_mask[:, None, :, None, None]
        if not latents.has_sequence:
            return Latents.of(grid)
        tokens, last = self.sequence(latents), given_mask[:, self.chunk_latents - 1 :: self.chunk_latents]
        mask = tokens.mask
        if last.shape[1]:
            mask = mask & ~last.gather(1, tokens.chunk.clamp(max=last.shape[1] - 1))
        return Latents(grid, mask[:, None], latents.lengths)


def concat_chunks(chunks: Latents) -> Latents:
    """A batch of k chunks as the latents of one video, without a batch axis."""
    grid = rearrange(chunks.grid, "k c n y x -> c (k n) y x")
    return Latents(grid, chunks.flat(), chunks.lengths.flatten())


def split_chunks(latents: Latents, chunk_latents: int) -> list[Latents]:
    """The chunks of one video: the inverse of `concat_chunks`."""
    grids = latents.grid.split(chunk_latents, dim=1)
    lengths = latents.lengths.chunk(len(grids))
    sequences = latents.sequence.split(torch.stack(lengths).sum(1).tolist(), dim=-1)
    return [Latents(*parts) for parts in zip(grids, sequences, lengths, strict=True)]
