"""Sinusoidal embeddings of continuous coordinates, and rotary positions."""

import math
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal_embedding(
    values: Float[Tensor, " n"], width: int, max_period: float = 10_000.0
) -> Float[Tensor, "n width"]:
    """cos and sin of `values` at width / 2 frequencies from 1 down to 1 / max_period, in fp32."""
    frequencies = torch.exp(
        torch.arange(width // 2, device=values.device) * (-2 * math.log(max_period) / width)
    )
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_sinusoidal_embedding(
    times: Float[Tensor, " t"], rows: Float[Tensor, " y"], columns: Float[Tensor, " x"], width: int
) -> Float[Tensor, "t y x {width}"]:
    """Fixed positions of a grid of tokens: about a third of the channels for each coordinate."""
    third = 2 * (width // 6)
    t, y, x = len(times), len(rows), len(columns)
    along_t = repeat(sinusoidal_embedding(times, third), "t d -> t y x d", y=y, x=x)
    along_y = repeat(sinusoidal_embedding(rows, third), "y d -> t y x d", t=t, x=x)
    along_x = repeat(sinusoidal_embedding(columns, third), "x d -> t y x d", t=t, y=y)
    return F.pad(torch.cat([along_t, along_y, along_x], dim=-1), (0, width - 3 * third))


class Rope(NamedTuple):
    """Cosine and sine of the rotation angles of each token's queries and keys."""

    cos: Float[Tensor, "#b n e"]
    sin: Float[Tensor, "#b n e"]


def compute_rope(positions: Float[Tensor, "*b n 3"], head_width: int) -> Rope:
    """Rotary position embedding of tokens at (t, y, x) (RoFormer, arXiv 2104.09864).

    `positions` are shared by the batch or given for each clip. About a third of the channel pairs rotates
    with y, a third with x, the rest with t, at frequencies from 2 down to 1 / 20: positions count patches, of
    which a picture has tens. Attention then depends on distances only and works for any grid.
    """
    pairs = head_width // 2
    third = pairs // 3
    parts = []
    for axis, count in enumerate((pairs - 2 * third, third, third)):
        steps = torch.arange(count, device=positions.device, dtype=torch.float32)
        parts.append(positions[..., axis, None].float() * 2 * 40 ** (-steps / max(1, count - 1)))
    angles = torch.cat(parts, dim=-1)
    angles = angles[None] if positions.ndim == 2 else angles
    return Rope(angles.cos(), angles.sin())


def apply_rope(x: Float[Tensor, "b h n e"], rope: Rope) -> Float[Tensor, "b h n e"]:
    """Rotate the channel pairs (i, i + e / 2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rope.cos[:, None].to(x.dtype), rope.sin[:, None].to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def grid_positions(grid: tuple[int, int, int], device: torch.device) -> Float[Tensor, "n 3"]:
    """Integer coordinates (t, y, x) of the tokens of a grid, t slowest."""
    axes = [torch.arange(length, device=device, dtype=torch.float32) for length in grid]
    return torch.cartesian_prod(*axes)


class TimestepEmbedding(nn.Module):
    """Embedding of the noise level t in [0, 1]: 256 sinusoidal_embedding of 1000 t and a two-layer MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(256, width)
        self.project = nn.Linear(width, width)
        for layer in (self.expand, self.project):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Float[Tensor, " b"], dtype: torch.dtype) -> Float[Tensor, "b d"]:
        """The embedding in `dtype`, that of the tokens."""
        features = sinusoidal_embedding(1000 * t, 256).to(dtype)
        return self.project(F.silu(self.expand(features)))
