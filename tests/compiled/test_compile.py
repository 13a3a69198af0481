"""Encoder and decoder compile into one graph each; run apart from the shape checks, which break graphs."""

import pytest
import torch

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


def test_conditioner_and_decoder_compile_and_take_any_size():
    conditioner = LatentConditioner(4, 24, siren_width=16)
    decoder = DiT(24, depth=2, heads=3, patch_size=8, timestep="adaln_zero")
    torch.nn.init.normal_(decoder.out.weight, std=0.1)

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
