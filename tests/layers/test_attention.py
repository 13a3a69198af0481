"""Attention: the formula, windows, masks, rotary positions, backends."""

import pytest
import torch
from diffusers import ModelMixin
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from processors import ATTENTION_IN_BF16
from torch.utils.checkpoint import checkpoint

from regen.layers.attention import (
    Attention,
    AttentionProcessor,
    Grid,
    RMSNorm,
    Window,
    init_local_attention,
    window_spans,
)
from regen.layers.positions import Rope, compute_rope, grid_positions


def test_attention_equals_the_formula():
    layer, x = Attention(12, heads=3), torch.randn(2, 7, 12)
    q, k, v = rearrange(layer.qkv(x), "b n (three h e) -> three b h n e", three=3, h=3)
    weights = torch.softmax(layer.norm_q(q) @ layer.norm_k(k).transpose(-1, -2) / 2.0, dim=-1)
    expected = layer.out(rearrange(weights @ v, "b h n e -> b n (h e)"))
    torch.testing.assert_close(layer(x), expected)


@ATTENTION_IN_BF16
@pytest.mark.parametrize("tokens", [7, 80, 400])
def test_gradients_in_bf16_on_a_cpu_are_those_of_the_formula(tokens):
    q, k, v, gradient = (torch.randn(3, 2, tokens, 16) for _ in range(4))
    inputs = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = AttentionProcessor()(*inputs)
    out.backward(rearrange(gradient, "b h n e -> b n (h e)").bfloat16())
    weights = torch.softmax(exact[0] @ exact[1].transpose(-1, -2) / 4.0, dim=-1)
    expected = weights @ exact[2]
    expected.backward(gradient.bfloat16().double())
    pairs = [(out, rearrange(expected, "b h n e -> b n (h e)"))]
    for one, other in [*pairs, *((x.grad, y.grad) for x, y in zip(inputs, exact, strict=True))]:
        assert (one.double() - other).norm() < 0.015 * other.norm()


def test_gradients_in_bf16_on_a_cpu_go_through_checkpointed_activations():
    q, k, v = (torch.randn(1, 2, 6, 8, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    attention, gradients = AttentionProcessor(), []
    for checkpointed in (False, True):
        out = checkpoint(attention, q, k, v, use_reentrant=False) if checkpointed else attention(q, k, v)
        gradients.append(torch.autograd.grad(out.float().square().sum(), (q, k, v)))
    assert all(map(torch.equal, *gradients))


class Model(ModelMixin):
    def __init__(self):
        super().__init__()
        self.attention = Attention(24, heads=2)

    def forward(self, x: torch.Tensor, **options) -> torch.Tensor:
        return self.attention(x, **options)


@pytest.mark.parametrize("masked", [False, True])
def test_the_backend_is_selected_through_diffusers(masked):
    model, x = Model(), torch.randn(2, 9, 24)
    mask = torch.arange(9) < torch.tensor([[9], [5]]) if masked else None
    expected = model(x, mask=mask)
    with attention_backend("native"):  # restores the global backend, which set_attention_backend also sets
        model.set_attention_backend("_native_math")
        assert model.attention.processor._attention_backend is AttentionBackendName._NATIVE_MATH
        torch.testing.assert_close(model(x, mask=mask), expected)
        model.reset_attention_backend()
    assert model.attention.processor._attention_backend is None


def windows_of(grid: Grid, window: Window) -> torch.Tensor:
    """The number of the window of every token, in the order of the tokens."""

    def along(length: int) -> torch.Tensor:
        sizes = [size for count, size in window_spans(length, window) for _ in range(count)]
        return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))

    return (100 * along(grid[1])[:, None] + along(grid[2])).expand(grid).flatten()


@given(st.integers(1, 200), st.integers(2, 40), st.booleans())
def test_windows_cover_the_length_with_about_equal_sizes(length, size, shifted):
    offset = size // 2 if shifted else 0
    spans = window_spans(length, Window(size, offset))
    sizes = [span.size for span in spans for _ in range(span.number)]
    assert all(span.number > 0 for span in spans)
    assert sum(sizes) == length
    if length <= size:
        assert sizes == [length]
        return
    assert size <= 2 * min(sizes)
    assert 2 * max(sizes) <= 3 * size
    assert sizes[0] == size - offset or len(sizes) == 1
    assert set(sizes[1:-1]) <= {size}, "all but the first and the last are equal"


