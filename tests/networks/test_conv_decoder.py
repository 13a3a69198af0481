"""CausalDecoder: causal pixel shuffle and shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.networks.conv_decoder import CausalDecoder, pixel_shuffle_3d
from regen.networks.encoder import STRIDES, stride_plan


def test_the_first_frame_stands_for_one_and_each_later_one_for_two():
    x = torch.arange(6.0).reshape(1, 2, 3, 1, 1)  # two channels become two frames
    assert pixel_shuffle_3d(x, (2, 1, 1)).flatten().tolist() == [3.0, 1.0, 4.0, 2.0, 5.0]


def test_pixels_lie_row_by_row():
    x = torch.arange(4.0).reshape(1, 4, 1, 1, 1)
    assert pixel_shuffle_3d(x, (1, 2, 2)).reshape(2, 2).tolist() == [[0.0, 1.0], [2.0, 3.0]]


@given(frames=st.integers(1, 6), factor=st.integers(1, 4))
def test_frames_after_the_shuffle(frames, factor):
    assert (
        pixel_shuffle_3d(torch.zeros(1, factor, frames, 1, 1), (factor, 1, 1)).shape[2]
        == factor * (frames - 1) + 1
    )


@pytest.mark.parametrize("ratio", STRIDES)
@pytest.mark.parametrize("patch_size", [1, 4])
@pytest.mark.parametrize("late", [False, True])
def test_it_undoes_the_strides_of_the_encoder(ratio, patch_size, late):
    strides = stride_plan(ratio, patch_size)
    decoder = CausalDecoder(3, (8,) * len(strides), strides, 1, patch_size, late, linear_skip=True)
    assert decoder(torch.randn(1, 3, 3, 1, 2)).shape == (1, 3, 2 * ratio + 1, 8, 16)
    assert decoder(torch.randn(1, 3, 1, 2, 1)).shape == (1, 3, 1, 16, 8)


def test_with_linear_skip_it_starts_as_a_linear_map():
    strides = stride_plan(4, 4)
    decoder = CausalDecoder(3, (8,) * 4, strides, 1, 4, False, linear_skip=True).eval()
    a, b = torch.randn(2, 1, 3, 2, 1, 1)
    both = decoder(a + b) + decoder(torch.zeros_like(a))
    torch.testing.assert_close(decoder(a) + decoder(b), both, atol=1e-5, rtol=1e-5)
