"""Counted matrix products against torch's counter and against sums by hand."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from regen.embedders.regen import AutoencoderRegen
from regen.metrics.cost import MatMul, count_matmuls, total_flops


def tiny_model(window: int | None = None) -> AutoencoderRegen:
    return AutoencoderRegen(
        latent_channels=2, encoder_widths=(8, 8, 16, 16), encoder_blocks=1, encoder_patch_size=4,
        linear_skip=True, width=32, depth=3, heads=2, siren_width=8, attention_window=window,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("window", [None, 2])
def test_equal_to_torch_where_torch_counts(window: int | None) -> None:
    """Without fused attention, which torch's counter does not know on a CPU; forward and backward."""
    model, video = tiny_model(window), torch.rand(1, 3, 5, 16, 32)

    @torch.enable_grad()
    def work() -> None:
        model(video, steps=2)
        latents = model.encode(video).latent_dist.mode()
        latents.square().sum().backward()

    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    assert total_flops(count_matmuls(work)) == counter.get_total_flops()


def test_attention_by_hand() -> None:
    """Scores: every pair of tokens, e multiplications and additions; then as much for the weighted values."""
    q, k, v = torch.rand(3, 2, 5, 4), torch.rand(3, 2, 7, 4), torch.rand(3, 2, 7, 4)
    products = count_matmuls(lambda: functional.scaled_dot_product_attention(q, k, v))
    assert products == {
        MatMul("attention", torch.float32, 6, 5, 4, 7): 1,
        MatMul("attention", torch.float32, 6, 5, 7, 4): 1,
    }
    assert total_flops(products) == 2 * (2 * 3 * 2 * 5 * 7 * 4)


@pytest.mark.parametrize("groups", [1, 3])
def test_convolution_by_hand(groups: int) -> None:
    """Each output value takes kernel size times input channels of its group."""
    layer = nn.Conv3d(6, 12, kernel_size=(3, 2, 1), groups=groups, stride=(1, 2, 2))
    x = torch.rand(2, 6, 5, 8, 9)
    count = total_flops(count_matmuls(lambda: layer(x)))
    assert count == 2 * layer(x).numel() * (6 // groups) * 3 * 2


@pytest.mark.parametrize("groups", [1, 3])
def test_transposed_convolution_by_hand(groups: int) -> None:
    """Each input value goes to kernel size times output channels of its group; gradients cost it twice."""
    layer = nn.ConvTranspose3d(6, 12, kernel_size=(3, 2, 1), groups=groups, stride=(1, 2, 2))
    x = torch.rand(2, 6, 5, 8, 9, requires_grad=True)

    @torch.enable_grad()
    def work() -> None:
        layer(x).sum().backward()

    expected = 2 * x.numel() * (12 // groups) * 3 * 2
    assert total_flops(count_matmuls(lambda: layer(x))) == expected
    assert total_flops(count_matmuls(work)) == 3 * expected


def test_windows_save_attention_and_nothing_else() -> None:
    def by_kind(window: int | None) -> dict[str, int]:
        model, latents = tiny_model(window), torch.rand(1, 2, 2, 8, 8)
        products = count_matmuls(lambda: model.decode(latents))
        kinds = {product.kind for product in products}
        return {kind: sum(p.flops * n for p, n in products.items() if p.kind == kind) for kind in kinds}

    full, windows = by_kind(None), by_kind(2)
    assert full["linear"] == windows["linear"]
    assert full["attention"] > 8 * windows["attention"]


def test_nothing_is_computed_with_fake_tensors() -> None:
    model, video = tiny_model(), torch.rand(1, 3, 5, 16, 16)
    real = count_matmuls(lambda: model(video))
    with FakeTensorMode():
        fake_model, fake_video = tiny_model(), torch.rand(1, 3, 5, 16, 16)
        assert count_matmuls(lambda: fake_model(fake_video)) == real
        vast = torch.rand(1, 3, 5, 2160, 3840)
        assert total_flops(count_matmuls(lambda: fake_model(vast))) > 1000 * total_flops(real)


def test_inference_mode_around_it_changes_nothing() -> None:
    layer, x = nn.Linear(4, 6), torch.rand(3, 4)
    with torch.inference_mode():
        assert total_flops(count_matmuls(lambda: layer(x))) == 2 * 3 * 4 * 6
