"""Inputs of a generator: conditions (classes or texts), and latents as tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from regen.latents import Latents
from regen.layers.attention import Grid
from regen.layers.positions import grid_positions
from regen.layers.precision import LayerNorm
from regen.networks.dit import Patches
from regen.tiling import Tiling

FIRST_FRAME, OTHER_FRAMES, SEQUENCE, LENGTH = range(4)  # token types; the last two only with 1D latents


@dataclass(frozen=True)
class Condition:
    """A batch of conditions: classes, texts, or nothing.

    `label`: class indices, -1 for none. `text`: hidden states of a text encoder, where `text_mask` is True; a
    sample whose mask is False everywhere has no text.
    """

    label: Int64[Tensor, " b"] | None = None
    text: Float[Tensor, "b m e"] | None = None
    text_mask: Bool[Tensor, "b m"] | None = None

    @classmethod
    def from_batch(cls, batch: Mapping[str, Tensor]) -> "Condition":
        """The condition of a training batch."""
        return cls(batch.get("label"), batch.get("text"), batch.get("text_mask"))

    @classmethod
    def from_text(cls, embeds: Float[Tensor, "b m e"]) -> "Condition":
        """Texts as hidden states, whose rows of zeros are padding."""
        return cls(text=embeds, text_mask=(embeds != 0).any(2))

    def unconditional(self) -> "Condition":
        """As many empty conditions, for classifier-free guidance."""
        label = None if self.label is None else torch.full_like(self.label, -1)
        mask = None if self.text_mask is None else torch.zeros_like(self.text_mask)
        return Condition(label, self.text, mask)

    def dropout(self, prob: float, generators: list[torch.Generator]) -> "Condition":
        """Drop each sample's condition with probability `prob`, drawn from its own generator."""
        draws = torch.stack([torch.rand((), generator=g, device=g.device) for g in generators])
        if self.label is not None:
            return replace(self, label=torch.where(draws.to(self.label.device) < prob, -1, self.label))
        if self.text_mask is None:
            return self
        return replace(self, text_mask=self.text_mask & (draws.to(self.text_mask.device) >= prob)[:, None])

    def concat(self, other: "Condition") -> "Condition":
        """One batch of both, this one first; texts are padded to the longer one."""
        if self.label is not None and other.label is not None:
            return Condition(label=torch.cat([self.label, other.label]))
        if self.text is None or other.text is None or self.text_mask is None or other.text_mask is None:
            return Condition()
        longest = max(self.text.shape[1], other.text.shape[1])
        texts = [F.pad(text, (0, 0, 0, longest - text.shape[1])) for text in (self.text, other.text)]
        masks = [F.pad(mask, (0, longest - mask.shape[1])) for mask in (self.text_mask, other.text_mask)]
        return Condition(text=torch.cat(texts), text_mask=torch.cat(masks))

    def to(self, device: torch.device) -> "Condition":
        return Condition(*(None if value is None else value.to(device) for value in vars(self).values()))


class ConditionEmbedding(nn.Module):
    """A condition as a vector that modulates all blocks, and as tokens that take part in attention.

    The vector of a text is a projection of its mean hidden state; without a text it is learned, and all
    tokens are masked.
    """

    def __init__(self, width: int, num_classes: int, text_width: int | None):
        super().__init__()
        self.num_classes = num_classes
        self.label = nn.Embedding(num_classes + 1, width) if num_classes else None
        if self.label is not None:
            # Much below 1, the noise level drowns it and it is not learned.
            nn.init.normal_(self.label.weight)
        self.text_norm = LayerNorm(text_width) if text_width else None
        if text_width:
            self.text_in = nn.Linear(text_width, width)
            self.text_pool = nn.Sequential(nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width))
            self.null_text = nn.Parameter(torch.zeros(width))

    def forward(
        self, condition: Condition, dtype: torch.dtype
    ) -> tuple[Float[Tensor, "b d"] | None, Float[Tensor, "b m d"] | None, Bool[Tensor, "b m"] | None]:
        """The vector, the text tokens (in `dtype`) and their mask; None for what there is not."""
        if self.label is not None:
            assert condition.label is not None, "the generator has classes"
            label = torch.where(condition.label < 0, self.num_classes, condition.label)
            return self.label(label), None, None
        if self.text_norm is None:
            return None, None, None
        assert condition.text is not None and condition.text_mask is not None, "the generator reads texts"
        mask = condition.text_mask
        states = self.text_norm(condition.text.to(dtype))
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        pooled = torch.where(mask.any(1, keepdim=True), self.text_pool(mean), self.null_text.to(dtype))
        return pooled, self.text_in(states), mask


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
    `patch_size` x `patch_size` latent positions; where these don't divide a side, the border is repeated.
    `region_size` and `num_queries`: see `LatentSpec`.
    """

    chunk_latents: int
    patch_size: int
    region_size: int | None
    num_queries: int | None = None

    @property
    def patches(self) -> Patches:
        """The patches of latents, one token each."""
        return Patches(1, self.patch_size)

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Number of tokens along t, y, x of latents of this size."""
        return self.patches.grid(frames, height, width)

    def token_types(self, grid: Grid, device: torch.device) -> Int64[Tensor, " n"]:
        """Type of each token of the grid: of a chunk's first latent frame (content), or of another one."""
        frames = torch.arange(grid[0], device=device) % self.chunk_latents
        return frames.clamp(max=OTHER_FRAMES).repeat_interleave(grid[1] * grid[2])

    def positions(self, grid: Grid, device: torch.device) -> Float[Tensor, "n 3"]:
        """Positions of the tokens of the grid, t slowest."""
        positions = grid_positions(grid, device)
        positions[:, 0] /= self.chunk_latents
        return positions

    def regions(self, frames: int, height: int, width: int) -> Tiling:
        """Regions of one chunk with their own 1D latents, as in `HybridAutoencoder.regions`.

        `frames` latent frames of consecutive chunks, or one of an image; `height` and `width` of the latents.
        """
        n, side = min(frames, self.chunk_latents), self.region_size or max(height, width)
        if self.num_queries is not None and n * min(height, side) * min(width, side) > self.num_queries:
            side = max(1, isqrt(self.num_queries // n))
        return Tiling.non_overlapping(height, width, side)

    def region_centres(
        self, frames: int, height: int, width: int, *, device: torch.device
    ) -> Float[Tensor, "r 3"]:
        """Centres of the regions of all chunks, chunk after chunk: the positions of their 1D latents.

        The size is that of the latents, as in `regions`.
        """
        places = self.regions(frames, height, width).boxes
        middles = [[(top + bottom) / 2, (left + right) / 2] for (top, bottom), (left, right) in places]
        inside = (torch.tensor(middles, device=device) - self.patch_size / 2) / self.patch_size
        chunks = -(-frames // self.chunk_latents)
        times = torch.arange(chunks, device=device, dtype=torch.float32).repeat_interleave(len(inside))
        return torch.cat([times[:, None], inside.repeat(chunks, 1)], dim=1)

    def sequence(self, latents: Latents) -> SequenceTokens:
        """The 1D latents of a batch; `lengths` has the regions of all chunks, chunk after chunk."""
        frames = latents.shape[2]
        centres = self.region_centres(*latents.shape[2:], device=latents.lengths.device)
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
