"""Self-alignment: its formula, what random vectors reach by chance, latents without content, its state."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from torch.nn import functional as F

from regen.latents import LatentPosterior
from regen.losses.alignment import AlignmentConfig, SelfAlignment, chance_cosine, self_alignment
from regen.losses.auxiliary import AuxiliaryLosses, LossConfig

CPU, END = torch.device("cpu"), torch.tensor(1.0)  # the ramp is complete at the end
Q = 0.95


def unit(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x, dim=1)


def ones(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[0], x.shape[2], dtype=torch.bool)


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Directions of 1D latents and structural ones, mask, and the quantile."""
    clips, channels, count = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 6))
    valid = torch.tensor(draw(st.lists(st.integers(0, count), min_size=clips, max_size=clips)))
    mask = torch.arange(count) < valid[:, None]
    structural = torch.randn(clips, channels, draw(st.integers(1, 5)))
    return unit(torch.randn(clips, channels, count)), unit(structural), mask, draw(st.floats(0.05, 0.99))


def by_loops(u: torch.Tensor, s: torch.Tensor, mask: torch.Tensor, quantile: float) -> float:
    total = 0.0
    each, pair = (chance_cosine(u.shape[1], n, quantile) for n in (s.shape[2], 1))
    for clip in range(len(u)):
        matching, smooth = [], []
        valid = [u[clip, :, i] for i in range(u.shape[2]) if mask[clip, i]]
        for i, one in enumerate(valid):
            best = max(F.cosine_similarity(one, s[clip, :, j], dim=0) for j in range(s.shape[2]))
            matching.append(max(0, each - best.item()))
            if i + 1 < len(valid):
                smooth.append(max(0, pair - F.cosine_similarity(one, valid[i + 1], dim=0).item()))
        total += sum(sum(terms) / len(terms) for terms in (matching, smooth) if terms)
    return total / len(u)


@given(cases())
def test_the_loss_is_the_formula(case):
    assert self_alignment(*case).item() == pytest.approx(by_loops(*case), abs=1e-4)


@given(st.integers(3, 64), st.integers(1, 3000), st.floats(0.05, 0.999))
def test_the_margin_is_the_quantile_of_the_largest_cosine(channels, candidates, quantile):
    """(1 + cos) / 2 of random directions has a beta distribution; the largest of n has its n-th power."""
    cosine = chance_cosine(channels, candidates, quantile)
    half = (channels - 1) / 2
    assert cosine == pytest.approx(2 * beta.ppf(quantile ** (1 / candidates), half, half) - 1, abs=2e-4)
    assert chance_cosine(channels, 2 * candidates, quantile) > cosine


@pytest.mark.parametrize(("channels", "count"), [(4, 20), (32, 80), (32, 1280)])
def test_random_vectors_stay_within_the_margin_in_as_many_cases_as_the_quantile_says(channels, count):
    torch.manual_seed(0)
    u, s = unit(torch.randn(20, channels, 100)), unit(torch.randn(20, channels, count))
    best = torch.einsum("bcs,bcn->bsn", u, s).amax(2)
    found = (best < chance_cosine(channels, count, Q)).float().mean()
    assert abs(found - Q) < 0.03  # 2000 draws, not all independent


def some(count: int = 5, valid: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, count), torch.randn(2, 4, 3), (torch.arange(count) < valid).expand(2, -1)


def posterior(u: torch.Tensor, s: torch.Tensor, mask: torch.Tensor | None = None) -> LatentPosterior:
    lengths = (ones(u) if mask is None else mask).sum(1, keepdim=True)
    return LatentPosterior(s[..., None, None], [u], lengths, s.shape[1])


def alignment(channels: int, **options) -> SelfAlignment:
    return SelfAlignment(AlignmentConfig(**{"weight": 1.0} | options), channels, CPU)


