"""Attention and sinusoids against plain formulas."""

import torch
from einops import rearrange

from regen.layers.attention import Attention, RMSNorm
from regen.layers.positions import NoiseLevelEmbedding, sinusoids


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


def test_rms_norm_keeps_the_precision_of_its_input():
    assert RMSNorm(8)(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
    out = RMSNorm(64)(7 * torch.randn(5, 64))
    torch.testing.assert_close(out.square().mean(-1), torch.ones(5))


def test_sinusoids_tell_values_apart_and_start_at_one():
    table = sinusoids(torch.tensor([0.0, 0.5, 1.0]), 16)
    torch.testing.assert_close(table[0], torch.tensor([1.0] * 8 + [0.0] * 8))
    assert torch.cdist(table, table).fill_diagonal_(1.0).min() > 0.1


def test_noise_level_embedding_tells_levels_apart():
    embedding = NoiseLevelEmbedding(32)
    out = embedding(torch.tensor([0.0, 0.5, 1.0]))
    assert out.shape == (3, 32)
    assert torch.cdist(out, out).fill_diagonal_(1.0).min() > 1e-4
