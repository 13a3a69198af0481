"""Gradients of 3D convolutions in bf16 on the CPU, against those in fp32."""

import pytest
import torch
from torch import Tensor

from regen.layers import convolution
from regen.layers.convolution import Conv3d

# Shapes for which PyTorch 2.13 crashes or is wrong by a tenth on CPUs with AMX, and small ones.
SHAPES = {
    "detail head": (12, 12, (1, 3, 3), (1, 1, 1), (2, 12, 1, 96, 96)),
    "few frames": (24, 24, (3, 3, 3), (1, 1, 1), (2, 24, 5, 64, 64)),
    "strided": (16, 48, (3, 3, 3), (2, 2, 2), (1, 16, 7, 72, 96)),
    "to pixels": (12, 3, (3, 3, 3), (1, 1, 1), (1, 12, 4, 100, 96)),
    "small": (48, 64, (3, 3, 3), (2, 2, 2), (2, 48, 5, 12, 12)),
}


def gradients(layer: Conv3d, x: Tensor, bf16: bool) -> list[Tensor]:
    """Those of the input and of the parameters, for a sum of outputs with random weights."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = layer(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [*torch.autograd.grad((out.float() * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("time_padding", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_in_bf16_are_right(
    name: str, bias: bool, time_padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the CPU: the way round the kernel is taken as on one with AMX."""
    monkeypatch.setattr(convolution, "HAS_AMX", True)
    channels, out_channels, kernel, stride, shape = SHAPES[name]
    torch.manual_seed(0)
    layer = Conv3d(channels, out_channels, kernel, stride, padding=(time_padding, 1, 1), bias=bias)
    x = torch.randn(shape)
    for found, right in zip(gradients(layer, x, True), gradients(layer, x, False), strict=True):
        assert found.dtype == right.dtype
        assert (found - right).norm() < 0.02 * right.norm()
