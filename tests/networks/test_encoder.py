"""CausalEncoder and CausalDecoder: stride plans, shapes, causality, causal pixel shuffle."""

import math

import pytest
import torch

from regen.networks.conv_decoder import CausalDecoder, pixel_shuffle_3d
from regen.networks.encoder import STRIDES, CausalEncoder, stride_plan


def tiny(ratio: int, patch_size: int = 1, blocks: int = 1, linear_skip: bool = False) -> CausalEncoder:
    strides = stride_plan(ratio, patch_size)
    encoder = CausalEncoder(3, (8,) * len(strides), strides, blocks, patch_size, linear_skip).eval()
    torch.nn.init.normal_(encoder.conv_out.conv.weight)
    return encoder


@pytest.mark.parametrize("ratio", STRIDES)
@pytest.mark.parametrize("patch_size", [1, 2, 4, 8])
def test_plans_divide_time_by_k_and_space_by_eight(ratio, patch_size):
    plan = stride_plan(ratio, patch_size)
    assert math.prod(s[0] for s in plan) == ratio
    assert math.prod(s[1] for s in plan) * patch_size == 8
    assert math.prod(s[2] for s in plan) * patch_size == 8
    if patch_size == 1:
        assert set(plan) <= {(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 2, 2)}


@pytest.mark.parametrize("ratio", [4, 32])
@pytest.mark.parametrize("linear_skip", [False, True])
def test_every_frame_reaches_the_motion_latent_and_only_the_first_the_content(ratio, linear_skip):
    encoder = tiny(ratio, patch_size=4, linear_skip=linear_skip)
    video = torch.randn(1, 3, ratio + 1, 16, 16)
    latent = encoder(video)
    for frame in range(ratio + 1):
        changed = video.clone()
        changed[:, :, frame] += torch.randn(3, 16, 16)
        difference = (encoder(changed) - latent).abs().amax((0, 1, 3, 4))
        assert difference[1] > 1e-5, frame
        assert (difference[0] > 1e-5) == (frame == 0), frame


def test_with_linear_skip_the_encoder_starts_as_a_linear_map_of_each_cube():
    strides = stride_plan(4, 4)
    encoder = CausalEncoder(3, (8,) * 4, strides, 1, 4, linear_skip=True)
    video, other = torch.randn(2, 1, 3, 5, 16, 24)
    constant = encoder(torch.zeros_like(video))
    torch.testing.assert_close(
        encoder(2 * video + other) - constant, 2 * (encoder(video) - constant) + encoder(other) - constant,
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
    changed = video.clone()
    changed[..., 8:, 16:] += 1
    difference = (encoder(changed) - encoder(video)).abs().amax((0, 1, 2))
    assert difference[1, 2] > 1e-3
    difference[1, 2] = 0
    assert difference.max() < 1e-6


def test_pixel_shuffle_makes_one_frame_of_the_first_and_two_of_each_later_one():
    x = torch.arange(6.0).reshape(1, 2, 3, 1, 1)  # two channels become two frames
    assert pixel_shuffle_3d(x, (2, 1, 1)).flatten().tolist() == [3.0, 1.0, 4.0, 2.0, 5.0]
    x = torch.arange(4.0).reshape(1, 4, 1, 1, 1)
    assert pixel_shuffle_3d(x, (1, 2, 2)).reshape(2, 2).tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_with_linear_skip_the_decoder_starts_as_a_linear_map():
    strides = stride_plan(4, 4)
    decoder = CausalDecoder(3, (8,) * 4, strides, 1, 4, False, linear_skip=True).eval()
    a, b = torch.randn(2, 1, 3, 2, 1, 1)
    both = decoder(a + b) + decoder(torch.zeros_like(a))
    torch.testing.assert_close(decoder(a) + decoder(b), both, atol=1e-5, rtol=1e-5)
