"""The decoder told by a grid and a sequence: zero at the start, tails, skip, shortcut, features (spec B6)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.networks.hybrid_decoder import HybridDecoder
from regen.networks.patches import Patches

PATCHES = Patches(2, 4)
TIMESTEPS = ["add", "adaln_single", "adaln_zero"]
POSITIONS = ["none", "anchored"]
SMALL = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def tiny(
    timestep: str = "adaln_zero",
    positions: str = "none",
    skip: bool = True,
    shortcut: bool = False,
    depth: int = 3,
) -> HybridDecoder:
    return HybridDecoder(
        channels=3, patches=PATCHES, width=24, depth=depth, heads=2, pixel_channels=2, timestep=timestep,
        num_queries=50, query_positions=positions, long_skip=skip, linear_skip=shortcut,
    )  # fmt: skip


def awake(*arguments, **options) -> HybridDecoder:
    """With noise on all weights: those that begin with zero would hide what acts."""
    network = tiny(*arguments, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def inputs(t: int = 2, y: int = 2, x: int = 3, b: int = 2) -> tuple[torch.Tensor, ...]:
    """Noisy pixels, structural latents, all 1D latents that the budget allows, noise levels."""
    noisy = torch.randn(b, 3, t * PATCHES.frames, y * PATCHES.side, x * PATCHES.side)
    return noisy, torch.randn(b, 3, t, y, x), torch.randn(b, 3, t * y * x), torch.rand(b)


def prefixes(lengths: list[int], count: int) -> torch.Tensor:
    return torch.arange(count) < torch.tensor(lengths)[:, None]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_the_answer_is_zero_at_initialisation(timestep):
    decoder, (noisy, structural, sequence, t) = tiny(timestep), inputs()
    features, _ = decoder(noisy, structural, sequence, prefixes([5, 0], 12), t)
    assert features.any()
    assert not decoder.to_pixels(features, structural).any()


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_gradient_reaches_every_parameter(timestep, skip):
    decoder, (noisy, structural, sequence, t) = awake(timestep, "anchored", skip, shortcut=True), inputs()
    features, _ = decoder(noisy, structural, sequence, prefixes([5, 12], 12), t)
    decoder.to_pixels(features, structural).square().sum().backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@given(grid=SMALL, data=st.data())
def test_any_grid_and_length(grid, data):
    decoder, (noisy, structural, sequence, t) = tiny(), inputs(*grid)
    length = data.draw(st.integers(0, math.prod(grid)))
    features, tapped = decoder(noisy, structural, sequence[:, :, :length], None, t)
    assert features.shape == (2, 2, *noisy.shape[2:])
    assert tapped.shape == (2, 24, *grid)
    assert decoder.to_pixels(features, structural).shape == noisy.shape
    assert features.isfinite().all() and tapped.isfinite().all()


@pytest.mark.parametrize("positions", POSITIONS)
@given(lengths=st.lists(st.integers(0, 12), min_size=2, max_size=2))
def test_a_mask_is_the_same_as_leaving_out(positions, lengths):
    decoder, (noisy, structural, sequence, t) = awake(positions=positions), inputs()
    together = decoder(noisy, structural, sequence, prefixes(lengths, 12), t)
    for i, length in enumerate(lengths):
        one = slice(i, i + 1)
        alone = decoder(noisy[one], structural[one], sequence[one, :, :length], None, t[one])
        for whole, part in zip(together, alone, strict=True):
            close(whole[one], part)


@pytest.mark.parametrize("positions", POSITIONS)
def test_what_is_dropped_does_not_act(positions):
    decoder, (noisy, structural, sequence, t) = awake(positions=positions), inputs()
    keep = prefixes([5, 9], 12)
    spoiled = torch.where(keep[:, None], sequence, 100.0)
    for a, b in zip(
        decoder(noisy, structural, sequence, keep, t),
        decoder(noisy, structural, spoiled, keep, t),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_keeping_all_is_the_same_as_no_mask():
    decoder, (noisy, structural, sequence, t) = awake(), inputs()
    kept = decoder(noisy, structural, sequence, prefixes([12, 12], 12), t)
    for a, b in zip(kept, decoder(noisy, structural, sequence, None, t), strict=True):
        close(a, b)


@pytest.mark.parametrize("positions", POSITIONS)
def test_pixels_latents_of_both_kinds_their_order_and_the_noise_level_act(positions):
    decoder, (noisy, structural, sequence, t) = awake(positions=positions), inputs()
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
def test_one_noise_level_may_be_told_for_the_batch(timestep):
    decoder, (noisy, structural, sequence, _) = awake(timestep), inputs()
    keep, level = prefixes([5, 12], 12), torch.tensor([0.3])
    once = decoder(noisy, structural, sequence, keep, level)
    for a, b in zip(once, decoder(noisy, structural, sequence, keep, level.repeat(2)), strict=True):
        close(a, b)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_clips_of_a_batch_do_not_see_each_other(timestep):
    decoder, (noisy, structural, sequence, t) = awake(timestep), inputs(b=3)
    keep = prefixes([5, 0, 12], 12)
    together = decoder(noisy, structural, sequence, keep, t)
    for i in range(3):
        one = slice(i, i + 1)
        alone = decoder(noisy[one], structural[one], sequence[one], keep[one], t[one])
        for whole, part in zip(together, alone, strict=True):
            close(whole[one], part)


def changed_patches(after: torch.Tensor, before: torch.Tensor) -> list[int]:
    """The tokens in whose patches two answers differ."""
    return (PATCHES.patchify(after) != PATCHES.patchify(before)).any(-1).any(0).nonzero().flatten().tolist()


def test_the_skip_carries_each_noisy_patch_to_its_own_features():
    decoder, (noisy, structural, sequence, t) = awake(), inputs()
    moved = noisy.clone()
    moved[:, :, :2, 4:, :4] += 1  # the patch at (0, 1, 0)
    before, after = (decoder(x, structural, sequence, None, t)[0] for x in (noisy, moved))
    assert changed_patches(after, before) == list(range(12)), "through the blocks it reaches all"
    with torch.no_grad():
        decoder.proj_out.weight[:, :24] = 0
    before, after = (decoder(x, structural, sequence, None, t)[0] for x in (noisy, moved))
    assert changed_patches(after, before) == [3]
    torch.testing.assert_close(before, decoder(noisy, 0 * structural, sequence, None, 1 - t)[0])
    assert tiny(skip=False).proj_out.in_features == 24, "without it there is no such way"


def test_the_shortcut_carries_each_structural_latent_to_its_own_pixels():
    decoder, (_, structural, _, _) = tiny(shortcut=True), inputs()
    features = torch.randn(2, 2, 4, 8, 12)
    answer = decoder.to_pixels(features, structural)
    moved = structural.clone()
    moved[:, :, 1, 0, 2] += 1
    assert changed_patches(decoder.to_pixels(features, moved), answer) == [8]
    linear = decoder.linear_skip(structural.flatten(2).transpose(1, 2))
    torch.testing.assert_close(answer, PATCHES.unpatchify(linear, (2, 2, 3)))  # the convolution is still zero
    woken, plain = awake(shortcut=True), awake()
    plain.conv_out.load_state_dict(woken.conv_out.state_dict())
    added = woken.to_pixels(features, structural) - plain.to_pixels(features, structural)
    linear = woken.linear_skip(structural.flatten(2).transpose(1, 2))
    torch.testing.assert_close(added, PATCHES.unpatchify(linear, (2, 2, 3)), atol=1e-5, rtol=1e-4)


def test_finishing_joins_patches():
    """The convolution looks over the border of a patch: the one place where neighbours meet in pixels."""
    decoder, structural = awake(), torch.randn(1, 3, 1, 1, 2)
    features = torch.randn(1, 2, 2, 4, 8)
    moved = features.clone()
    moved[:, :, 0, 0, 3] += 1  # the last column of the first patch
    changed = (decoder.to_pixels(moved, structural) != decoder.to_pixels(features, structural)).any(1)[0]
    assert changed.nonzero().tolist() == [[t, y, x] for t in (0, 1) for y in (0, 1) for x in (2, 3, 4)]


@pytest.mark.parametrize(("depth", "tapped"), [(1, 1), (2, 1), (3, 1), (6, 2)])
def test_features_are_tapped_after_a_third_of_the_blocks(depth, tapped):
    decoder, (noisy, structural, sequence, t) = awake(depth=depth), inputs()
    before = decoder(noisy, structural, sequence, None, t)[1]
    assert before.shape == (2, 24, 2, 2, 3)
    for number in reversed(range(depth)):
        torch.nn.init.normal_(decoder.blocks[number].feedforward.project.bias)
        after = decoder(noisy, structural, sequence, None, t)[1]
        assert torch.equal(after, before) == (number >= tapped)


def test_tapped_features_lie_as_their_patches_do():
    """Without attention a token's features depend on its own patch alone."""
    decoder, (noisy, structural, sequence, t) = awake(), inputs()
    for block in decoder.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
    moved = structural.clone()
    moved[:, :, 1, 0, 2] += 1
    before, after = (decoder(noisy, s, sequence, None, t)[1] for s in (structural, moved))
    assert (after != before).any(1).any(0).nonzero().tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("timestep", ["adaln_single", "adaln_zero"])
def test_gradient_checkpointing_gives_the_same_gradients(timestep):
    decoder, (noisy, structural, sequence, t) = awake(timestep).train(), inputs()

    def gradients() -> list[torch.Tensor]:
        decoder.zero_grad()
        features, tapped = decoder(noisy, structural, sequence, prefixes([5, 12], 12), t)
        (decoder.to_pixels(features, structural).square().mean() + tapped.square().mean()).backward()
        return [p.grad.clone() for p in decoder.parameters()]

    plain = gradients()
    decoder.gradient_checkpointing = True
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_trunk_matrices_are_the_linear_layers_of_the_blocks():
    shapes = [tuple(matrix.shape) for matrix in tiny().muon_parameters()]
    assert len(shapes) == 3 * 4
    assert set(shapes) == {(72, 24), (24, 24), (96, 24), (24, 96)}
