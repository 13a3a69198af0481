"""Self-alignment against loops, its gradients and masks, and the rank of the latents (spec B5.4, B11.5)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from regen.losses.alignment import effective_rank, self_alignment


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Sequence, structure, which latents are kept, and the margin."""
    clips, channels, count = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 6))
    kept = torch.tensor(draw(st.lists(st.integers(0, count), min_size=clips, max_size=clips)))
    keep = torch.arange(count) < kept[:, None]
    structural = torch.randn(clips, channels, draw(st.integers(1, 5)))
    return torch.randn(clips, channels, count), structural, keep, draw(st.floats(0, 1))


def by_loops(u: torch.Tensor, s: torch.Tensor, keep: torch.Tensor, margin: float) -> float:
    total = 0.0
    for clip in range(len(u)):
        matching, smooth = [], []
        kept = [u[clip, :, i] for i in range(u.shape[2]) if keep[clip, i]]
        for i, one in enumerate(kept):
            best = max(F.cosine_similarity(one, s[clip, :, j], dim=0) for j in range(s.shape[2]))
            matching.append(max(0, 1 - margin - best.item()))
            if i + 1 < len(kept):
                smooth.append(max(0, 1 - margin - F.cosine_similarity(one, kept[i + 1], dim=0).item()))
        total += sum(sum(terms) / len(terms) for terms in (matching, smooth) if terms)
    return total / len(u)


@given(cases())
def test_the_loss_is_the_formula(case):
    assert self_alignment(*case).item() == pytest.approx(by_loops(*case), abs=1e-4)


def some(count: int = 5, kept: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s = torch.randn(2, 4, count, requires_grad=True), torch.randn(2, 4, 3, requires_grad=True)
    return u, s, (torch.arange(count) < kept).expand(2, -1)


def test_gradient_reaches_the_sequence_and_not_the_structure():
    u, s, keep = some()
    self_alignment(u, s, keep, margin=0.0).backward()
    assert u.grad.any(1).all()
    assert s.grad is None


def test_following_the_gradient_brings_latents_near_the_structure():
    u, s, keep = some()
    before = self_alignment(u, s, keep, margin=0.0)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(self_alignment(u, s, keep, margin=0.0), u)
        u = (u - gradient).detach().requires_grad_()
    assert self_alignment(u, s, keep, margin=0.0) < 0.3 * before


@given(st.floats(0.05, 1), st.floats(0.01, 100))
def test_what_is_within_the_margin_costs_nothing(margin, scale):
    direction = torch.tensor([1.0, 0, 0, 0]).reshape(1, 4, 1)
    angle = torch.arccos(torch.tensor(1 - 0.99 * margin))  # a cosine just within it
    turned = torch.tensor([angle.cos(), angle.sin(), 0, 0]).reshape(1, 4, 1)
    u, keep = scale * torch.cat([direction, turned, direction], dim=2), torch.ones(1, 3, dtype=torch.bool)
    u.requires_grad_()
    loss = self_alignment(u, torch.cat([direction, -direction], dim=2), keep, margin)
    loss.backward()
    assert loss == 0 and not u.grad.any()
    assert self_alignment(u, direction, keep, 0.9 * margin) > 0


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_only_directions_count(one, other):
    u, s, keep = some()
    torch.testing.assert_close(self_alignment(one * u, other * s, keep), self_alignment(u, s, keep))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(("count", "kept"), [(0, 0), (1, 0), (1, 1), (2, 1), (5, 0), (5, 1)])
def test_with_none_or_one_left_the_loss_is_a_number(count, kept, value, margin):
    """Also of latents that are all zero, which have no direction."""
    u, s, keep = some(count, kept)
    u = (value * u).detach().requires_grad_()
    loss = self_alignment(u, value * s, keep, margin)
    loss.backward()
    assert loss.isfinite() and u.grad.isfinite().all()
    assert loss == 0 or kept > 0


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_what_is_left_out_does_not_count(kept):
    u, s, keep = some(5, kept)
    loss = self_alignment(u, s, keep, margin=0.0)
    loss.backward()
    assert not u.grad[:, :, kept:].any()
    spoiled = torch.where(keep[:, None], u, 100.0)
    torch.testing.assert_close(self_alignment(spoiled, s, keep, margin=0.0), loss)
    torch.testing.assert_close(self_alignment(u[:, :, :kept], s, keep[:, :kept], margin=0.0), loss)


def test_a_clip_is_aligned_with_its_own_structure():
    u = torch.eye(4)[:2, :, None].repeat(1, 1, 3)
    keep = torch.ones(2, 3, dtype=torch.bool)
    assert self_alignment(u, u[:, :, :1], keep, 0.5) == 0
    assert self_alignment(u, u[:, :, :1].flip(0), keep, 0.5) == 0.5


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


def test_the_rank_is_that_of_what_is_kept():
    x, keep = torch.randn(2, 4, 9), torch.arange(9) < torch.tensor([[3], [6]])
    spoiled = torch.where(keep[:, None], x, 100.0)
    kept = torch.cat([x[0, :, :3], x[1, :, :6]], dim=1)[None]
    torch.testing.assert_close(effective_rank(spoiled, keep), effective_rank(kept, ones(kept)))
    assert effective_rank(x, torch.zeros_like(keep)) == 0
    assert effective_rank(x[:, :, :0], keep[:, :0]) == 0
    assert not effective_rank(x.requires_grad_(), keep).requires_grad
