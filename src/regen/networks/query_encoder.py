"""QueryEncoder: patches and learned queries in one transformer."""

from math import prod
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers import CheckpointedModule
from regen.layers.attention import Attention, Grid, init_local_attention
from regen.layers.positions import (
    Rope,
    compute_rope,
    grid_positions,
    grid_sinusoidal_embedding,
    sinusoidal_embedding,
)
from regen.layers.precision import LayerNorm
from regen.networks.dit import Feedforward, Patches

QueryPositions = Literal["none", "rotary", "anchored"]
ENCODING_SCALE = 0.25  # of the positions added to queries; larger ones would hide the content of the patches
# Steps of a low-discrepancy sequence: powers of 1 / g with g⁴ = g + 1, whose multiples fill a cube evenly for
# any number of points; in units of 2⁻³², so that the resulting order is the same on every device.
LOW_DISCREPANCY = tuple(round(2**32 * 1.2207440846057596**-power) for power in (1, 2, 3))


class ResolutionTokens(nn.Module):
    """Three tokens that encode the frames, height and width of a clip in pixels."""

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(64, width)
        self.project = nn.Linear(width, width)
        self.type_embedding = nn.Parameter(0.5 * torch.randn(3, width))

    def forward(self, grid: Grid, patches: Patches, dtype: torch.dtype) -> Float[Tensor, "1 3 d"]:
        """The tokens in `dtype`."""
        t, y, x = grid
        sizes = [1 + (t - 1) * patches.frames, y * patches.side, x * patches.side]
        # Filled on the device: no copy, no synchronisation.
        device = self.type_embedding.device
        values = [torch.full((1,), size, dtype=torch.float32, device=device) for size in sizes]
        features = sinusoidal_embedding(torch.cat(values), 64).to(dtype)
        return (self.project(F.silu(self.expand(features))) + self.type_embedding).to(dtype)[None]


def anchors(grid: Grid, device: torch.device) -> Int64[Tensor, " n"]:
    """Indices of all patches of a grid, in an order of which any prefix is spread evenly over the grid."""
    t, y, x = (
        torch.arange(1, length + 1, device=device) * step
        for length, step in zip(grid, LOW_DISCREPANCY, strict=True)
    )
    return torch.argsort(((t[:, None, None] + y[:, None] + x) % 2**32).flatten(), stable=True)


def token_rope(
    grid: Grid,
    queries: int,
    others: int,
    query_positions: QueryPositions,
    head_width: int,
    device: torch.device,
) -> Rope:
    """Rotary positions of the grid's tokens, then of `queries`, then of `others`, which have none."""
    positions = [grid_positions(grid, device), torch.zeros(queries + others, 3, device=device)]
    if query_positions != "none":
        positions[1][:queries] = positions[0][anchors(grid, device)[:queries]]
    return compute_rope(torch.cat(positions), head_width)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = LayerNorm(width, eps=1e-6)
        self.feedforward = Feedforward(width)

    def forward(self, x: Float[Tensor, "b n d"], rope: Rope) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.norm1(x), rope=rope)
        return x + self.feedforward(self.norm2(x))


