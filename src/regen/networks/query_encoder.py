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
from regen.layers.positions import Rope, compute_rope, grid_positions, sinusoidal_embedding
from regen.networks.dit import Feedforward, Patches

QueryPositions = Literal["none", "anchored"]
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

    def forward(self, grid: Grid, patches: Patches) -> Float[Tensor, "1 3 d"]:
        t, y, x = grid
        sizes = [1 + (t - 1) * patches.frames, y * patches.side, x * patches.side]
        # Filled on the device: no copy, no synchronisation.
        values = [torch.full((1,), float(size), device=self.type_embedding.device) for size in sizes]
        features = sinusoidal_embedding(torch.cat(values), 64).to(self.type_embedding.dtype)
        return (self.project(F.silu(self.expand(features))) + self.type_embedding)[None]


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
    if query_positions == "anchored":
        positions[1][:queries] = positions[0][anchors(grid, device)[:queries]]
    return compute_rope(torch.cat(positions), head_width)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.feedforward = Feedforward(width)

    def forward(self, x: Float[Tensor, "b n d"], rope: Rope) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.norm1(x), rope=rope)
        return x + self.feedforward(self.norm2(x))


class QueryEncoder(CheckpointedModule):
    """A padded clip to the moments of its structural and 1D latents (docs/method.md, 15).

    Patch tokens become structural latents, learned queries 1D latents, each kind by a head of its own. A clip
    uses as many queries as it has patches, the first ones of `num_queries`. All 1D latents are computed and
    truncated afterwards, so a shorter sequence is a prefix of a longer one.

    `query_positions`: "anchored" queries start as a patch and share its position; "none" is the plain
    variant. `linear_skip`: a linear map from the pixels of a patch to its structural latent.
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
        # Queries differ by this table only, so its scale must not vanish beside what the blocks add.
        self.queries = nn.Parameter(0.5 * torch.randn(num_queries, width))
        self.resolution = ResolutionTokens(width)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        if query_positions != "none":
            init_local_attention(self.blocks)
        self.structural = MomentsHead(width, channels, moments)
        self.sequence = MomentsHead(width, channels, moments)
        self.linear_skip = nn.Linear(3 * patches.pixels, channels) if linear_skip else None

    def forward(
        self, padded: Float[Tensor, "b 3 T H W"]
    ) -> tuple[Float[Tensor, "b m n y x"], Float[Tensor, "b m s"]]:
        """Raises ValueError when the clip has more patches than there are queries."""
        units = self.patches.frames, self.patches.side, self.patches.side
        t, y, x = grid = tuple(side // unit for side, unit in zip(padded.shape[2:], units, strict=True))
        count = prod(grid)
        if count > len(self.queries):
            raise ValueError(
                f"A region of {t} x {y} x {x} patches needs {count} queries, got num_queries="
                f"{len(self.queries)}; use a smaller region_size or more queries."
            )
        pixels = self.patches.patchify(padded)
        tokens = self.embed(pixels) + self.type_embedding
        queries = self.queries[:count].to(tokens.dtype).expand(len(tokens), -1, -1)
        if self.query_positions == "anchored":
            queries = queries + tokens[:, anchors((t, y, x), tokens.device)]
        resolution = self.resolution((t, y, x), self.patches).to(tokens.dtype).expand(len(tokens), -1, -1)
        tokens = torch.cat([tokens, queries, resolution], dim=1)
        rope = token_rope((t, y, x), count, 3, self.query_positions, self.head_width, tokens.device)
        for block in self.blocks:
            tokens = self.call_block(block, tokens, rope)
        structural = self.structural(tokens[:, :count])
        if self.linear_skip is not None:
            skip = self.linear_skip(pixels)
            structural = structural + F.pad(skip, (0, structural.shape[2] - self.channels))
        sequence = rearrange(self.sequence(tokens[:, count : 2 * count]), "b s m -> b m s")
        return rearrange(structural, "b (n y x) m -> b m n y x", n=t, y=y, x=x), sequence


class MomentsHead(nn.Module):
    """LayerNorm and linear layer to the mean and, with a posterior, the log variance."""

    def __init__(self, width: int, channels: int, moments: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.Linear(width, moments)
        # A standard deviation of 1, five times that of the means, would hide them for hundreds of steps.
        nn.init.constant_(self.project.bias[channels:], -6.0)
        nn.init.zeros_(self.project.weight[channels:])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n m"]:
        return self.project(self.norm(x))