@given(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11), st.integers(2, 6), st.booleans())
def test_windowed_attention_is_the_attention_of_each_window(t, y, x, size, shifted):
    layer, grid = Attention(8, heads=2), (t, y, x)
    window = Window(size, size // 2 if shifted else 0)
    tokens = torch.randn(2, t * y * x, 8)
    out, owner = layer(tokens, grid, window), windows_of(grid, window)
    assert out.shape == tokens.shape  # a window as large as the picture is full attention
    for number in owner.unique():
        own = owner == number
        torch.testing.assert_close(out[:, own], layer(tokens[:, own]), atol=1e-5, rtol=1e-4)


def rope_of(positions: torch.Tensor, layer: Attention) -> Rope:
    return compute_rope(positions, layer.out.in_features // layer.heads)


@given(st.tuples(*[st.floats(-20, 20)] * 3))
def test_with_rope_attention_depends_on_distances_only(shift):
    layer, x, positions = Attention(24, heads=2), torch.randn(2, 9, 24), 3 * torch.randn(9, 3)
    out = layer(x, rope=rope_of(positions, layer))
    moved = layer(x, rope=rope_of(positions + torch.tensor(shift), layer))
    torch.testing.assert_close(moved, out, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(layer(x, rope=rope_of(2 * positions, layer)), out, atol=1e-4)
    assert not torch.allclose(layer(x), out, atol=1e-4)


@pytest.mark.parametrize("rotated", [False, True])
def test_permuted_tokens_give_permuted_outputs(rotated):
    layer, x, order = Attention(24, heads=2), torch.randn(2, 9, 24), torch.randperm(9)
    positions = torch.randn(9, 3)
    mask = torch.rand(2, 9) < 0.7
    mask[:, 0] = True
    before, after = (rope_of(p, layer) if rotated else None for p in (positions, positions[order]))
    out = layer(x, rope=before, mask=mask)
    torch.testing.assert_close(layer(x[:, order], rope=after, mask=mask[:, order]), out[:, order])
    alone = layer(x[:, order], rope=before, mask=mask[:, order])
    assert torch.allclose(alone, out[:, order], atol=1e-5) is not rotated, "positions identify tokens"


@given(st.integers(1, 9), st.integers(0, 9), st.booleans())
def test_masked_tokens_have_no_influence(kept, others, rotated):
    layer, count = Attention(24, heads=2), kept + others
    x, positions = torch.randn(2, count, 24), torch.randn(count, 3)
    mask = torch.stack([torch.randperm(count) < kept for _ in range(2)])
    rope = rope_of(positions, layer) if rotated else None
    out = layer(x, rope=rope, mask=mask)
    spoiled = torch.where(mask[:, :, None], x, 100 * torch.randn_like(x))
    assert torch.equal(layer(spoiled, rope=rope, mask=mask)[mask], out[mask])
    for one, own, expected in zip(x, mask, out, strict=True):
        alone = layer(one[None, own], rope=rope_of(positions[own], layer) if rotated else None)
        torch.testing.assert_close(expected[own], alone[0], atol=1e-5, rtol=1e-4)


def test_rms_norm_keeps_the_dtype_of_its_input():
    assert RMSNorm(8)(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    out = RMSNorm(64)(7 * torch.randn(5, 64))
    torch.testing.assert_close(out.square().mean(-1), torch.ones(5))


def attention_weights(layer: Attention, positions: torch.Tensor) -> torch.Tensor:
    x = torch.nn.functional.layer_norm(torch.randn(1, len(positions), 128), (128,))
    q, k, _ = layer.project_qkv(x, rope_of(positions, layer))
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)[0].mean(0).detach()


def test_local_initialisation_favours_nearby_tokens():
    positions = grid_positions((3, 4, 4), torch.device("cpu"))
    distance = torch.cdist(positions, positions)
    near, far = (distance > 0) & (distance < 1.2), distance > 2.5
    layer = Attention(128, heads=2)
    before = attention_weights(layer, positions)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    init_local_attention(torch.nn.Sequential(layer))
    after = attention_weights(layer, positions)
    assert after.diagonal().mean() > 1.3 * after[near].mean()
    assert after[near].mean() > 2 * after[far].mean()
    assert (distance.gather(1, after.argmax(1)[:, None]) <= 1.5).float().mean() > 0.8
    assert 0.8 < before[near].mean() / before[far].mean() < 1.25
    changed = [name for name, value in layer.state_dict().items() if not torch.equal(value, state[name])]
    assert changed == ["qkv.bias"]
    assert torch.equal(layer.qkv.bias[256:], state["qkv.bias"][256:]), "values are unchanged"
    assert layer.qkv.bias.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_norm_without_gradients_is_that_of_pytorch(dtype):
    """On strided views of queries and keys; sizes from tiny, where eps counts, to large."""
    norm = RMSNorm(16).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x = (torch.randn(2, 7, 3, 4, 16) * torch.tensor([1e-4, 1.0, 100.0])[:, None, None]).to(dtype)
    q = rearrange(x, "b n three h e -> three b h n e")[1]
    expected = torch.nn.functional.rms_norm(q, (16,), norm.weight, 1e-6)
    with torch.no_grad():
        found = norm(q)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected)
