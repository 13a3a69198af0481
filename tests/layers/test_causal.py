"""Causal layers: no frame depends on later ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.layers.causal import CausalConv3d, CausalResBlock, ChannelNorm


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_a_prefix_of_the_input_gives_the_prefix_of_the_output(frames, prefix, kernel, stride):
    layer = CausalConv3d(4, 6, kernel=(kernel, 3, 3), stride=(stride, 1, 1))
    x = torch.randn(1, 4, max(frames, prefix), 6, 5)
    out = layer(x[:, :, :prefix])
    assert out.shape[2] == (prefix - 1) // stride + 1
    torch.testing.assert_close(out, layer(x)[:, :, : out.shape[2]])


def test_a_still_video_stays_still():
    still = torch.randn(1, 3, 1, 4, 4).expand(-1, -1, 4, -1, -1)
    out = CausalConv3d(3, 5)(still)
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))


@pytest.mark.parametrize("layer", [ChannelNorm(8), CausalResBlock(8, 12), CausalResBlock(8, 8)])
def test_later_frames_do_not_change_earlier_ones(layer):
    x = torch.randn(2, 8, 5, 4, 4)
    changed = x.clone()
    changed[:, :, 3:] += 10 * torch.randn_like(changed[:, :, 3:])
    torch.testing.assert_close(layer(x)[:, :, :3], layer(changed)[:, :, :3])
    assert not torch.allclose(layer(x)[:, :, 3:], layer(changed)[:, :, 3:])


def test_channel_norm_normalises_each_position():
    out = ChannelNorm(16)(5 + 3 * torch.randn(1, 16, 3, 4, 4))
    torch.testing.assert_close(out.mean(1), torch.zeros(1, 3, 4, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(1, correction=0), torch.ones(1, 3, 4, 4), atol=1e-4, rtol=0)
