"""Slices through time: which pixels they hold, and how several of them become one picture."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from slices import GUTTER, SliceCollector, compare_slices
from torch import Tensor

from regen.codec.streams import GREY, LABEL_HEIGHT, WHITE, label
from regen.media.files import write_image


def random_frames(frames: int, height: int = 7, width: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


def test_slice_is_the_row_of_every_frame() -> None:
    frames = random_frames(6)
    middle, top = SliceCollector(), SliceCollector(row=0)
    for collector in (middle, top):
        collector.update(frames)
    assert torch.equal(middle.picture(), frames[:, 3])
    assert torch.equal(top.picture(), frames[:, 0])


@given(cuts=st.lists(st.integers(0, 8), max_size=5))
def test_split_into_calls_does_not_matter(cuts: list[int]) -> None:
    frames, collector = random_frames(8), SliceCollector()
    edges = [0, *sorted(cuts), 8]
    for first, last in pairwise(edges):
        collector.update(frames[first:last])
    assert torch.equal(collector.picture(), frames[:, 3])


def test_kept_rows_are_copies() -> None:
    """Else one row would keep a whole chunk of frames in memory."""
    frames, collector = random_frames(2), SliceCollector()
    collector.update(frames)
    expected = frames[:, 3].clone()
    frames.zero_()
    assert torch.equal(collector.picture(), expected)


@pytest.mark.parametrize("row", [-1, 7])
def test_row_outside_is_an_error(row: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 6, got {row}"):
        SliceCollector(row).update(random_frames(1))


def test_no_frame_is_an_error() -> None:
    collector = SliceCollector()
    with pytest.raises(ValueError, match="at least one"):
        collector.picture()
    collector.update(random_frames(0))
    with pytest.raises(ValueError, match="at least one"):
        collector.picture()


@given(frames=st.integers(1, 13), chunk=st.integers(1, 6), lines=st.integers(1, 5))
def test_slices_stand_side_by_side(frames: int, chunk: int, lines: int) -> None:
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


def test_picture_can_be_written(tmp_path: Path) -> None:
    picture = compare_slices({"original": random_frames(6)[:, 0]}, chunk_frames=5)
    write_image(picture, tmp_path / "slice.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "slice.png")), picture.numpy())


@pytest.mark.parametrize(("chunk", "lines"), [(0, 4), (5, 0)])
def test_impossible_numbers_are_errors(chunk: int, lines: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        compare_slices({"original": random_frames(2)[:, 0]}, chunk, lines)


def test_no_slice_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        compare_slices({}, 5)
