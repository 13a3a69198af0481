"""Latents of two kinds: batches and their parts, regions, shortening, posteriors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_media import same_latents as same
from torch.distributions import Normal, kl_divergence

from regen.latents import LatentPosterior, Latents, collate, pack
from regen.runtime import generator_for

CHANNELS = 2


@st.composite
def lengths(draw: st.DrawFn) -> torch.Tensor:
    """1D latents of 1 to 3 clips in 1 to 3 regions."""
    clips, regions = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    counts = st.lists(st.integers(0, 4), min_size=regions, max_size=regions)
    return torch.tensor(draw(st.lists(counts, min_size=clips, max_size=clips)))


def latents_of(lengths: torch.Tensor) -> Latents:
    """Random ones, with what is filled up spoiled: it means nothing."""
    clips, longest = len(lengths), int(lengths.sum(1).max())
    return Latents(torch.randn(clips, CHANNELS, 2, 1, 3), torch.randn(clips, CHANNELS, longest), lengths)


def naive_region(latents: Latents, clip: int, region: int) -> torch.Tensor:
    before, count = int(latents.lengths[clip, :region].sum()), int(latents.lengths[clip, region])
    return latents.sequence[clip, :, before : before + count]


@given(lengths())
def test_clips_of_a_batch_make_the_batch_again(lengths):
    latents = latents_of(lengths)
    clips = [latents[i] for i in range(len(latents))]
    for clip, own, counts in zip(clips, latents.grid, lengths, strict=True):
        assert torch.equal(clip.grid, own)
        assert torch.equal(clip.lengths, counts)
        assert clip.sequence.shape == (CHANNELS, int(counts.sum()))
    again = collate(clips)
    filled = torch.arange(latents.sequence.shape[2]) >= lengths.sum(1, keepdim=True)
    assert torch.equal(again.sequence, latents.sequence.masked_fill(filled[:, None], 0))
    assert torch.equal(again.grid, latents.grid)
    assert all(same(again[i], clip) for i, clip in enumerate(clips))
    assert latents.length == sum(clip.length for clip in clips) == int(lengths.sum())
    assert latents.numel() == sum(clip.grid.numel() + clip.sequence.numel() for clip in clips)


@given(lengths())
def test_regions_are_those_that_a_loop_finds_and_join_again(lengths):
    latents = latents_of(lengths)
    regions = latents.regions()
    assert len(regions) == lengths.shape[1]
    joined = pack(latents.grid, [sequence for sequence, _ in regions], lengths)
    assert same(joined, collate([latents[i] for i in range(len(latents))]))
    for region, (sequence, keep) in enumerate(regions):
        assert sequence.shape[2] == keep.shape[1] == lengths[:, region].max()
        for clip in range(len(latents)):
            assert torch.equal(sequence[clip][:, keep[clip]], naive_region(latents, clip, region))
            assert not sequence[clip][:, ~keep[clip]].any()
            assert (keep[clip].int().diff() <= 0).all(), "the first ones are kept"


@given(lengths(), st.data())
def test_shortened_latents_are_the_first_of_each_region(lengths, data):
    latents = latents_of(lengths)
    counts = st.lists(st.integers(0, 5), min_size=lengths.shape[1], max_size=lengths.shape[1])
    wanted = torch.tensor(data.draw(st.lists(counts, min_size=len(lengths), max_size=len(lengths))))
    short = latents.truncate(wanted)
    assert torch.equal(short.lengths, torch.minimum(wanted, lengths)), "never more than there are"
    assert torch.equal(short.grid, latents.grid)
    for clip in range(len(latents)):
        for region in range(lengths.shape[1]):
            longer = naive_region(latents, clip, region)
            found = naive_region(short, clip, region)
            assert torch.equal(found, longer[:, : int(short.lengths[clip, region])])
    assert same(short.truncate(wanted), short)
    assert same(latents.truncate(wanted + 1).truncate(wanted), short)
    assert short.sequence.shape[2] == int(short.lengths.sum(1).max()), "nothing is filled up in vain"


def test_gradient_passes_through_joining_and_regions():
    parts = [torch.randn(2, CHANNELS, 3, requires_grad=True), torch.randn(2, CHANNELS, 2, requires_grad=True)]
    latents = pack(torch.zeros(2, CHANNELS, 1, 1, 5), parts, torch.tensor([[1, 2], [3, 0]]))
    sum(sequence.sum() for sequence, _ in latents.regions()).backward()
    assert parts[0].grad[:, 0].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert parts[1].grad[:, 0].tolist() == [[1, 1], [0, 0]]


def test_moving_and_converting():
    latents = latents_of(torch.tensor([[2, 1], [0, 4]]))
    half = latents.to(dtype=torch.bfloat16)
    assert half.grid.dtype == half.sequence.dtype == torch.bfloat16
    assert half.lengths.dtype == torch.int64
    assert half.truncate(torch.tensor([[1, 1], [0, 1]])).sequence.dtype == torch.bfloat16
    assert same(half.cpu(), half) and same(latents.to(), latents)
    assert same(latents.to(torch.device("cpu"), torch.float64).to(dtype=torch.float32), latents)
    there = latents.to(torch.device("meta"))
    assert {part.device.type for part in (there.grid, there.sequence, there.lengths)} == {"meta"}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_found(value):
    latents = latents_of(torch.tensor([[2, 1], [0, 4]]))
    assert latents.is_finite() and latents_of(torch.zeros(1, 1).long()).is_finite()
    for part in (latents.grid, latents.sequence):
        before = part.flatten()[1].item()
        part.view(-1)[1] = value
        assert not latents.is_finite()
        part.view(-1)[1] = before


def test_a_grid_alone_is_latents_without_regions():
    tensor = torch.randn(2, CHANNELS, 2, 1, 3)
    latents = Latents.of(tensor)
    assert Latents.of(latents) is latents and latents.for_decoder() is tensor
    assert latents.sequence.shape == (2, CHANNELS, 0) and latents.lengths.shape == (2, 0)
    assert (latents.length, latents.numel(), latents.regions()) == (0, tensor.numel(), [])
    assert same(collate([latents[0], latents[1]]), latents)
    assert same(latents.truncate(latents.lengths), latents)
    assert [*latents.tensors()] == ["latents"] and latents.parts[0] is tensor


@given(lengths())
def test_tensors_of_batches_and_files_give_the_latents_again(lengths):
    latents = latents_of(lengths)
    whole = latents_of(lengths)
    whole = collate([whole[i] for i in range(len(whole))])
    assert same(Latents.from_tensors(latents.tensors()), latents)
    assert latents.for_decoder() is latents
    assert whole.flat().shape == (CHANNELS, int(lengths.sum()))
    assert same(Latents.from_flat(whole.grid, whole.flat(), lengths), whole)
    grid = Latents.of(latents.grid)
    assert same(Latents.from_tensors(grid.tensors()), grid)


def test_functions_of_several_latents():
    latents = latents_of(torch.tensor([[2, 1], [0, 4]]))
    total = latents.map(lambda a, b: a + 2 * b, latents)
    assert all(torch.equal(a, 3 * b) for a, b in zip(total.parts, latents.parts, strict=True))
    twice = latents.repeat(2)
    assert all(same(twice[i], latents[i % 2]) for i in range(4))


@given(lengths())
def test_noise_of_a_clip_is_the_same_in_any_batch(lengths):
    latents = latents_of(lengths)
    whole = latents.noise([generator_for(0, i) for i in range(len(latents))])
    for i in range(len(latents)):
        assert same(collate([latents[i]]).noise([generator_for(0, i)])[0], whole[i])
    grid = Latents.of(latents.grid).noise([generator_for(0, i) for i in range(len(latents))])
    assert torch.equal(grid.grid, whole.grid)


def posterior_of(lengths: torch.Tensor, moments: int = 2 * CHANNELS, complete: int = 5) -> LatentPosterior:
    parts = [torch.randn(len(lengths), moments, complete) for _ in range(lengths.shape[1])]
    return LatentPosterior(torch.randn(len(lengths), moments, 2, 1, 3), parts, lengths, CHANNELS)


@given(lengths())
def test_the_mode_has_the_means_of_what_is_kept(lengths):
    posterior = posterior_of(lengths)
    mode = posterior.mode()
    assert torch.equal(mode.grid, posterior.grid[:, :CHANNELS])
    for clip in range(len(lengths)):
        for region, part in enumerate(posterior.parts):
            kept = part[clip, :CHANNELS, : int(lengths[clip, region])]
            assert torch.equal(naive_region(mode, clip, region), kept)
    without_variances = posterior_of(lengths, CHANNELS)
    assert same(without_variances.sample(generator_for(0)), without_variances.mode())


@given(lengths())
def test_a_sample_of_a_shorter_sequence_is_the_beginning_of_the_longer_one_s(lengths):
    """The noise of a latent does not depend on how many are kept."""
    posterior = posterior_of(lengths + 1)
    short = LatentPosterior(posterior.grid, posterior.parts, lengths, CHANNELS)
    longer, shorter = posterior.sample(generator_for(0)), short.sample(generator_for(0))
    assert same(longer.truncate(lengths), shorter)


def test_each_clip_s_sample_comes_from_its_own_generator():
    posterior = posterior_of(torch.tensor([[2, 1], [0, 4], [5, 5]]))
    whole = posterior.sample([generator_for(0, i) for i in range(3)])
    for i in range(3):
        one = slice(i, i + 1)
        parts = [part[one] for part in posterior.parts]
        alone = LatentPosterior(posterior.grid[one], parts, posterior.lengths[one], CHANNELS)
        assert same(alone.sample([generator_for(0, i)])[0], whole[i])


@given(lengths())
def test_the_divergence_is_that_of_what_is_kept(lengths):
    posterior = posterior_of(lengths)

    def terms(moments: torch.Tensor) -> torch.Tensor:
        mean, log_variance = moments.chunk(2, dim=1)
        return kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)

    means = []
    for clip, counts in enumerate(lengths.tolist()):
        parts = [terms(part)[clip, :count] for part, count in zip(posterior.parts, counts, strict=True)]
        means.append(torch.cat([terms(posterior.grid)[clip].flatten(), *parts]).mean())
    torch.testing.assert_close(posterior.kl(), torch.stack(means).mean())
