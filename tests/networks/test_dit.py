"""DiT: any size and length, windows, context tokens, no positions of its own; and patches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import awake

from regen.networks.dit import DiT, Patches, modulate

PATCHES = st.builds(Patches, st.integers(1, 5), st.integers(1, 6))
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 14), st.integers(1, 14))


def woken(timestep: str = "adaln_zero", depth: int = 2, window: int | None = None) -> DiT:
    return awake(DiT(width=24, depth=depth, heads=3, patch_size=8, timestep=timestep, window=window))


def inputs(t: int = 3, y: int = 2, x: int = 4, b: int = 2) -> tuple[torch.Tensor, ...]:
    return torch.randn(b, 3, t, 8 * y, 8 * x), torch.randn(b, t, y, x, 24), torch.rand(b)


@pytest.mark.parametrize("timestep", ["add", "adaln_single", "adaln_zero"])
def test_the_noise_level_acts(timestep):
    network = woken(timestep)
    noisy, positions, t = inputs()
    assert not torch.allclose(network(noisy, positions, t), network(noisy, positions, 1 - t), atol=1e-4)


@pytest.mark.parametrize("window", [None, 2, 3])
@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 3, 2), (7, 1, 5), (2, 9, 7)])
def test_any_size_and_length(grid, window):
    noisy, positions, t = inputs(*grid)
    out = woken(window=window)(noisy, positions, t)
    assert out.shape == noisy.shape
    assert out.isfinite().all()


def receptive_field(network: DiT, token: int) -> list[int]:
    """Which of 20 tokens in a row depend on the noise of one of them."""
    noisy, positions, t = inputs(1, 1, 20, 1)
    moved = noisy.clone()
    moved[..., 8 * token : 8 * token + 8] += 1
    changed = (network(moved, positions, t) != network(noisy, positions, t)).any(0).any(0).any(0).any(0)
    return [i for i in range(20) if changed[8 * i : 8 * i + 8].any()]


def test_shifted_windows_connect_neighbours_in_the_second_block():
    """Windows of 4: 0-3, 4-7, ... in the first block, and 0-1, 2-5, 6-9, ... in the second."""
    assert receptive_field(woken(depth=1, window=4), 9) == [8, 9, 10, 11]
    assert receptive_field(woken(depth=2, window=4), 9) == list(range(6, 14))
    assert receptive_field(woken(depth=3, window=4), 9) == list(range(4, 16))
    assert receptive_field(woken(depth=1), 9) == list(range(20))


def test_place_and_time_come_from_the_positions_only():
    network = woken()
    noisy, positions, t = inputs()
    out = network(noisy, positions, t)
    moved = network(noisy.flip(2).roll(8, 4), positions.flip(1).roll(1, 3), t)
    torch.testing.assert_close(moved, out.flip(2).roll(8, 4), atol=1e-5, rtol=1e-4)
    shared = network(noisy, positions[:1], t)
    torch.testing.assert_close(shared, network(noisy, positions[:1].expand_as(positions), t))


def test_context_tokens_act_in_any_order():
    network = woken()
    noisy, positions, t = inputs()
    context = torch.randn(2, 5, 2, 4, 24, requires_grad=True)
    out = network(noisy, positions, t, context)
    assert out.shape == noisy.shape
    assert not torch.allclose(out, network(noisy, positions, t), atol=1e-3)
    torch.testing.assert_close(network(noisy, positions, t, context.flip(1, 2, 3)), out, atol=1e-5, rtol=1e-4)
    out.square().sum().backward()
    assert (context.grad.abs().amax(-1) > 0).all(), "every token reaches the output"


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


def test_one_modulation_for_all_clips_is_that_of_each():
    x, shift, scale = torch.randn(3, 5, 12), torch.randn(1, 1, 12), torch.randn(1, 1, 12)
    each = modulate(x, shift.expand(3, -1, -1), scale.expand(3, -1, -1))
    torch.testing.assert_close(modulate(x, shift, scale), each)