def settled(u: torch.Tensor, s: torch.Tensor, **options) -> SelfAlignment:
    """An alignment whose running means are those of these latents."""
    loss = alignment(s.shape[1], **options)
    loss(posterior(u, s), END)
    loss.update(lambda tensors: None)
    loss.discard()
    return loss


def offset(channels: int) -> torch.Tensor:
    return 5 * torch.ones(1, channels, 1) / channels**0.5


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize(("channels", "patches"), [(4, 20), (16, 80), (32, 1280)])
@pytest.mark.parametrize("scale", [0.1, 0.0])
def test_latents_without_content_do_not_satisfy_the_loss(channels, patches, scale, projection):
    """One constant vector added to all 1D latents, random ones or all equal: it costs what it did without."""
    torch.manual_seed(0)
    noise, s = torch.randn(4, channels, 60), torch.randn(4, channels, patches)
    u = scale * noise + offset(channels)
    loss = settled(u, s, projection=projection)(posterior(u, s), END)[0]
    assert loss >= 0.3
    if scale:
        bare = settled(noise, s, projection=projection)(posterior(noise, s), END)[0]
        torch.testing.assert_close(loss, bare, atol=1e-3, rtol=0)  # of a mean of 5 fp32 keeps 5e-7


def test_an_offset_of_the_structural_latents_changes_nothing():
    u, s, _ = some()
    expected = settled(u, s)(posterior(u, s), END)[0]
    moved = s + offset(4)
    torch.testing.assert_close(settled(u, moved)(posterior(u, moved), END)[0], expected, atol=1e-5, rtol=1e-4)


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_only_directions_from_the_mean_count(one, other):
    u, s, _ = some()
    plain = settled(u, s)(posterior(u, s), END)[0]
    scaled = posterior(one * u, other * s)
    torch.testing.assert_close(settled(one * u, other * s)(scaled, END)[0], plain, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_the_sequence_alone_and_brings_it_near_the_structure():
    u, s, _ = some()
    u, s, loss = u.requires_grad_(), s.requires_grad_(), settled(u.detach(), s.detach(), quantile=0.999)
    before, _ = loss(posterior(u, s), END)
    before.backward()
    assert u.grad.any(1).all()
    assert s.grad is None
    assert loss.projection.weight.grad is None
    for _ in range(200):
        (gradient,) = torch.autograd.grad(loss(posterior(u, s), END)[0], u)
        u = (u - gradient).detach().requires_grad_()
    assert loss(posterior(u, s), END)[0] < 0.3 * before


def test_what_is_beyond_chance_costs_nothing():
    u = torch.eye(4)[:2, :, None].repeat(1, 1, 3).requires_grad_()
    other = unit(torch.randn(2, 4, 1))
    own = self_alignment(u, torch.cat([u[:, :, :1].detach(), other], dim=2), ones(u), Q)
    own.backward()
    assert own == 0 and not u.grad.any()
    opposite = self_alignment(u, -u[:, :, :1].detach(), ones(u), Q)
    assert opposite.item() == pytest.approx(1 + chance_cosine(4, 1, Q))
    foreign = self_alignment(u, u[:, :, :1].detach().flip(0), ones(u), Q)
    assert foreign.item() == pytest.approx(chance_cosine(4, 1, Q)), "a clip is aligned with its own structure"


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize(("count", "valid"), [(0, 0), (1, 0), (1, 1), (2, 1), (5, 0), (5, 1)])
def test_with_at_most_one_latent_the_loss_is_finite(count, valid, value):
    """Also of latents that are all zero, which have no direction, and before the first update."""
    u, s, mask = some(count, valid)
    u = (value * u).requires_grad_()
    for loss in (alignment(4), settled(u.detach(), value * s)):
        total, logs = loss(posterior(u, value * s, mask), END)
        total.backward()
        assert total.isfinite() and logs["alignment"].isfinite() and u.grad.isfinite().all()
        assert total == 0 or valid > 0


@pytest.mark.parametrize("valid", [0, 1, 3])
def test_masked_latents_do_not_count(valid):
    u, s, mask = some(5, valid)
    u.requires_grad_()
    totals, losses = [], []
    for sequence in (u, torch.where(mask[:, None], u, 100.0), u[:, :, :valid]):
        loss = alignment(4)
        for _ in range(2):
            losses.append(loss(posterior(sequence, s, mask[:, : sequence.shape[2]]), END)[0])
            loss.update(lambda tensors: None)
            loss.discard()
        totals.append(loss.totals)
    for first in (2, 4):
        torch.testing.assert_close(losses[first : first + 2], losses[:2])
        torch.testing.assert_close(totals[first // 2], totals[0])
    losses[1].backward()
    assert not u.grad[:, :, valid:].any()


def test_it_is_computed_in_fp32_under_autocast():
    u, s, _ = some()
    loss = settled(u, s, projection=True)
    expected = loss(posterior(u, s), END)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(posterior(u, s), END)[0], expected)
        assert loss(posterior(u.bfloat16(), s.bfloat16()), END)[0].dtype == torch.float32


def test_it_is_ramped_in():
    u, s, _ = some()
    loss = settled(u, s, weight=0.5, ramp=0.4)
    values = [loss(posterior(u, s), torch.tensor(part))[0].item() for part in (0.0, 0.1, 0.4, 1.0)]
    full = 0.5 * loss(posterior(u, s), END)[1]["alignment"].item()
    assert full > 0
    assert values == pytest.approx([0, full / 4, full, full], rel=1e-4)


@pytest.mark.parametrize("projection", [False, True])
def test_a_split_batch_trains_the_same(projection):
    """The running means and the projection, which learns only where it is wanted."""
    options = {"projection": projection, "learning_rate": 0.01}
    whole, parts = alignment(4, **options), alignment(4, **options)
    for seed in range(3):
        torch.manual_seed(seed)
        u, s = torch.randn(4, 4, 6, requires_grad=True), torch.randn(4, 4, 3)
        mask = torch.arange(6) < torch.tensor([[6], [2], [0], [4]])
        whole(posterior(u, s, mask), END)[0].backward()
        for i in range(4):
            one = slice(i, i + 1)
            (parts(posterior(u[one], s[one], mask[one]), END)[0] / 4).backward()
        for loss in (whole, parts):
            loss.update(lambda tensors: None)
            loss.discard()
    torch.testing.assert_close(whole.tensors(), parts.tensors(), atol=1e-5, rtol=1e-4)
    assert torch.equal(whole.projection.weight, torch.eye(4)) != projection
    assert not whole.sums.any() and whole.totals.any()


def test_the_running_means_are_those_of_the_last_hundred_updates():
    loss, s = alignment(4), torch.randn(1, 4, 3)
    for update in range(600):
        u = torch.full((1, 4, 5), float(update > 200))
        loss(posterior(u, s), END)
        loss.update(lambda tensors: None)
        loss.discard()
    means = loss.totals[:, :-1] / loss.totals[:, -1:]
    torch.testing.assert_close(means[0], s.mean(2)[0])
    assert (means[1] > 0.97).all() and (means[1] < 1).all()


def test_the_auxiliary_losses_hold_it():
    config = LossConfig(alignment=AlignmentConfig(1.0))
    losses, none = AuxiliaryLosses(config, CPU, channels=4), AuxiliaryLosses(LossConfig(), CPU, channels=4)
    u, s, _ = some()
    assert none.align(posterior(u, s), END) == (0, {})
    assert losses.align(posterior(u, s), END)[0] > 0
    losses.update(lambda tensors: None)
    assert losses.tensors()["alignment.totals"].any()
    losses.discard()
    for options in ({"weight": -1.0}, {"quantile": 1.0}, {"ramp": 1.5}, {"learning_rate": 0.0}):
        (name,) = options
        with pytest.raises(ValueError, match=f"losses.alignment.{name}"):
            AlignmentConfig(**options)
