"""Cutting a picture into tiles and joining them: nothing is lost, nothing is added, and no seam is drawn."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regen.tiling import LATENT_STRIDE, Tile, Tiling, crop, spans

Sizes = tuple[int, int, int, int, int]


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    """In latents: height and width of a picture, those of the tiles, and their overlap."""
    overlap = draw(st.integers(0, 4))
    sides = st.integers(max(1, 2 * overlap), 3 * max(1, overlap) + 6)
    return draw(st.integers(1, 30)), draw(st.integers(1, 30)), draw(sides), draw(sides), overlap


def tiling_of(sizes: Sizes) -> Tiling:
    height, width, *tile = sizes
    return Tiling.of(height, width, Tile(*(LATENT_STRIDE * side for side in tile)))


def crops(x: Tensor, tiling: Tiling, unit: int) -> list[Tensor]:
    return [crop(x, box, unit) for box in tiling.boxes]


@given(st.integers(1, 300), st.integers(1, 40), st.floats(0, 0.5))
def test_spans_cover_the_length_and_overlap_exactly(length: int, tile: int, share: float) -> None:
    overlap = int(share * tile)
    found = spans(length, tile, overlap)
    assert (found[0][0], found[-1][1]) == (0, length)
    lengths = [stop - start for start, stop in found]
    assert max(lengths) <= tile
    assert max(lengths) - min(lengths) <= 1, "about equal"
    for (_, stop), (start, _) in pairwise(found):
        assert stop - start == overlap
    fewer = len(found) - 1
    assert fewer * tile - (fewer - 1) * overlap < length or fewer == 0, "no more spans than it takes"


@given(sizes(), st.integers(1, 3))
def test_joined_crops_are_the_picture(sizes: Sizes, unit: int) -> None:
    tiling, (height, width) = tiling_of(sizes), sizes[:2]
    picture = torch.randn(1, 3, 2, height * unit, width * unit)
    assert torch.equal(tiling.blend(crops(picture, tiling, unit), unit), picture)


def test_the_smallest_tiles_both_of_whose_overlaps_meet() -> None:
    tiling, picture = Tiling.of(13, 8, Tile(64, 64, 32)), torch.randn(13, 8)
    assert tiling.rows == [(0, 7), (3, 10), (6, 13)], "the middle one is shorter than twice the overlap"
    assert torch.equal(tiling.blend(crops(picture, tiling, 1), 1), picture)


def test_one_tile_is_the_picture_itself() -> None:
    picture = torch.randn(3, 5 * LATENT_STRIDE, 7 * LATENT_STRIDE)
    for tile in (None, Tile(5 * LATENT_STRIDE, 7 * LATENT_STRIDE, 16), Tile(800, 800)):
        tiling = Tiling.of(5, 7, tile)
        (part,) = crops(picture, tiling, LATENT_STRIDE)
        assert tiling.blend([part], LATENT_STRIDE) is part
        assert part.data_ptr() == picture.data_ptr()
        assert part.shape == picture.shape


def test_a_tile_fades_into_the_next_linearly_and_symmetrically() -> None:
    tiling = Tiling([(0, 1)], spans(12, 8, 4))
    assert tiling.columns == [(0, 8), (4, 12)]
    joined = tiling.blend([torch.zeros(1, 8), torch.ones(1, 8)], 1)
    torch.testing.assert_close(joined[0], torch.tensor([0.0] * 4 + [1 / 8, 3 / 8, 5 / 8, 7 / 8] + [1.0] * 4))
    turned = Tiling(tiling.columns, tiling.rows)
    assert torch.equal(turned.blend([torch.zeros(8, 1), torch.ones(8, 1)], 1), joined.T)


@given(sizes())
def test_a_value_lies_between_those_of_the_tiles_that_hold_it(sizes: Sizes) -> None:
    """Blending is a mean with weights that add up to one: it never leaves the range of what is blended."""
    tiling, (height, width) = tiling_of(sizes), sizes[:2]
    parts = [torch.randn_like(part) for part in crops(torch.zeros(height, width), tiling, 1)]
    low, high = torch.full((height, width), torch.inf), torch.full((height, width), -torch.inf)
    for box, part in zip(tiling.boxes, parts, strict=True):
        crop(low, box, 1).copy_(torch.minimum(crop(low, box, 1), part))
        crop(high, box, 1).copy_(torch.maximum(crop(high, box, 1), part))
    joined = tiling.blend(parts, 1)
    assert (joined >= low - 1e-6).all()
    assert (joined <= high + 1e-6).all()


def test_parts_are_consumed_one_by_one_in_order() -> None:
    tiling = Tiling.of(9, 10, Tile(32, 40, 8))
    picture, consumed = torch.randn(9, 10), []

    def parts():
        for box in tiling.boxes:
            consumed.append(box)
            yield crop(picture, box, 1)

    assert torch.equal(tiling.blend(parts(), 1), picture)
    assert consumed == [(row, column) for row in tiling.rows for column in tiling.columns]


@pytest.mark.parametrize("sides", [(64, 127, 64), (127, 64, 64), (7, 64, 0), (64, 64, -8)])
def test_invalid_tiles(sides: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 8 pixels and twice the overlap"):
        Tile(*sides)


@given(st.integers(8, 2000), st.integers(8, 2000), st.integers(0, 64))
def test_halving_ends_at_tiny_tiles(height: int, width: int, overlap: int) -> None:
    tile, count = Tile(height, width, min(overlap, height // 2, width // 2)), 0
    while (smaller := tile.halved()) is not None:
        assert smaller.height * smaller.width < tile.height * tile.width
        assert smaller.height >= min(64, height) and smaller.width >= min(64, width)
        assert smaller.overlap <= tile.overlap
        tile, count = smaller, count + 1
    assert max(tile.height, tile.width) <= 64
    assert count <= 12
