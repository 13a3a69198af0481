"""Networks of which every layer acts, and seeded generators."""

from typing import TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


def awake(network: N, std: float = 0.2) -> N:
    """Fill zero-initialised parameters, which hide what acts before them."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=std)
    return network


@torch.no_grad()
def shaken(network: N) -> N:
    """Add noise to all weights."""
    for parameter in network.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return network


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded_each(count: int, seed: int = 0) -> list[torch.Generator]:
    return [seeded(seed + i) for i in range(count)]
