"""Sinusoidal features of continuous coordinates."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoids(values: Float[Tensor, " n"], width: int, longest: float = 10_000.0) -> Float[Tensor, "n width"]:
    """cos and sin of `values` at width / 2 frequencies from 1 down to 1 / longest, in fp32."""
    frequencies = torch.exp(torch.arange(width // 2, device=values.device) * (-2 * math.log(longest) / width))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


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
