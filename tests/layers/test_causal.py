"""Causal layers: no frame depends on later ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.layers import convolution
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


@given(
    st.integers(1, 6),
    st.sampled_from([(1, 3, 3), (3, 3, 3), (5, 4, 4)]),
    st.sampled_from([(1, 1, 1), (2, 2, 2), (4, 4, 4)]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_small_clips_are_convolved_as_large_ones(frames, kernel, stride, dtype):
    """Without gradients, where output frames are computed as clips of their own."""
    layer = CausalConv3d(4, 6, kernel, stride).to(dtype)
    x = torch.randn(1, 4, frames, 8, 12).to(dtype, memory_format=torch.channels_last_3d)
    expected = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(x), expected, atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2
        )


def test_only_small_fp32_clips_without_gradients_take_the_other_way(monkeypatch):
    layer, calls = CausalConv3d(4, 6), []
    plain = torch.nn.Conv3d._conv_forward

    def counted(self, x, weight, bias):
        calls.append(len(x))
        return plain(self, x, weight, bias)

    monkeypatch.setattr(torch.nn.Conv3d, "_conv_forward", counted)
    x = torch.randn(1, 4, 3, 8, 12)
    layer(x)
    with torch.no_grad():
        layer(x)
        layer(x.repeat(2, 1, 1, 1, 1))
        monkeypatch.setattr(convolution, "SMALL_CLIP", 8)
        layer(x)
    assert calls == [1, 3, 2, 1]


@pytest.mark.parametrize("clips", [1, 2])
def test_padding_in_time_keeps_channels_last(clips):
    """Which the encoder starts with; reordering costs a fifth of its time on a CPU."""
    layer, seen = CausalConv3d(8, 12), []
    layer.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    layer(torch.randn(clips, 8, 3, 4, 6).to(memory_format=torch.channels_last_3d))
    assert seen[0].is_contiguous(memory_format=torch.channels_last_3d)
