"""Patches of several frames: what is padded, cut and joined comes back (spec B1)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.networks.patches import Patches

PATCHES = st.builds(Patches, st.integers(1, 5), st.integers(1, 6))
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 14), st.integers(1, 14))


@given(PATCHES, st.tuples(st.integers(1, 999), st.integers(1, 999), st.integers(1, 999)))
def test_the_grid_is_the_formula(patches, size):
    t, h, w = size
    expected = (
        1 + math.ceil((t - 1) / patches.frames),
        math.ceil(h / patches.side),
        math.ceil(w / patches.side),
    )
    assert patches.grid(*size) == expected


@given(PATCHES, SIZES)
def test_crop_inverts_pad_which_fills_whole_patches(patches, size):
    clip = torch.randn(2, 3, *size)
    padded, (n, y, x) = patches.pad(clip), patches.grid(*size)
    assert padded.shape == (2, 3, n * patches.frames, y * patches.side, x * patches.side)
    assert torch.equal(patches.crop(padded, *size), clip)


@given(PATCHES, SIZES)
def test_padding_repeats_what_is_nearest(patches, size):
    clip = torch.randn(1, 3, *size)
    padded, (t, h, w) = patches.pad(clip), size
    frames = (torch.arange(padded.shape[2]) - (patches.frames - 1)).clamp(0, t - 1)
    rows, columns = (
        torch.arange(padded.shape[3]).clamp(max=h - 1),
        torch.arange(padded.shape[4]).clamp(max=w - 1),
    )
    assert torch.equal(padded, clip[:, :, frames][:, :, :, rows][..., columns])


@given(PATCHES, SIZES)
def test_the_padding_is_less_than_a_patch(patches, size):
    padded = patches.pad(torch.zeros(1, 1, *size))
    assert padded.shape[2] - (patches.frames - 1) - size[0] < patches.frames
    assert padded.shape[3] - size[1] < patches.side
    assert padded.shape[4] - size[2] < patches.side


@given(PATCHES, SIZES, st.integers(1, 4))
def test_join_inverts_cut(patches, size, channels):
    grid = patches.grid(*size)
    padded = patches.pad(torch.randn(2, channels, *size))
    tokens = patches.patchify(padded)
    assert tokens.shape == (2, math.prod(grid), channels * patches.pixels)
    assert torch.equal(patches.unpatchify(tokens, grid), padded)
    assert torch.equal(patches.patchify(patches.unpatchify(tokens.flip(1), grid)), tokens.flip(1))


@given(PATCHES, SIZES, st.data())
def test_a_pixel_belongs_to_the_token_of_its_own_patch(patches, size, data):
    place = [data.draw(st.integers(0, length - 1)) for length in size]
    clip, (_, y, x) = torch.randn(1, 3, *size), patches.grid(*size)
    moved = clip.clone()
    moved[0, :, place[0], place[1], place[2]] += 1
    changed = (
        (patches.patchify(patches.pad(moved)) != patches.patchify(patches.pad(clip))).any(-1)[0].nonzero()
    )
    group = math.ceil(place[0] / patches.frames)  # 0: the first frame alone
    expected = (group * y + place[1] // patches.side) * x + place[2] // patches.side
    assert changed.flatten().tolist() == [expected]


@pytest.mark.parametrize("frame", range(9))
def test_the_first_frame_stands_alone_and_the_others_in_groups(frame):
    patches, clip = Patches(4, 8), torch.zeros(1, 3, 9, 8, 8)
    clip[:, :, frame] = 1
    touched = patches.patchify(patches.pad(clip)).any(-1)[0].tolist()
    assert touched == [frame == 0, 1 <= frame <= 4, frame >= 5]


def test_an_image_is_its_own_frame_over_and_over():
    patches, image = Patches(4, 2), torch.randn(1, 3, 1, 4, 6)
    assert torch.equal(patches.pad(image), image.expand(-1, -1, 4, -1, -1))
