"""Encoder and decoder compile into one graph each; run apart from the shape checks, which break graphs."""

import pytest
import torch

from regen.layers.attention import Attention, Window
from regen.networks.conditioning import LatentConditioner
from regen.networks.dit import DiT
from regen.networks.encoder import CausalEncoder, stride_plan


@pytest.mark.parametrize("ratio", [4, 32])
def test_encoder_compiles(ratio):
    strides = stride_plan(ratio, 4)
    encoder = CausalEncoder(4, (8,) * len(strides), strides, 1, 4, shortcut=True).eval()
    video = torch.randn(1, 3, ratio + 1, 16, 16)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(video), encoder(video), atol=1e-4, rtol=1e-3)


def awake(window: int | None = None) -> DiT:
    """A decoder whose zero-initialised layers are filled, so that everything acts."""
    decoder = DiT(24, depth=2, heads=3, patch_size=8, timestep="adaln_zero", window=window)
    for parameter in decoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return decoder


def test_conditioner_and_decoder_compile_and_take_any_size():
    conditioner, decoder = LatentConditioner(4, 24, siren_width=16), awake()

    def decode(
        noisy: torch.Tensor, latents: torch.Tensor, times: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        return decoder(noisy, conditioner(latents, times), t)

    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager", dynamic=True)
    for frames, y, x in ((5, 2, 2), (6, 3, 4)):
        arguments = (
            torch.randn(1, 3, frames, 8 * y, 8 * x),
            torch.randn(1, 4, 2, y, x),
            torch.linspace(0, 1, frames),
            torch.rand(1),
        )
        torch.testing.assert_close(compiled(*arguments), decode(*arguments), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_decoder_with_windows_compiles():
    """Windows of 3 at 4 x 7 places: 1 x 2 in the first block, 2 x 3 in the second."""
    decoder = awake(window=3)
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager", dynamic=False)
    arguments = torch.randn(1, 3, 2, 32, 56), torch.randn(1, 2, 4, 7, 24), torch.rand(1)
    torch.testing.assert_close(compiled(*arguments), decoder(*arguments), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_attention_within_windows_compiles_for_sizes_that_change():
    layer, window = Attention(8, heads=2), Window(3, 1)

    def attend(x: torch.Tensor) -> torch.Tensor:
        b, t, y, x_, d = x.shape
        return layer(x.reshape(b, t * y * x_, d), (t, y, x_), window)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=True)
    for grid in ((2, 4, 4), (3, 6, 2)):
        tokens = torch.randn(1, *grid, 8)
        torch.testing.assert_close(compiled(tokens), attend(tokens), atol=1e-4, rtol=1e-3)
