"""Small generators whose layers that begin at zero are filled, and latents and conditions for them."""

from typing import Any

import tiny_networks
import torch
from torch import Tensor

from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition, TokenLayout
from regen.latents import Latents

CHANNELS, TEXT_WIDTH, CLASSES = 4, 10, ["cat", "dog", "dolphin"]
PLAIN = {"channels": CHANNELS, "max_chunks": 3}
HYBRID = PLAIN | {"has_sequence": True, "region_size": 2, "num_queries": 8}
SIZES: dict[str, Any] = {"width": 24, "depth": 2, "heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "text": SIZES | {"latent_spec": PLAIN, "text_width": TEXT_WIDTH, "num_joint_layers": 1},
    "class": SIZES | {"latent_spec": PLAIN, "classes": CLASSES, "timestep_conditioning": "adaln_single"},
    "none": SIZES | {"latent_spec": PLAIN},
    "hybrid text": SIZES | {"latent_spec": HYBRID, "text_width": TEXT_WIDTH, "num_joint_layers": 2},
    "hybrid class": SIZES | {"latent_spec": HYBRID, "classes": CLASSES},
    "factorised class": SIZES | {"latent_spec": PLAIN, "classes": CLASSES, "attention": "factorised"},
}


def fresh(kind: str, **changes: Any) -> LatentGenerator:
    """As it is at initialisation."""
    return LatentGenerator(**KINDS[kind] | changes).eval()


def awake(kind: str, **changes: Any) -> LatentGenerator:
    return tiny_networks.awake(fresh(kind, **changes))


def latents_of(
    kind: str, b: int = 2, chunks: int = 2, height: int = 4, width: int = 6, frames: int | None = None
) -> Latents:
    """Random ones of so many chunks, or of `frames` latent frames; 1D latents of any number."""
    frames = 2 * chunks if frames is None else frames
    structural = torch.randn(b, CHANNELS, frames, height, width)
    if not kind.startswith("hybrid"):
        return Latents.of(structural)
    regions = len(TokenLayout(2, 2, 2, 8).regions(frames, height, width).boxes) * -(-frames // 2)
    lengths = torch.randint(0, 4, (b, regions))
    lengths[:, 0] += 1
    longest = int(lengths.sum(1).max())
    there = torch.arange(longest) < lengths.sum(1, keepdim=True)
    return Latents(structural, torch.randn(b, CHANNELS, longest) * there[:, None], lengths)


def condition_of(kind: str, b: int = 2, words: int = 5) -> Condition:
    if kind.endswith("class"):
        return Condition(label=torch.randint(0, len(CLASSES), (b,)))
    if kind.endswith("text"):
        keep = torch.arange(words) < torch.randint(1, words + 1, (b, 1))
        return Condition(text=torch.randn(b, words, TEXT_WIDTH), text_mask=keep)
    return Condition()


def make_batch(latents: Latents, condition: Condition) -> dict[str, Tensor]:
    """As `LatentBatches` gives them."""
    conditions = {name: value for name, value in vars(condition).items() if value is not None}
    return conditions | latents.tensors()


def rows(condition: Condition, index: slice) -> Condition:
    return Condition(*(None if part is None else part[index] for part in vars(condition).values()))


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + number) for number in range(count)]
