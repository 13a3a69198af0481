"""HybridDecoder: grids, masks, skips, features for REPA."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import shaken

from regen.networks.dit import Patches
from regen.networks.hybrid_decoder import HybridDecoder

PATCHES = Patches(2, 4)
TIMESTEPS = ["add", "adaln_single", "adaln_zero"]
POSITIONS = ["none", "rotary", "anchored"]


def tiny(
    timestep: str = "adaln_zero",
    query_positions: str = "none",
    long_skip: bool = True,
    linear_skip: bool = False,
    depth: int = 3,
) -> HybridDecoder:
    return HybridDecoder(
        channels=3, patches=PATCHES, width=24, depth=depth, heads=2, pixel_channels=2, timestep=timestep,
        num_queries=50, query_positions=query_positions, long_skip=long_skip, linear_skip=linear_skip,
    )  # fmt: skip


def woken(*arguments, **options) -> HybridDecoder:
    return shaken(tiny(*arguments, **options))


def inputs(t: int = 2, y: int = 2, x: int = 3, b: int = 2) -> tuple[torch.Tensor, ...]:
    """Noisy pixels, structural latents, as many 1D latents as patches, noise levels."""
    noisy = torch.randn(b, 3, t * PATCHES.frames, y * PATCHES.side, x * PATCHES.side)
    return noisy, torch.randn(b, 3, t, y, x), torch.randn(b, 3, t * y * x), torch.rand(b)


def prefixes(lengths: list[int], count: int) -> torch.Tensor:
    return torch.arange(count) < torch.tensor(lengths)[:, None]


def close(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("query_positions", POSITIONS)
@given(lengths=st.lists(st.integers(0, 12), min_size=2, max_size=2))
def test_a_masked_batch_equals_its_clips_without_the_masked_latents(query_positions, lengths):
    decoder, (noisy, structural, sequence, t) = woken(query_positions=query_positions), inputs()
    mask = prefixes(lengths, 12)
    together = decoder(noisy, structural, sequence, mask, t)
    spoiled = decoder(noisy, structural, torch.where(mask[:, None], sequence, 100.0), mask, t)
    assert all(torch.equal(a, b) for a, b in zip(together, spoiled, strict=True))
    for i, length in enumerate(lengths):
        one = slice(i, i + 1)
        alone = decoder(noisy[one], structural[one], sequence[one, :, :length], None, t[one])
        close(tuple(part[one] for part in together), alone)


@pytest.mark.parametrize("query_positions", POSITIONS)
def test_every_input_acts(query_positions):
    decoder, (noisy, structural, sequence, t) = woken(query_positions=query_positions), inputs()
    before, _ = decoder(noisy, structural, sequence, None, t)
    for changed in (
        (noisy.flip(0), structural, sequence, t),
        (noisy, structural.flip(0), sequence, t),
        (noisy, structural, sequence.flip(0), t),
        (noisy, structural, sequence.flip(2), t),
        (noisy, structural, sequence, 1 - t),
    ):
        after, _ = decoder(*changed[:3], None, changed[3])
        assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_one_noise_level_may_be_shared_by_the_batch(timestep):
    decoder, (noisy, structural, sequence, _) = woken(timestep), inputs()
    mask, level = prefixes([5, 12], 12), torch.tensor([0.3])
    once = decoder(noisy, structural, sequence, mask, level)
    close(once, decoder(noisy, structural, sequence, mask, level.repeat(2)))


def changed_patches(after: torch.Tensor, before: torch.Tensor) -> list[int]:
    return (PATCHES.patchify(after) != PATCHES.patchify(before)).any(-1).any(0).nonzero().flatten().tolist()


def test_the_long_skip_carries_each_noisy_patch_to_its_own_features():
    decoder, (noisy, structural, sequence, t) = woken(), inputs()
    moved = noisy.clone()
    moved[:, :, :2, 4:, :4] += 1  # the patch at (0, 1, 0)
    before, after = (decoder(x, structural, sequence, None, t)[0] for x in (noisy, moved))
    assert changed_patches(after, before) == list(range(12)), "the blocks reach all patches"
    with torch.no_grad():
        decoder.proj_out.weight[:, :24] = 0
    before, after = (decoder(x, structural, sequence, None, t)[0] for x in (noisy, moved))
    assert changed_patches(after, before) == [3]
    assert tiny(long_skip=False).proj_out.in_features == 24


def test_the_linear_skip_maps_each_structural_latent_to_its_own_pixels():
    decoder, (_, structural, _, _) = woken(linear_skip=True), inputs()
    features = torch.randn(2, 2, 4, 8, 12)
    pred = decoder.to_pixels(features, structural)
    moved = structural.clone()
    moved[:, :, 1, 0, 2] += 1
    assert changed_patches(decoder.to_pixels(features, moved), pred) == [8]
    linear = decoder.linear_skip(structural.flatten(2).transpose(1, 2))
    expected = decoder.conv_out(features) + PATCHES.unpatchify(linear, (2, 2, 3))
    torch.testing.assert_close(pred, expected)


def test_the_last_convolution_crosses_the_borders_of_patches():
    decoder, structural = woken(), torch.randn(1, 3, 1, 1, 2)
    features = torch.randn(1, 2, 2, 4, 8)
    moved = features.clone()
    moved[:, :, 0, 0, 3] += 1  # the last column of the first patch
    changed = (decoder.to_pixels(moved, structural) != decoder.to_pixels(features, structural)).any(1)[0]
    assert changed.nonzero().tolist() == [[t, y, x] for t in (0, 1) for y in (0, 1) for x in (2, 3, 4)]


@pytest.mark.parametrize(("depth", "repa_depth"), [(1, 1), (2, 1), (3, 1), (6, 2)])
def test_repa_features_are_those_after_a_third_of_the_blocks(depth, repa_depth):
    decoder, (noisy, structural, sequence, t) = woken(depth=depth), inputs()
    before = decoder(noisy, structural, sequence, None, t)[1]
    for number in reversed(range(depth)):
        torch.nn.init.normal_(decoder.blocks[number].feedforward.project.bias)
        after = decoder(noisy, structural, sequence, None, t)[1]
        assert torch.equal(after, before) == (number >= repa_depth)


def test_repa_features_lie_as_their_patches_do():
    """Without attention a token's features depend on its own patch only."""
    decoder, (noisy, structural, sequence, t) = woken(), inputs()
    for block in decoder.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    moved = structural.clone()
    moved[:, :, 1, 0, 2] += 1
    before, after = (decoder(noisy, s, sequence, None, t)[1] for s in (structural, moved))
    assert (after != before).any(1).any(0).nonzero().tolist() == [[1, 0, 2]]
