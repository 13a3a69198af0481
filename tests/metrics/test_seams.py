"""The seam ratio on videos with a known ratio."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regen.metrics.seams import SeamRatio, jump

CHUNK = 5
FRAMES = 3 * CHUNK + 2


def moving(frames: int = FRAMES, pixels_per_frame: int = 1, height: int = 6, width: int = 48) -> Tensor:
    """Smooth waves, 60 to 190 levels, that move to the left and come in again from the right."""
    phases = torch.rand(height, 1, 3, generator=torch.Generator().manual_seed(1))
    waves = torch.sin(2 * torch.pi * (2 * torch.arange(width)[None, :, None] / width + phases))
    picture = (125 + 65 * waves).round().to(torch.uint8)
    return torch.stack([picture.roll(-pixels_per_frame * index, dims=1) for index in range(frames)])


def still(frames: int = FRAMES) -> Tensor:
    return moving(1).expand(frames, -1, -1, -1)


def offset_by_chunk(frames: Tensor, levels: int, chunk: int = CHUNK) -> Tensor:
    """Every second chunk is brighter by `levels`."""
    odd = torch.arange(len(frames)) // chunk % 2
    return frames + (odd * levels).to(torch.uint8)[:, None, None, None]


def ratio(reference: Tensor, other: Tensor, chunk: int = CHUNK) -> float | None:
    seams = SeamRatio(chunk)
    seams.update(reference, other)
    return seams.compute()


@pytest.mark.parametrize("frames", [moving(), still(), offset_by_chunk(moving(), 20)])
def test_identical_videos_are_seamless(frames: Tensor) -> None:
    assert ratio(frames, frames) == 1.0


def test_offsets_of_chunks_are_seams() -> None:
    """Those that are small beside the motion count less than those that are large."""
    ratios = [ratio(moving(), offset_by_chunk(moving(), levels)) for levels in (0, 5, 20, 60)]
    assert ratios == sorted(set(ratios)), "strictly growing"
    assert ratios[0] == 1.0 and ratios[-1] > 1.3


@given(levels=st.integers(0, 60), chunk=st.integers(2, 8))
def test_still_picture(levels: int, chunk: int) -> None:
    """No jump inside, `levels` at every border, and none anywhere in the reference."""
    value = ratio(still(), offset_by_chunk(still(), levels, chunk), chunk)
    assert value == pytest.approx((levels + 0.1) / 0.1, rel=1e-9)


@pytest.mark.parametrize("speed", [2, 3])
def test_faster_motion_is_no_seam(speed: int) -> None:
    reference, other = moving(pixels_per_frame=1), moving(pixels_per_frame=speed)
    assert jump(*other[:2]) > (speed - 0.2) * jump(*reference[:2])
    assert ratio(reference, other) == pytest.approx(1.0, abs=1e-9)


def test_a_cut_at_a_border_counts_for_nothing() -> None:
    cut = moving()
    cut[2 * CHUNK :] = 255 - cut[2 * CHUNK :] // 2
    noise = torch.randint(0, 5, cut.shape, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    assert ratio(moving(), cut) > 2, "alone it would be a seam"
    assert ratio(cut, cut + noise) == pytest.approx(1.0, abs=0.01)


def test_borders_are_where_chunks_begin() -> None:
    """One jump, moved through the video: it is a seam only before the first frame of a chunk."""
    for first in range(1, FRAMES):
        other = still().clone()
        other[first:] += 10
        assert (ratio(still(), other) > 1) == (first % CHUNK == 0), first


@pytest.mark.parametrize(("frames", "chunk"), [(1, 5), (5, 5), (4, 5), (2, 1), (9, 1)])
def test_no_value_without_a_border_or_without_an_inside(frames: int, chunk: int) -> None:
    video = moving(frames)
    assert ratio(video, video, chunk) is None
    assert SeamRatio(chunk).compute() is None


@given(cuts=st.lists(st.integers(0, FRAMES), max_size=6), levels=st.integers(0, 60))
def test_split_into_calls_does_not_matter(cuts: list[int], levels: int) -> None:
    """The last frame is a copy: a decoder may write the next frames into the same memory."""
    reference, other = moving(), offset_by_chunk(moving(pixels_per_frame=2), levels)
    seams, buffers = SeamRatio(CHUNK), torch.stack([reference, other])
    for first, last in pairwise([0, *sorted(cuts), FRAMES]):
        buffers[0, : last - first], buffers[1, : last - first] = reference[first:last], other[first:last]
        seams.update(*buffers[:, : last - first])
    assert seams.compute() == ratio(reference, other)
