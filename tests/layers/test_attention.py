"""Attention and sinusoidal_embedding against plain formulas."""

from itertools import product

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from regen.layers.attention import Attention, Grid, RMSNorm, Window, window_spans
from regen.layers.positions import TimestepEmbedding, sinusoidal_embedding


def test_attention_equals_the_formula():
    layer = Attention(12, heads=3)
    x = torch.randn(2, 7, 12)
    q, k, v = rearrange(layer.qkv(x), "b n (three h e) -> three b h n e", three=3, h=3)
    weights = torch.softmax(layer.norm_q(q) @ layer.norm_k(k).transpose(-1, -2) / 2.0, dim=-1)
    expected = layer.out(rearrange(weights @ v, "b h n e -> b n (h e)"))
    torch.testing.assert_close(layer(x), expected)


def test_attention_has_no_positions():
    """Permuting the tokens permutes the answer."""
    layer = Attention(8, heads=2)
    x, order = torch.randn(1, 6, 8), torch.randperm(6)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def places(length: int, window: Window) -> torch.Tensor:
    """The number of the window that each token along one axis belongs to."""
    sizes = [size for number, size in window_spans(length, window) for _ in range(number)]
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def windows_of(grid: Grid, window: Window) -> torch.Tensor:
    """The number of the window of every token, in the order of the tokens."""
    down, across = places(grid[1], window), places(grid[2], window)
    return (100 * down[:, None] + across).expand(grid).flatten()


@given(st.integers(1, 200), st.integers(2, 40), st.booleans())
def test_every_token_is_in_one_window_of_about_the_size_that_was_asked_for(length, size, shifted):
    offset = size // 2 if shifted else 0
    found = window_spans(length, Window(size, offset))
    sizes = [run.size for run in found for _ in range(run.count)]
    assert all(run.count > 0 for run in found)
    assert sum(sizes) == length
    if length <= size:
        assert sizes == [length]
        return
    assert size <= 2 * min(sizes)
    assert 2 * max(sizes) <= 3 * size
    assert sizes[0] == size - offset or len(sizes) == 1
    assert set(sizes[1:-1]) <= {size}, "all but the first and the last are equal"


@given(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11), st.integers(2, 6), st.booleans())
def test_attention_within_windows_is_attention_of_each_window_alone(t, y, x, size, shifted):
    layer, grid = Attention(8, heads=2), (t, y, x)
    window = Window(size, size // 2 if shifted else 0)
    tokens = torch.randn(2, t * y * x, 8)
    out, owner = layer(tokens, grid, window), windows_of(grid, window)
    assert out.shape == tokens.shape
    for number in owner.unique():
        own = owner == number
        torch.testing.assert_close(out[:, own], layer(tokens[:, own]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("offset", [0, 2])
def test_a_token_is_seen_in_its_own_window_only_and_by_all_of_it(offset):
    layer, grid, window = Attention(8, heads=2), (2, 7, 9), Window(4, offset)
    tokens = torch.randn(1, 2 * 7 * 9, 8)
    before, owner = layer(tokens, grid, window), windows_of(grid, window)
    assert len(owner.unique()) == (6 if offset else 4)
    for place in range(0, 126, 5):
        moved = tokens.clone()
        moved[:, place] += 1
        changed = (layer(moved, grid, window) != before).any(-1)[0]
        assert torch.equal(changed, owner == owner[place])


@pytest.mark.parametrize(("size", "offset"), list(product((9, 12), (0, 4))))
def test_a_window_as_large_as_the_picture_is_full_attention(size, offset):
    layer, tokens = Attention(8, heads=2), torch.randn(2, 3 * 7 * 9, 8)
    assert torch.equal(layer(tokens, (3, 7, 9), Window(size, offset)), layer(tokens))


def test_gradient_passes_through_windows():
    layer, tokens = Attention(8, heads=2), torch.randn(1, 35, 8, requires_grad=True)
    layer(tokens, (1, 5, 7), Window(3, 1)).square().sum().backward()
    assert tokens.grad.any(-1).all()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_rms_norm_keeps_the_precision_of_its_input():
    assert RMSNorm(8)(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    out = RMSNorm(64)(7 * torch.randn(5, 64))
    torch.testing.assert_close(out.square().mean(-1), torch.ones(5))


def test_sinusoids_tell_values_apart_and_start_at_one():
    table = sinusoidal_embedding(torch.tensor([0.0, 0.5, 1.0]), 16)
    torch.testing.assert_close(table[0], torch.tensor([1.0] * 8 + [0.0] * 8))
    assert torch.cdist(table, table).fill_diagonal_(1.0).min() > 0.1


def test_noise_level_embedding_tells_levels_apart():
    embedding = TimestepEmbedding(32)
    out = embedding(torch.tensor([0.0, 0.5, 1.0]))
    assert out.shape == (3, 32)
    assert torch.cdist(out, out).fill_diagonal_(1.0).min() > 1e-4
