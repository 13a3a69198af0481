"""Patches of several frames: padding, patchify and their inverses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.networks.dit import Patches

PATCHES = st.builds(Patches, st.integers(1, 5), st.integers(1, 6))
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 14), st.integers(1, 14))


@given(PATCHES, SIZES)
def test_padding_replicates_the_border_up_to_whole_patches(patches, size):
    clip = torch.randn(2, 3, *size)
    padded, grid, (t, h, w) = patches.pad(clip), patches.grid(*size), size
    side = patches.side
    assert grid == (1 + math.ceil((t - 1) / patches.frames), math.ceil(h / side), math.ceil(w / side))
    assert padded.shape == (2, 3, grid[0] * patches.frames, grid[1] * side, grid[2] * side)
    assert torch.equal(patches.crop(padded, *size), clip)
    frames = (torch.arange(padded.shape[2]) - (patches.frames - 1)).clamp(0, t - 1)
    rows, columns = (torch.arange(padded.shape[i]).clamp(max=size[i - 2] - 1) for i in (3, 4))
    assert torch.equal(padded, clip[:, :, frames][:, :, :, rows][..., columns])


@given(PATCHES, SIZES, st.integers(1, 4))
def test_unpatchify_inverts_patchify(patches, size, channels):
    grid = patches.grid(*size)
    padded = patches.pad(torch.randn(2, channels, *size))
    tokens = patches.patchify(padded)
    assert tokens.shape == (2, math.prod(grid), channels * patches.pixels)
    assert torch.equal(patches.unpatchify(tokens, grid), padded)


@given(PATCHES, SIZES, st.data())
def test_a_pixel_belongs_to_the_token_of_its_own_patch(patches, size, data):
    place = [data.draw(st.integers(0, length - 1)) for length in size]
    clip, (_, y, x) = torch.zeros(1, 1, *size), patches.grid(*size)
    clip[0, 0, place[0], place[1], place[2]] = 1
    touched = patches.patchify(patches.pad(clip)).any(-1)[0].nonzero()
    group = math.ceil(place[0] / patches.frames)  # 0: the first frame alone
    expected = (group * y + place[1] // patches.side) * x + place[2] // patches.side
    assert touched.flatten().tolist() == [expected]


@pytest.mark.parametrize("frame", range(9))
def test_the_first_frame_has_a_patch_of_its_own(frame):
    patches, clip = Patches(4, 8), torch.zeros(1, 3, 9, 8, 8)
    clip[:, :, frame] = 1
    touched = patches.patchify(patches.pad(clip)).any(-1)[0].tolist()
    assert touched == [frame == 0, 1 <= frame <= 4, frame >= 5]
