"""Slices through time: which pixels they hold, and how several of them become one picture."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from slices import GUTTER, SliceCollector, compare_slices
from torch import Tensor

from regen.codec.transcode import GREY, LABEL_HEIGHT, WHITE, label


def random_frames(frames: int, height: int = 7, width: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


@given(cuts=st.lists(st.integers(0, 8), max_size=5))
def test_a_slice_is_a_row_of_every_frame_however_they_are_split_into_calls(cuts):
    frames, middle, top = random_frames(8), SliceCollector(), SliceCollector(row=0)
    edges = [0, *sorted(cuts), 8]
    for first, last in pairwise(edges):
        middle.update(frames[first:last])
        top.update(frames[first:last])
    assert torch.equal(middle.picture(), frames[:, 3]) and torch.equal(top.picture(), frames[:, 0])


@given(frames=st.integers(1, 13), chunk=st.integers(1, 6), lines=st.integers(1, 5))
def test_slices_stand_side_by_side(frames, chunk, lines):
    """Every pixel: labels on top, each slice repeated in time, ticks at the borders in the gutter alone."""
    slices = {
        "original": random_frames(frames)[:, 0],
        "1 step": random_frames(frames, width=15, seed=1)[:, 0],
    }
    picture = compare_slices(slices, chunk, lines)
    assert picture.shape == (LABEL_HEIGHT + frames * lines, 9 + 15 + 2 * GUTTER, 3)
    columns = picture.split([GUTTER, 9, GUTTER, 15], dim=1)
    assert torch.equal(picture[:LABEL_HEIGHT, : GUTTER + 9], label("original", GUTTER + 9))
    assert torch.equal(picture[:LABEL_HEIGHT, GUTTER + 9 :], label("1 step", GUTTER + 15))
    for gutter, shown, lines_of in zip(columns[::2], columns[1::2], slices.values(), strict=True):
        for y in range(frames * lines):
            assert torch.equal(shown[LABEL_HEIGHT + y], lines_of[y // lines])
            near = any(y in (b * lines - 1, b * lines) for b in range(chunk, frames, chunk))
            assert gutter[LABEL_HEIGHT + y, -1].tolist() == list(WHITE if near else GREY)
            assert gutter[LABEL_HEIGHT + y, 0].tolist() == list(GREY)
