"""Self-alignment against loops, and the effective rank."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from regen.losses.one_dva import effective_rank, self_alignment


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    clips, channels, count = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 6))
    valid = torch.tensor(draw(st.lists(st.integers(0, count), min_size=clips, max_size=clips)))
    mask = torch.arange(count) < valid[:, None]
    structural = torch.randn(clips, channels, draw(st.integers(1, 5)))
    return torch.randn(clips, channels, count), structural, mask, draw(st.floats(0, 1))


def by_loops(u: torch.Tensor, s: torch.Tensor, mask: torch.Tensor, margin: float) -> float:
    total = 0.0
    for clip in range(len(u)):
        matching, smooth = [], []
        valid = [u[clip, :, i] for i in range(u.shape[2]) if mask[clip, i]]
        for i, one in enumerate(valid):
            best = max(F.cosine_similarity(one, s[clip, :, j], dim=0) for j in range(s.shape[2]))
            matching.append(max(0, 1 - margin - best.item()))
            if i + 1 < len(valid):
                smooth.append(max(0, 1 - margin - F.cosine_similarity(one, valid[i + 1], dim=0).item()))
        total += sum(sum(terms) / len(terms) for terms in (matching, smooth) if terms)
    return total / len(u)


@given(cases())
def test_the_loss_is_the_formula(case):
    assert self_alignment(*case).item() == pytest.approx(by_loops(*case), abs=1e-4)


def some(count: int = 5, valid: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s = torch.randn(2, 4, count, requires_grad=True), torch.randn(2, 4, 3, requires_grad=True)
    return u, s, (torch.arange(count) < valid).expand(2, -1)


def test_the_gradient_reaches_the_sequence_alone_and_brings_it_near_the_structure():
    u, s, mask = some()
    before = self_alignment(u, s, mask, margin=0.0)
    before.backward()
    assert u.grad.any(1).all()
    assert s.grad is None
    for _ in range(200):
        (gradient,) = torch.autograd.grad(self_alignment(u, s, mask, margin=0.0), u)
        u = (u - gradient).detach().requires_grad_()
    assert self_alignment(u, s, mask, margin=0.0) < 0.3 * before


@given(st.floats(0.05, 1), st.floats(0.01, 100))
def test_what_is_within_the_margin_costs_nothing(margin, scale):
    direction = torch.tensor([1.0, 0, 0, 0]).reshape(1, 4, 1)
    angle = torch.arccos(torch.tensor(1 - 0.99 * margin))  # a cosine just within it
    turned = torch.tensor([angle.cos(), angle.sin(), 0, 0]).reshape(1, 4, 1)
    u, mask = scale * torch.cat([direction, turned, direction], dim=2), torch.ones(1, 3, dtype=torch.bool)
    u.requires_grad_()
    loss = self_alignment(u, torch.cat([direction, -direction], dim=2), mask, margin)
    loss.backward()
    assert loss == 0 and not u.grad.any()
    assert self_alignment(u, direction, mask, 0.9 * margin) > 0


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(("count", "valid"), [(0, 0), (1, 0), (1, 1), (2, 1), (5, 0), (5, 1)])
def test_with_at_most_one_latent_the_loss_is_finite(count, valid, value, margin):
    """Also of latents that are all zero, which have no direction."""
    u, s, mask = some(count, valid)
    u = (value * u).detach().requires_grad_()
    loss = self_alignment(u, value * s, mask, margin)
    loss.backward()
    assert loss.isfinite() and u.grad.isfinite().all()
    assert loss == 0 or valid > 0


@pytest.mark.parametrize("valid", [0, 1, 3])
def test_masked_latents_do_not_count(valid):
    u, s, mask = some(5, valid)
    loss = self_alignment(u, s, mask, margin=0.0)
    loss.backward()
    assert not u.grad[:, :, valid:].any()
    spoiled = torch.where(mask[:, None], u, 100.0)
    torch.testing.assert_close(self_alignment(spoiled, s, mask, margin=0.0), loss)
    torch.testing.assert_close(self_alignment(u[:, :, :valid], s, mask[:, :valid], margin=0.0), loss)


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
