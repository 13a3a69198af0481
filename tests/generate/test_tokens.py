"""Latents as tokens: where each lies, and rows of chunks that fall apart into the same chunks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_media import same_latents

from regen.embedders.one_dva import AutoencoderOneDVA
from regen.generate.inputs import FIRST_FRAME, OTHER_FRAMES, TokenLayout, concat_chunks, split_chunks
from regen.latents import Latents, collate

CPU = torch.device("cpu")


def hybrid_chunks(lengths: list[list[int]]) -> Latents:
    """A batch of chunks of 2 x 2 x 4 places; what is filled up is spoiled."""
    counts = torch.tensor(lengths, dtype=torch.int64)
    k = len(lengths)
    return Latents(torch.randn(k, 3, 2, 2, 4), torch.randn(k, 3, int(counts.sum(1).max())), counts)


LENGTHS = st.integers(0, 3).flatmap(
    lambda r: st.lists(st.lists(st.integers(0, 4), min_size=r, max_size=r), min_size=1, max_size=4)
)


@given(LENGTHS)
def test_split_chunks_is_the_inverse_of_concat_chunks(lengths):
    chunks = hybrid_chunks(lengths)
    row = concat_chunks(chunks)
    assert row.grid.shape == (3, 2 * len(lengths), 2, 4)
    assert row.sequence.shape == (3, sum(map(sum, lengths))), "nothing is filled up within a row"
    again = split_chunks(row, 2)
    assert len(again) == len(lengths)
    assert all(same_latents(one, chunks[i]) for i, one in enumerate(again))
    assert same_latents(concat_chunks(collate(again)), row)


def test_an_image_is_a_chunk_of_its_own():
    image = Latents.of(torch.randn(3, 1, 2, 4))
    assert [one.shape for one in split_chunks(image, 2)] == [image.shape]


def test_token_types_and_positions():
    layout = TokenLayout(3, 2, None)
    grid = layout.grid(6, 4, 6)
    assert grid == (6, 2, 3)
    kinds = layout.token_types(grid, CPU).reshape(grid)
    content = torch.tensor([True, False, False] * 2)[:, None, None].expand(grid)
    assert torch.equal(kinds == FIRST_FRAME, content) and torch.equal(kinds == OTHER_FRAMES, ~content)
    t, y, x = layout.positions(grid, CPU).reshape(*grid, 3).unbind(-1)
    assert torch.allclose(t[:, 0, 0], torch.tensor([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3]))
    assert torch.equal(y[0, :, 0], torch.arange(2.0)) and torch.equal(x[0, 0], torch.arange(3.0))


@pytest.mark.parametrize(("region", "queries"), [(2, 20), (None, 20), (3, 20), (4, 320)])
@pytest.mark.parametrize("places", [(2, 2), (4, 6), (6, 10), (3, 7)])
@pytest.mark.parametrize("frames", [1, 17])
def test_regions_are_those_of_the_embedder(region, queries, places, frames):
    """Also where it has too few queries for regions as large as asked for."""
    model = AutoencoderOneDVA(
        latent_channels=4, encoder_width=8, encoder_depth=1, encoder_heads=1, width=8, depth=1, heads=1,
        pixel_channels=1, num_queries=queries, region_size=region, chunk_frames=17,
    )  # fmt: skip
    height, width = places
    side = model.spatial_compression_ratio
    wanted = model.regions(frames, side * height, side * width).boxes
    n, chunks = model.patches.grid(frames, side, side)[0], 1 if frames == 1 else 3
    layout = TokenLayout(5, 2, region, queries)
    assert layout.regions(n * chunks, height, width).boxes == wanted
    centres = layout.region_centres(n * chunks, height, width, device=CPU).reshape(chunks, len(wanted), 3)
    assert torch.equal(centres[:, 0, 0], torch.arange(float(chunks)))
    for ((top, bottom), (left, right)), (_, y, x) in zip(wanted, centres[-1].tolist(), strict=True):
        assert (y, x) == pytest.approx(((top + bottom - 2) / 4, (left + right - 2) / 4))


def test_1d_latents_are_numbered_in_their_regions():
    lengths = torch.tensor([[2, 0, 3, 1], [0, 0, 0, 2]])  # two regions in each of two chunks
    latents = Latents(torch.zeros(2, 3, 4, 2, 4), torch.zeros(2, 3, 6), lengths)
    tokens = TokenLayout(2, 2, 2).sequence(latents)
    assert tokens.rank[0].tolist() == [0, 1, 0, 1, 2, 0]
    assert tokens.chunk[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert tokens.mask.tolist() == [[True] * 6, [True] * 2 + [False] * 4]
    assert tokens.positions[0].tolist() == [[0, 0, 0]] * 2 + [[1, 0, 0]] * 3 + [[1, 0, 1]]
    assert tokens.rank[1, :2].tolist() == [0, 1] and tokens.chunk[1, :2].tolist() == [1, 1]
    assert tokens.positions[1, :2].tolist() == [[1, 0, 1]] * 2


@pytest.mark.parametrize(("known", "unknown_1d"), [(0, 6), (1, 6), (2, 4), (3, 4), (4, 0)])
def test_1d_latents_are_given_with_the_last_latent_frame_of_their_chunk(known, unknown_1d):
    lengths = torch.tensor([[2, 0, 3, 1], [0, 0, 0, 2]])
    latents = Latents(torch.zeros(2, 3, 4, 2, 4), torch.zeros(2, 3, 7), lengths)
    given = torch.stack([torch.arange(4) < known, torch.zeros(4, dtype=torch.bool)])
    grid, sequence = TokenLayout(2, 2, 2).generated_mask(latents, given).parts
    assert grid.expand(-1, 3, -1, 2, 4)[0, 0, :, 0, 0].tolist() == (torch.arange(4) >= known).tolist()
    assert sequence[0, 0].tolist() == [6 - unknown_1d <= i < 6 for i in range(7)]
    assert grid[1].all() and sequence[1, 0].tolist() == [True] * 2 + [False] * 5


def test_an_image_has_no_given_1d_latents():
    latents = Latents(torch.zeros(1, 3, 1, 2, 4), torch.zeros(1, 3, 3), torch.tensor([[2, 0]]))
    mask = TokenLayout(2, 2, 2).generated_mask(latents, torch.zeros(1, 1, dtype=torch.bool))
    assert mask.sequence[0, 0].tolist() == [True, True, False]
