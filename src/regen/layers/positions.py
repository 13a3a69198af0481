"""Sinusoidal features of continuous coordinates, and rotations by them."""

import math
from typing import NamedTuple

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoids(values: Float[Tensor, " n"], width: int, longest: float = 10_000.0) -> Float[Tensor, "n width"]:
    """cos and sin of `values` at width / 2 frequencies from 1 down to 1 / longest, in fp32."""
    frequencies = torch.exp(torch.arange(width // 2, device=values.device) * (-2 * math.log(longest) / width))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_sinusoids(
    times: Float[Tensor, " t"], rows: Float[Tensor, " y"], columns: Float[Tensor, " x"], width: int
) -> Float[Tensor, "t y x {width}"]:
    """Fixed positions of a grid of tokens: one third of the width, or just less, for each coordinate."""
    third = 2 * (width // 6)
    t, y, x = len(times), len(rows), len(columns)
    along_t = repeat(sinusoids(times, third), "t d -> t y x d", y=y, x=x)
    along_y = repeat(sinusoids(rows, third), "y d -> t y x d", t=t, x=x)
    along_x = repeat(sinusoids(columns, third), "x d -> t y x d", t=t, y=y)
    return F.pad(torch.cat([along_t, along_y, along_x], dim=-1), (0, width - 3 * third))


class Rotation(NamedTuple):
    """Cosine and sine of the angles by which tokens turn their queries and keys."""

    cos: Float[Tensor, "#b n e"]
    sin: Float[Tensor, "#b n e"]


def rotation(positions: Float[Tensor, "*b n 3"], head_width: int) -> Rotation:
    """Rotary angles of tokens at (t, y, x), for heads of this width (RoFormer, arXiv 2104.09864; spec B2).

    Positions are those of all clips, or of each of a batch.

    A third of the pairs of channels, or just less, turns with y, as many with x, the rest with t, at
    frequencies from 2 down to 1 / 20: positions are counted in patches, of which a picture has tens.
    What a token sees of another one then depends on the distance between them alone, so any grid will do.
    """
    pairs = head_width // 2
    third = pairs // 3
    parts = []
    for axis, count in enumerate((pairs - 2 * third, third, third)):
        steps = torch.arange(count, device=positions.device, dtype=torch.float32)
        parts.append(positions[..., axis, None].float() * 2 * 40 ** (-steps / max(1, count - 1)))
    angles = torch.cat(parts, dim=-1)
    angles = angles[None] if positions.ndim == 2 else angles
    return Rotation(angles.cos(), angles.sin())


def joined(first: Rotation, second: Rotation) -> Rotation:
    """That of two groups of tokens, one behind the other."""
    size = max(len(first.cos), len(second.cos))
    pairs = zip(first, second, strict=True)
    return Rotation(*(torch.cat([part.expand(size, -1, -1) for part in pair], dim=1) for pair in pairs))


def rotate(x: Float[Tensor, "b h n e"], by: Rotation) -> Float[Tensor, "b h n e"]:
    """Turn the pairs (i, i + e / 2) of channels."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = by.cos[:, None].to(x.dtype), by.sin[:, None].to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def grid_positions(grid: tuple[int, int, int], device: torch.device) -> Float[Tensor, "n 3"]:
    """The places (t, y, x) of a grid of tokens, in their order, t slowest."""
    axes = [torch.arange(length, device=device, dtype=torch.float32) for length in grid]
    return torch.cartesian_prod(*axes)


class NoiseLevelEmbedding(nn.Module):
    """Noise level t in [0, 1] to a vector: 256 sinusoids of 1000 t, then a two-layer MLP (spec A5)."""

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(256, width)
        self.project = nn.Linear(width, width)
        for layer in (self.expand, self.project):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        features = sinusoids(1000 * t, 256).to(self.expand.weight.dtype)
        return self.project(F.silu(self.expand(features)))
