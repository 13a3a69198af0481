"""Rotary positions, and what they and masks do in attention (spec B2)."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.layers.attention import Attention, Window, init_local_attention
from regen.layers.positions import Rope, apply_rope, compute_rope, grid_positions

CPU = torch.device("cpu")
HEAD_WIDTHS = st.integers(1, 20).map(lambda pairs: 2 * pairs)
SHIFTS = st.tuples(*[st.floats(-20, 20)] * 3)


def heads_of(count: int, head_width: int) -> torch.Tensor:
    return torch.randn(2, 3, count, head_width)


@given(HEAD_WIDTHS, st.integers(1, 9), SHIFTS)
def test_products_depend_on_differences_of_positions_alone(head_width, count, shift):
    places = 5 * torch.randn(count, 3)
    q, k = heads_of(count, head_width), heads_of(count, head_width)
    found = []
    for moved in (places, places + torch.tensor(shift)):
        turn = compute_rope(moved, head_width)
        found.append(apply_rope(q, turn) @ apply_rope(k, turn).transpose(2, 3))
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


@given(HEAD_WIDTHS, st.integers(1, 9))
def test_a_rotation_keeps_norms_and_its_opposite_undoes_it(head_width, count):
    places, x = 5 * torch.randn(count, 3), heads_of(count, head_width)
    turned = apply_rope(x, compute_rope(places, head_width))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(apply_rope(turned, compute_rope(-places, head_width)), x, atol=1e-5, rtol=1e-4)


@given(HEAD_WIDTHS, st.integers(1, 9))
def test_place_zero_turns_nothing(head_width, count):
    x = heads_of(count, head_width)
    assert torch.equal(apply_rope(x, compute_rope(torch.zeros(count, 3), head_width)), x)


@given(HEAD_WIDTHS)
def test_each_pair_turns_along_one_axis_at_most_2_and_at_least_a_twentieth(head_width):
    turn = compute_rope(torch.eye(3), head_width)
    angles = torch.atan2(turn.sin, turn.cos)[0]
    assert angles.shape == (3, head_width // 2)
    assert ((angles != 0).sum(0) == 1).all()
    counts = (angles != 0).sum(1).tolist()
    assert counts[1] == counts[2] == head_width // 6
    for along, count in zip(angles, counts, strict=True):
        speeds = along[along != 0]
        if count > 0:
            torch.testing.assert_close(speeds.max(), torch.tensor(2.0))
        if count > 1:
            torch.testing.assert_close(speeds.min(), torch.tensor(1 / 20))
            assert (speeds.diff() < 0).all()


def test_a_rotation_keeps_the_precision_of_its_input():
    x = heads_of(4, 12).bfloat16()
    assert apply_rope(x, compute_rope(torch.randn(4, 3), 12)).dtype == torch.bfloat16


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_grid_positions_are_all_places_with_time_slowest(t, y, x):
    expected = list(product(range(t), range(y), range(x)))
    assert grid_positions((t, y, x), CPU).tolist() == [list(place) for place in expected]


def turn_of(places: torch.Tensor, layer: Attention) -> Rope:
    return compute_rope(places, layer.out.in_features // layer.heads)


@given(SHIFTS)
def test_attention_sees_distances_and_no_places(shift):
    layer, x, places = Attention(24, heads=2), torch.randn(2, 9, 24), 3 * torch.randn(9, 3)
    out = layer(x, rope=turn_of(places, layer))
    moved = layer(x, rope=turn_of(places + torch.tensor(shift), layer))
    torch.testing.assert_close(moved, out, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(layer(x, rope=turn_of(2 * places, layer)), out, atol=1e-4)
    assert not torch.allclose(layer(x), out, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_permuting_tokens_with_their_places_permutes_the_answer(turned):
    layer, x, places, order = (
        Attention(24, heads=2),
        torch.randn(2, 9, 24),
        torch.randn(9, 3),
        torch.randperm(9),
    )
    keep = torch.rand(2, 9) < 0.7
    keep[:, 0] = True
    before, after = (turn_of(p, layer) if turned else None for p in (places, places[order]))
    out = layer(x, rope=before, mask=keep)
    torch.testing.assert_close(layer(x[:, order], rope=after, mask=keep[:, order]), out[:, order])
    alone = layer(x[:, order], rope=before, mask=keep[:, order])
    assert torch.allclose(alone, out[:, order], atol=1e-5) is not turned, "the places are all that tells"


@given(st.integers(1, 9), st.integers(0, 9), st.booleans())
def test_tokens_that_are_left_out_act_on_no_other(kept, others, turned):
    layer, count = Attention(24, heads=2), kept + others
    x, places = torch.randn(2, count, 24), torch.randn(count, 3)
    keep = torch.stack([torch.randperm(count) < kept for _ in range(2)])
    turn = turn_of(places, layer) if turned else None
    out = layer(x, rope=turn, mask=keep)
    spoiled = torch.where(keep[:, :, None], x, 100 * torch.randn_like(x))
    assert torch.equal(layer(spoiled, rope=turn, mask=keep)[keep], out[keep])
    for one, seen, answer in zip(x, keep, out, strict=True):
        alone = layer(one[None, seen], rope=turn_of(places[seen], layer) if turned else None)
        torch.testing.assert_close(answer[seen], alone[0], atol=1e-5, rtol=1e-4)


def test_keeping_all_is_the_same_as_no_mask():
    layer, x = Attention(24, heads=2), torch.randn(2, 9, 24)
    torch.testing.assert_close(layer(x, mask=torch.ones(2, 9, dtype=torch.bool)), layer(x))


def test_what_is_left_out_gets_no_gradient_from_others():
    layer, x = Attention(24, heads=2), torch.randn(1, 9, 24, requires_grad=True)
    keep = torch.arange(9)[None] < 6
    layer(x, rope=turn_of(torch.randn(9, 3), layer), mask=keep)[keep].square().sum().backward()
    assert x.grad[keep].any(-1).all()
    assert not x.grad[~keep].any()


def test_windows_and_places_do_not_go_together():
    layer, x = Attention(24, heads=2), torch.randn(1, 9, 24)
    for options in ({"rope": turn_of(torch.randn(9, 3), layer)}, {"mask": torch.ones(1, 9).bool()}):
        with pytest.raises(AssertionError, match="windows"):
            layer(x, (1, 3, 3), Window(2, 0), **options)


def attention_weights(layer: Attention, count: int, places: torch.Tensor) -> torch.Tensor:
    """How much each token sees of each other one, read off by values that are zero but for one token."""
    width = layer.out.in_features
    x = torch.nn.functional.layer_norm(torch.randn(1, count, width), (width,))
    found = []
    for token in range(count):
        qkv = layer.qkv(x).detach()
        qkv[..., 2 * width :] = 0
        qkv[:, token, 2 * width :] = 1
        found.append(layer.processor(*layer._heads(qkv, turn_of(places, layer)))[0].mean(1))
    return torch.stack(found, dim=1)


def test_at_the_start_tokens_see_themselves_and_those_near_them_most():
    places = grid_positions((3, 4, 4), CPU)
    distance = torch.cdist(places, places)
    near, far = (distance > 0) & (distance < 1.2), distance > 2.5
    layer = Attention(128, heads=2)
    before = attention_weights(layer, 48, places)
    init_local_attention(torch.nn.Sequential(layer))
    after = attention_weights(layer, 48, places)
    torch.testing.assert_close(after.sum(1), torch.ones(48))
    assert after.diagonal().mean() > 1.3 * after[near].mean()
    assert after[near].mean() > 2 * after[far].mean()
    assert (distance.gather(1, after.argmax(1)[:, None]) <= 1.5).float().mean() > 0.8
    assert 0.8 < before[near].mean() / before[far].mean() < 1.25, "without it they see all alike"


def test_only_biases_of_queries_and_keys_are_changed_at_the_start():
    blocks = torch.nn.ModuleList([Attention(24, heads=2), torch.nn.Linear(24, 72), Attention(24, heads=2)])
    before = {name: value.clone() for name, value in blocks.state_dict().items()}
    init_local_attention(blocks)
    after = blocks.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"0.qkv.bias", "2.qkv.bias"}
    assert torch.equal(after["0.qkv.bias"][48:], before["0.qkv.bias"][48:]), "values keep theirs"
    assert all(p.requires_grad for p in blocks.parameters())
