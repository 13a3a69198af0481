"""Sinusoids and rotary positions against their formulas."""

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.layers.positions import (
    TimestepEmbedding,
    apply_rope,
    compute_rope,
    grid_positions,
    sinusoidal_embedding,
)

HEAD_WIDTHS = st.integers(1, 20).map(lambda pairs: 2 * pairs)
SHIFTS = st.tuples(*[st.floats(-20, 20)] * 3)


def heads(count: int, head_width: int) -> torch.Tensor:
    return torch.randn(2, 3, count, head_width)


def test_sinusoids_differ_between_values_and_start_at_one():
    table = sinusoidal_embedding(torch.tensor([0.0, 0.5, 1.0]), 16)
    torch.testing.assert_close(table[0], torch.tensor([1.0] * 8 + [0.0] * 8))
    assert torch.cdist(table, table).fill_diagonal_(1.0).min() > 0.1
    out = TimestepEmbedding(32)(torch.tensor([0.0, 0.5, 1.0]), torch.float32)
    assert torch.cdist(out, out).fill_diagonal_(1.0).min() > 1e-4


@given(HEAD_WIDTHS, st.integers(1, 9), SHIFTS)
def test_products_depend_on_differences_of_positions_only(head_width, count, shift):
    positions = 5 * torch.randn(count, 3)
    q, k = heads(count, head_width), heads(count, head_width)
    products = []
    for moved in (positions, positions + torch.tensor(shift)):
        rope = compute_rope(moved, head_width)
        products.append(apply_rope(q, rope) @ apply_rope(k, rope).transpose(2, 3))
    torch.testing.assert_close(*products, atol=1e-3, rtol=1e-3)


@given(HEAD_WIDTHS, st.integers(1, 9))
def test_a_rotation_keeps_norms_and_is_inverted_by_its_opposite(head_width, count):
    positions, x = 5 * torch.randn(count, 3), heads(count, head_width)
    rotated = apply_rope(x, compute_rope(positions, head_width))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(
        apply_rope(rotated, compute_rope(-positions, head_width)), x, atol=1e-5, rtol=1e-4
    )
    assert torch.equal(apply_rope(x, compute_rope(0 * positions, head_width)), x)
    assert apply_rope(x.bfloat16(), compute_rope(positions, head_width)).dtype == torch.bfloat16


@given(HEAD_WIDTHS)
def test_each_pair_rotates_along_one_axis_at_2_to_a_twentieth(head_width):
    rope = compute_rope(torch.eye(3), head_width)
    angles = torch.atan2(rope.sin, rope.cos)[0]
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


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_grid_positions_have_time_slowest(t, y, x):
    expected = list(product(range(t), range(y), range(x)))
    assert grid_positions((t, y, x), torch.device("cpu")).tolist() == [list(place) for place in expected]
