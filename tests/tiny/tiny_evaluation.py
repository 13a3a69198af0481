"""Videos of the shape world, and generators and embedders with random weights for them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tiny_media import tiny_onedva, tiny_regen
from tiny_text import make_t5
from world import write_shape_world

from regen.data.shape_world import CLASSES
from regen.generate.generator import LatentGenerator, LatentSpec
from regen.generate.text import find_text_encoder
from regen.pretrained.models import encoder_hash, weights_hash

VIDEOS, FRAMES, HEIGHT, WIDTH = 6, 12, 48, 64


def make_world(folder: Path, videos: int = VIDEOS, seed: int = 1) -> Path:
    """Six videos of 12 frames with captions and classes."""
    write_shape_world(folder, videos, FRAMES, HEIGHT, WIDTH, seed)
    return folder


def make_generator(folder: Path, kind: str) -> str:
    """A generator with the input "text", "class" (also "hybrid class") or "nothing", in FOLDER/generator.

    Its embedder and text encoder are in FOLDER too. It makes two chunks of 5 frames at once.
    """
    torch.manual_seed(3)
    hybrid = kind.startswith("hybrid")
    embedder, place = (tiny_onedva(), 16) if hybrid else (tiny_regen(), 8)
    embedder.save_pretrained(folder / "embedder")
    source = LatentSpec(
        embedder=str(folder / "embedder"),
        weights_hash=weights_hash(str(folder / "embedder")),
        encoder_hash=encoder_hash(str(folder / "embedder")),
        channels=4,
        spatial_compression_ratio=place,
        has_sequence=hybrid,
        region_size=2 if hybrid else None,
        length_counts=((1, 2, 3),) if hybrid else (),
        sizes=((HEIGHT, WIDTH),),
        max_chunks=2,
    )
    inputs: dict[str, Any] = {}
    if kind == "text":
        text = find_text_encoder(make_t5(folder / "text"))
        info = {"name": text.name, "fingerprint": text.fingerprint, "max_tokens": text.max_tokens}
        inputs = {"text_width": 32, "text_encoder": info}
    elif kind.endswith("class"):
        inputs = {"classes": list(CLASSES)}
    patch = 1 if hybrid else 2
    model = LatentGenerator(
        width=24, depth=1, heads=2, patch_size=patch, latent_spec=asdict(source), **inputs
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "generator")
    return str(folder / "generator")
