"""QueryEncoder: patches and learned queries through one transformer (One-DVA; spec B2)."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from regen.layers.attention import Attention, Grid, start_nearby
from regen.layers.positions import Rotation, grid_positions, rotation, sinusoids
from regen.networks.dit import Feedforward, matrices_of
from regen.networks.patches import Patches

QueryPositions = Literal["none", "spread", "anchored"]
# Powers of 1 / g, where g⁴ = g + 1, of which multiples fill a cube evenly, whatever their number; in units of
# 2⁻³², so that the order that follows from them is the same on every device.
TURNS = tuple(round(2**32 * 1.2207440846057596**-power) for power in (1, 2, 3))


class ResolutionTokens(nn.Module):
    """Three tokens that tell the frames, the height and the width of a clip in pixels (spec B2)."""

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(64, width)
        self.project = nn.Linear(width, width)
        self.kind = nn.Parameter(0.5 * torch.randn(3, width))

    def forward(self, grid: Grid, patches: Patches) -> Float[Tensor, "1 3 d"]:
        t, y, x = grid
        sizes = [1 + (t - 1) * patches.frames, y * patches.side, x * patches.side]
        values = [
            torch.full((1,), float(size), device=self.kind.device) for size in sizes
        ]  # no copy, no wait
        features = sinusoids(torch.cat(values), 64).to(self.kind.dtype)
        return (self.project(F.silu(self.expand(features))) + self.kind)[None]


def spread_positions(count: int, grid: Grid, device: torch.device) -> Float[Tensor, "n 3"]:
    """Places in the grid for queries, spread all over it from the first few on."""
    steps = torch.arange(1, count + 1, device=device)
    parts = [
        ((2**31 + steps * turn) % 2**32).float() / 2**32 * length - 0.5
        for turn, length in zip(TURNS, grid, strict=True)
    ]
    return torch.stack(parts, dim=1)


def anchors(grid: Grid, device: torch.device) -> Int64[Tensor, " n"]:
    """The patches of a grid in an order in which the first few are spread all over it already."""
    t, y, x = (
        torch.arange(1, length + 1, device=device) * turn for length, turn in zip(grid, TURNS, strict=True)
    )
    return torch.argsort(((t[:, None, None] + y[:, None] + x) % 2**32).flatten(), stable=True)


def token_rotation(
    grid: Grid, queries: int, others: int, positions: QueryPositions, head_width: int, device: torch.device
) -> Rotation:
    """Rotary positions of the grid's tokens, then those of `queries`, then `others` that have none."""
    places = [grid_positions(grid, device), torch.zeros(queries + others, 3, device=device)]
    if positions == "spread":
        places[1][:queries] = spread_positions(queries, grid, device)
    if positions == "anchored":
        places[1][:queries] = places[0][anchors(grid, device)[:queries]]
    return rotation(torch.cat(places), head_width)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.feedforward = Feedforward(width)

    def forward(self, x: Float[Tensor, "b n d"], turn: Rotation) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.norm1(x), turn=turn)
        return x + self.feedforward(self.norm2(x))


class QueryEncoder(nn.Module):
    """A padded clip to the moments of its structural latents and of its 1D latents.

    The tokens of the patches become the structural latents, learned queries the 1D latents; each has its own
    head. Both are answered in full: which 1D latents are kept is decided afterwards, so a shorter sequence is
    the beginning of the longer one. There are as many queries as patches, the first ones of a bank.

    `shortcut`: a linear map from the pixels of a patch to its structural latent beside the transformer.
    """

    _gradient_checkpointing_func: Callable = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(
        self,
        channels: int,
        moments: int,
        patches: Patches,
        width: int,
        depth: int,
        heads: int,
        bank: int,
        positions: QueryPositions,
        shortcut: bool,
    ):
        super().__init__()
        self.patches, self.channels, self.positions = patches, channels, positions
        self.head_width = width // heads
        self.gradient_checkpointing = False
        self.embed = nn.Linear(3 * patches.pixels, width)
        self.kind = nn.Parameter(torch.zeros(width))
        # Queries differ by this table alone, so it must not drown in what the blocks add.
        self.queries = nn.Parameter(0.5 * torch.randn(bank, width))
        self.resolution = ResolutionTokens(width)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        if positions != "none":
            start_nearby(self.blocks)
        self.structural = MomentsHead(width, channels, moments)
        self.sequence = MomentsHead(width, channels, moments)
        self.shortcut = nn.Linear(3 * patches.pixels, channels) if shortcut else None

    def forward(
        self, padded: Float[Tensor, "b 3 T H W"]
    ) -> tuple[Float[Tensor, "b m n y x"], Float[Tensor, "b m s"]]:
        """Raises ValueError when the bank has too few queries for so large a clip."""
        t, y, x = (side // unit for side, unit in zip(padded.shape[2:], self._units, strict=True))
        count = prod((t, y, x))
        if count > len(self.queries):
            raise ValueError(
                f"A region of {t} x {y} x {x} patches needs {count} queries and there are "
                f"{len(self.queries)}; give the model smaller regions, or more queries."
            )
        pixels = self.patches.cut(padded)
        grid = self.embed(pixels) + self.kind
        queries = self.queries[:count].to(grid.dtype).expand(len(grid), -1, -1)
        if self.positions == "anchored":
            queries = queries + grid[:, anchors((t, y, x), grid.device)]
        resolution = self.resolution((t, y, x), self.patches).to(grid.dtype).expand(len(grid), -1, -1)
        tokens = torch.cat([grid, queries, resolution], dim=1)
        turn = token_rotation((t, y, x), count, 3, self.positions, self.head_width, tokens.device)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = self._gradient_checkpointing_func(block, tokens, turn)
            else:
                tokens = block(tokens, turn)
        structural = self.structural(tokens[:, :count])
        if self.shortcut is not None:
            structural = structural + F.pad(self.shortcut(pixels), (0, structural.shape[2] - self.channels))
        sequence = rearrange(self.sequence(tokens[:, count : 2 * count]), "b s m -> b m s")
        return rearrange(structural, "b (n y x) m -> b m n y x", n=t, y=y, x=x), sequence

    @property
    def _units(self) -> tuple[int, int, int]:
        return self.patches.frames, self.patches.side, self.patches.side

    def trunk_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks."""
        return matrices_of(self.blocks)


class MomentsHead(nn.Module):
    """LayerNorm and a linear layer to mean and, where there is a posterior, log variance (spec B2)."""

    def __init__(self, width: int, channels: int, moments: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.Linear(width, moments)
        # A deviation of 1, five times that of the means, would hide them for hundreds of updates.
        nn.init.constant_(self.project.bias[channels:], -6.0)
        nn.init.zeros_(self.project.weight[channels:])

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n m"]:
        return self.project(self.norm(x))