class QueryEncoder(CheckpointedModule):
    """A padded clip to the moments of its structural and 1D latents (docs/method.md, 15).

    Patch tokens become structural latents, learned queries 1D latents, each kind by a head of its own. A clip
    uses as many queries as it has patches, the first ones of `num_queries`. All 1D latents are computed and
    truncated afterwards, so a shorter sequence is a prefix of a longer one.

    `query_positions`: "anchored" queries start as a patch, have its rotary position, and its sinusoidal
    position added; "rotary" is the same without the addition, "none" queries have no position and no patch
    (ablation). `linear_skip`: a linear map from the pixels of a patch to its structural latent.
    """

    def __init__(
        self,
        channels: int,
        moments: int,
        patches: Patches,
        width: int,
        depth: int,
        heads: int,
        num_queries: int,
        query_positions: QueryPositions,
        linear_skip: bool,
    ):
        super().__init__()
        self.patches, self.channels, self.query_positions = patches, channels, query_positions
        self.head_width = width // heads
        self.embed = nn.Linear(3 * patches.pixels, width)
        self.type_embedding = nn.Parameter(torch.zeros(width))
        # Where queries differ by this table only, its scale must not vanish beside what the blocks add; where
        # they start as patches, it must not hide those.
        scale = 0.1 if query_positions == "anchored" else 0.5
        self.queries = nn.Parameter(scale * torch.randn(num_queries, width))
        self.resolution = ResolutionTokens(width)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        if query_positions != "none":
            init_local_attention(self.blocks)
        self.structural = MomentsHead(width, channels, moments)
        self.sequence = MomentsHead(width, channels, moments)
        self.linear_skip = nn.Linear(3 * patches.pixels, channels) if linear_skip else None

    def forward(
        self, padded: Float[Tensor, "b 3 T H W"], use_queries: bool = True
    ) -> tuple[Float[Tensor, "b m n y x"], Float[Tensor, "b m s"]]:
        """Moments of the structural latents, and of the 1D latents: none without `use_queries`.

        Raises ValueError when the clip has more patches than there are queries.
        """
        units = self.patches.frames, self.patches.side, self.patches.side
        t, y, x = grid = tuple(side // unit for side, unit in zip(padded.shape[2:], units, strict=True))
        count = prod(grid)
        if count > len(self.queries):
            raise ValueError(
                f"A region of {t} x {y} x {x} patches needs {count} queries, got num_queries="
                f"{len(self.queries)}; use a smaller region_size or more queries."
            )
        pixels = self.patches.patchify(padded)
        tokens = self.embed(pixels)
        tokens = tokens + self.type_embedding.to(tokens.dtype)
        parts, length = [tokens], count if use_queries else 0
        if use_queries:
            parts.append(self._queries((t, y, x), tokens))
        resolution = self.resolution((t, y, x), self.patches, tokens.dtype).expand(len(tokens), -1, -1)
        tokens = torch.cat([*parts, resolution], dim=1)
        rope = token_rope((t, y, x), length, 3, self.query_positions, self.head_width, tokens.device)
        for block in self.blocks:
            tokens = self.call_block(block, tokens, rope)
        structural = self.structural(tokens[:, :count])
        if self.linear_skip is not None:
            skip = self.linear_skip(pixels)
            structural = structural + F.pad(skip, (0, structural.shape[2] - self.channels))
        sequence = rearrange(self.sequence(tokens[:, count : count + length]), "b s m -> b m s")
        return rearrange(structural, "b (n y x) m -> b m n y x", n=t, y=y, x=x), sequence

    def _queries(self, grid: Grid, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """As many queries as patches, with what their positions add."""
        queries = self.queries[: tokens.shape[1]].to(tokens.dtype).expand(len(tokens), -1, -1)
        if self.query_positions == "none":
            return queries
        order = anchors(grid, tokens.device)
        queries = queries + tokens[:, order]
        if self.query_positions == "rotary":
            return queries
        t, y, x = (torch.arange(length, device=tokens.device, dtype=torch.float32) for length in grid)
        encoding = grid_sinusoidal_embedding(t, y, x, tokens.shape[2]).flatten(0, 2)[order]
        return queries + (ENCODING_SCALE * encoding).to(tokens.dtype)


class MomentsHead(nn.Module):
    """LayerNorm and linear layer to the mean and, with a posterior, the log variance."""

    def __init__(self, width: int, channels: int, moments: int):
        super().__init__()
        self.norm = LayerNorm(width, eps=1e-6)
        self.project = nn.Linear(width, moments)
        # A standard deviation of 1, five times that of the means, would hide them for hundreds of steps.
        nn.init.constant_(self.project.bias[channels:], -6.0)
        nn.init.zeros_(self.project.weight[channels:])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n m"]:
        return self.project(self.norm(x))
