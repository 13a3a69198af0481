"""The effective rank of 1D latents."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from regen.losses.one_dva import effective_rank


def ones(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[0], x.shape[2], dtype=torch.bool)


@given(st.integers(1, 8), st.floats(0.01, 1000))
def test_latents_on_one_line_have_rank_one_and_those_in_all_directions_all(channels, scale):
    direction = F.normalize(torch.randn(1, channels, 1), dim=1)
    line = torch.randn(2, 1, 20) * direction + torch.randn(1, channels, 1)
    torch.testing.assert_close(effective_rank(scale * line, ones(line)), torch.tensor(1.0), atol=1e-3, rtol=0)
    every = scale * torch.randn(2, channels, 2000)
    assert 0.97 * channels < effective_rank(every, ones(every)) <= channels + 1e-3


@given(st.integers(1, 6), st.integers(3, 10), st.floats(0.05, 1000))
def test_the_rank_lies_between_one_and_the_channels_whatever_scale_turn_and_centre(channels, count, scale):
    x = torch.randn(2, channels, count) * (0.3 + torch.rand(1, channels, 1))
    rank = effective_rank(x, ones(x))
    assert 1 - 1e-3 <= rank <= channels + 1e-3
    turn = torch.linalg.qr(torch.randn(channels, channels)).Q
    moved = scale * (torch.einsum("dc,bcs->bds", turn, x) + torch.randn(1, channels, 1))
    torch.testing.assert_close(effective_rank(moved, ones(x)), rank, atol=1e-2, rtol=1e-2)


def test_the_rank_ignores_masked_latents():
    x, mask = torch.randn(2, 4, 9), torch.arange(9) < torch.tensor([[3], [6]])
    spoiled = torch.where(mask[:, None], x, 100.0)
    valid = torch.cat([x[0, :, :3], x[1, :, :6]], dim=1)[None]
    torch.testing.assert_close(effective_rank(spoiled, mask), effective_rank(valid, ones(valid)))
    assert effective_rank(x, torch.zeros_like(mask)) == 0
    assert effective_rank(x[:, :, :0], mask[:, :0]) == 0
    assert not effective_rank(x.requires_grad_(), mask).requires_grad


def test_the_rank_is_computed_in_fp32_under_autocast():
    x = torch.randn(2, 4, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = effective_rank(x, ones(x))
    assert torch.equal(found, effective_rank(x, ones(x)))
