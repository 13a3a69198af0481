"""QueryEncoder: shapes, queries, resolution tokens, anchors, linear skip."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import shaken
from torch.nn import functional as F

from regen.layers.positions import compute_rope, grid_positions, grid_sinusoidal_embedding
from regen.networks.dit import Patches
from regen.networks.query_encoder import QueryEncoder, ResolutionTokens, anchors, token_rope
from regen.recipes import RECIPES

CPU = torch.device("cpu")
PATCHES = Patches(2, 4)
POSITIONS = ["none", "rotary", "anchored"]
GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))
SMALL = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def tiny(
    positions: str = "none", linear_skip: bool = False, moments: int = 6, num_queries: int = 50
) -> QueryEncoder:
    return QueryEncoder(
        channels=3, moments=moments, patches=PATCHES, width=24, depth=2, heads=2, num_queries=num_queries,
        query_positions=positions, linear_skip=linear_skip,
    )  # fmt: skip


def woken(*arguments, **options) -> QueryEncoder:
    return shaken(tiny(*arguments, **options))


def padded(t: int = 2, y: int = 2, x: int = 3, b: int = 2) -> torch.Tensor:
    return torch.randn(b, 3, t * PATCHES.frames, y * PATCHES.side, x * PATCHES.side)


def test_too_few_queries_are_an_error():
    encoder = tiny(num_queries=11)
    with pytest.raises(ValueError, match="2 x 2 x 3 patches needs 12 queries, got num_queries=11"):
        encoder(padded(2, 2, 3))
    assert encoder(padded(1, 1, 11))[1].shape[2] == 11


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_clip_uses_the_first_queries(positions):
    encoder, clips = woken(positions), padded(2, 2, 3)
    before = encoder(clips)
    torch.nn.init.normal_(encoder.queries[12:])
    for a, b in zip(before, encoder(clips), strict=True):
        assert torch.equal(a, b)
    torch.nn.init.normal_(encoder.queries[11])
    assert not torch.allclose(before[1], encoder(clips)[1], atol=1e-4)


def test_the_posterior_is_narrow_at_initialisation():
    for moments in tiny()(padded()):
        assert torch.equal(moments[:, 3:], torch.full_like(moments[:, 3:], -6.0))
        assert moments[:, :3].std() > 0.05


@given(GRIDS, GRIDS)
def test_resolution_tokens_differ_between_sizes(one, other):
    tokens = ResolutionTokens(24)
    a, b = (tokens(size, PATCHES, torch.float32)[0] for size in (one, other))
    assert a.shape == (3, 24)
    equal = torch.isclose(a, b, atol=1e-6).all(1).tolist()
    assert equal == [x == y for x, y in zip(one, other, strict=True)]


def test_the_grid_has_positions():
    encoder, clips = woken(), padded(1, 1, 4)
    out, turned = encoder(clips)[0], encoder(clips.roll(PATCHES.side, 4))[0]
    assert not torch.allclose(out.roll(1, 4), turned, atol=1e-3)


@pytest.mark.parametrize("moments", [3, 6])
def test_the_linear_skip_acts_on_means_of_structural_latents_only(moments):
    encoder, clips = woken(linear_skip=True, moments=moments), padded()
    (with_it, sequence), linear = encoder(clips), encoder.linear_skip(PATCHES.patchify(clips))
    torch.nn.init.zeros_(encoder.linear_skip.weight)
    torch.nn.init.zeros_(encoder.linear_skip.bias)
    without, same = encoder(clips)
    assert torch.equal(sequence, same)
    assert torch.equal(with_it[:, 3:], without[:, 3:])
    added = (with_it - without)[:, :3].flatten(2).transpose(1, 2)
    torch.testing.assert_close(added, linear, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "anchored"])
def test_anchored_queries_start_as_their_patches(positions):
    """If the blocks add nothing, a query is its own vector plus the embedded patch of its anchor.

    "anchored" adds the sinusoidal position of that patch.
    """
    encoder, clips = woken(positions), padded(2, 2, 3)
    for block in encoder.blocks:
        for layer in (block.attention.out, block.feedforward.project):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    patches = encoder.embed(PATCHES.patchify(clips)) + encoder.type_embedding
    start = encoder.queries[:12] + patches[:, anchors((2, 2, 3), CPU)]
    if positions == "anchored":
        axes = (torch.arange(n, dtype=torch.float32) for n in (2, 2, 3))
        every = grid_sinusoidal_embedding(*axes, 24).reshape(12, 24)
        start = start + 0.25 * every[anchors((2, 2, 3), CPU)]
    expected = encoder.sequence(start)
    torch.testing.assert_close(encoder(clips)[1].transpose(1, 2), expected, atol=1e-5, rtol=1e-4)


def content_variance(latents: torch.Tensor, channels: int) -> float:
    """Variance of latents "b m ..." over the clips of a batch, at equal places."""
    return latents[:, :channels].var(0).mean().item()


@pytest.mark.parametrize(("size", "alive"), [("onedva-base", True), ("onedva-large", True), ("none", False)])
def test_1d_latents_carry_content_at_initialisation(size, alive):
    """As much as structural ones, within a factor of 3: the presets at a small width, at their own depth.

    Queries without positions begin almost dead.
    """
    model = RECIPES["onedva-base" if size == "none" else size].model
    positions = "none" if size == "none" else model.query_positions
    torch.manual_seed(0)
    encoder = QueryEncoder(8, 16, Patches(), 96, model.encoder_depth, 4, 80, positions, model.linear_skip)
    with torch.no_grad():
        structural, sequence = encoder(smooth_clips())
    ratio = content_variance(sequence, 8) / content_variance(structural, 8)
    assert (1 / 3 < ratio < 3) == alive, ratio


def smooth_clips() -> torch.Tensor:
    """16 clips of 20 frames of 64 x 64 of large structures and less of small ones, as in pictures."""
    parts = []
    for level in range(1, 6):
        coarse = torch.randn(16, 3, 2 + level, 2**level, 2**level)
        parts.append(2.0**-level * F.interpolate(coarse, (20, 64, 64), mode="trilinear"))
    return sum(parts).clamp(-1, 1)


def test_without_queries_structural_latents_see_patches_only():
    encoder, clips = woken("anchored"), padded()
    before, none = encoder(clips, use_queries=False)
    assert none.shape == (2, 6, 0)
    torch.nn.init.normal_(encoder.queries)
    assert torch.equal(encoder(clips, use_queries=False)[0], before)
    assert not torch.allclose(encoder(clips)[0], before, atol=1e-3)


@given(GRIDS, st.sampled_from([1 / 2, 1 / 3, 3 / 4]))
def test_the_first_anchors_cover_every_row_column_and_time_about_equally(grid, share):
    count = int(math.prod(grid) * share)
    assert sorted(anchors(grid, CPU).tolist()) == list(range(math.prod(grid))), "every patch once"
    places = grid_positions(grid, CPU)[anchors(grid, CPU)[:count]].long()
    for axis, length in enumerate(grid):
        found, fair = torch.bincount(places[:, axis], minlength=length), count / length
        assert (found - fair).abs().max() <= max(3, fair / 5)


@pytest.mark.parametrize("positions", POSITIONS)
@given(grid=SMALL, data=st.data())
def test_queries_have_the_positions_of_their_anchors(positions, grid, data):
    count = math.prod(grid)
    queries = data.draw(st.integers(0, count))
    found = token_rope(grid, queries, 3, positions, 12, CPU)
    every = grid_positions(grid, CPU)
    places = torch.zeros(queries, 3) if positions == "none" else every[anchors(grid, CPU)[:queries]]
    for a, b in zip(found, compute_rope(torch.cat([every, places, torch.zeros(3, 3)]), 12), strict=True):
        torch.testing.assert_close(a, b)
