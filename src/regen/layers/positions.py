"""Sinusoidal features of continuous coordinates."""

import math

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
