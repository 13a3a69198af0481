"""Compiled on a GPU, every embedder gives what it gives without; see tests/gpu."""

import os

import pytest
import torch
from tiny_media import EMBEDDERS
from tiny_networks import awake

from regen.embedders.linear import AutoencoderLinear
from regen.latents import Latents

pytestmark = [pytest.mark.gpu, pytest.mark.compiled]


BUILD = {**EMBEDDERS, "linear": lambda: AutoencoderLinear(4, 8)}


@pytest.mark.parametrize("name", BUILD)
@torch.inference_mode()
def test_compiled_parts_give_the_same_frames(name: str) -> None:
    device = os.environ.get("REGEN_TEST_DEVICE", "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch._dynamo.reset()
    model = awake(BUILD[name]()).to(device)
    clip = torch.rand(1, 3, model.chunk_frames, 64, 64, device=device) * 2 - 1
    latents = Latents.of(model.encode(clip).latent_dist.mode())
    frames = model.decode(latents.for_decoder(), steps=1).sample
    for part in model.children():
        part.compile(fullgraph=True, backend="inductor" if device == "cuda" else "eager")
    again = Latents.of(model.encode(clip).latent_dist.mode())
    torch.testing.assert_close(again.grid, latents.grid, atol=5e-3, rtol=2e-2)
    torch.testing.assert_close(
        model.decode(latents.for_decoder(), steps=1).sample, frames, atol=5e-3, rtol=2e-2
    )
