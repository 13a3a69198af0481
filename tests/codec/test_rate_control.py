"""Lengths: a number, a share, what a budget allows, what a quality needs."""

import math
from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_media import EMBEDDERS, same_latents, tiny_onedva
from torch import Tensor

from regen.codec.chunks import ChunkLatents, to_clip
from regen.codec.rate_control import (
    Budget,
    FixedLength,
    Lengths,
    TargetPsnr,
    allocate,
    check_lengths,
    parse_length,
    two_pass,
)
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession, encode_frames
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.latents import Latents

SIZE = (32, 48)  # pixels: regions of 2 x 1 and 2 x 2 patches, with up to 4 and 8 1D latents in a chunk
RATE = Fraction(30000, 1001)
Video = list[Tensor]


@pytest.fixture(scope="module")
def model() -> AutoencoderOneDVA:
    torch.manual_seed(1)
    return tiny_onedva()


def video(*contrasts: float, frames: int = 5, size: tuple[int, int] = SIZE) -> Video:
    """For each contrast a chunk of noise with it; the first frame of all chunks is the same grey."""
    noise = torch.rand(len(contrasts), frames, *size, 3) - 0.5
    noise[:, 0] = 0
    grey = 128 + 255 * noise * torch.tensor(contrasts).view(-1, 1, 1, 1, 1)
    return list(grey.flatten(0, 1).to(torch.uint8))


def clip_of(frames: Video) -> Tensor:
    return to_clip(torch.stack(frames), torch.device("cpu"), torch.float32)


def full(model: AutoencoderOneDVA, clip: Tensor) -> Latents:
    with torch.inference_mode():
        return model.encode(clip, length=sum(model.budgets(*clip.shape[2:]))).latent_dist.mode()


def counts(chunks: Sequence[ChunkLatents]) -> list[int]:
    return [chunk.latents.length for chunk in chunks]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (FixedLength(0), 0),
        (FixedLength(7), 7),
        (FixedLength(share=0.4), 5),
        (FixedLength(share=1.0), 12),
    ],
)
def test_every_chunk_keeps_the_same(model: AutoencoderOneDVA, length: FixedLength, expected: int) -> None:
    """Whatever moves in it, and exactly those that a model keeps of so many; the short last chunk too."""
    frames = video(0.0, 0.9, 0.2)[:-2]
    chunks = list(encode_frames(model, frames, lengths=length))
    assert counts(chunks) == [expected] * 3
    shared = model.shared_length(expected, 5, *SIZE).tolist()
    assert [chunk.latents.lengths.tolist() for chunk in chunks] == [shared] * 3
    with torch.inference_mode():
        alone = model.encode(clip_of(frames[:5]), length=expected).latent_dist.mode()[0]
    assert same_latents(chunks[0].latents, alone)


def test_an_image_that_can_not_have_so_many_keeps_all(model: AutoencoderOneDVA) -> None:
    limits = [FixedLength(0), FixedLength(6), FixedLength(7), FixedLength(1000), FixedLength(share=0.5)]
    for asked, kept in zip(limits, [0, 6, 6, 6, 3], strict=True):
        (image,) = encode_frames(model, video(0.5, frames=1), lengths=asked)
        assert image.latents.length == kept


def test_a_chunk_that_can_not_have_so_many_is_an_error(model: AutoencoderOneDVA) -> None:
    with pytest.raises(ValueError, match="0 to 12 .*13"):
        list(encode_frames(model, video(0.5), lengths=FixedLength(13)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("320", FixedLength(320)),
        (" 12 ", FixedLength(12)),
        ("25%", FixedLength(share=0.25)),
        ("12.5 %", FixedLength(share=0.125)),
        ("100%", FixedLength(share=1.0)),
    ],
)
def test_lengths_are_read(text: str, expected: FixedLength) -> None:
    assert parse_length(text) == expected


@pytest.mark.parametrize("text", ["", "%", "-1", "-5%", "101%", "1.5", "many", "1e3", "nan%", "inf%", "25%%"])
def test_texts_that_are_no_length(text: str) -> None:
    with pytest.raises(ValueError, match="such as 320 or a share such as 25%, got"):
        parse_length(text)


def test_values_out_of_range() -> None:
    for wrong in ({"count": -1}, {"share": 1.01}, {"share": -0.01}, {"share": math.nan}):
        with pytest.raises(ValueError, match="at least 0, or a share from 0% to 100%"):
            FixedLength(**wrong)
    for decibels in (0.0, -3.0, 100.0, math.nan):
        with pytest.raises(ValueError, match="must be between 0 and 100 dB, got"):
            TargetPsnr(decibels)
    for values in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be > 0 and finite, got"):
            Budget(values)


@pytest.mark.parametrize("name", ["regen", "magvit2"])
def test_latents_of_a_fixed_size_have_no_lengths(name: str) -> None:
    other, needed = EMBEDDERS[name](), "need a One-DVA model"
    check_lengths(other, None)
    with pytest.raises(ValueError, match=needed):
        EncodeSession(other, lengths=TargetPsnr(30.0))
    with pytest.raises(ValueError, match=needed):
        two_pass(other, video(0.5), RATE, Budget(100.0))


@given(st.lists(st.floats(0, 0.5), min_size=2, max_size=2), st.floats(5, 60))
def test_each_region_gets_the_shortest_length_that_reaches_the_target(
    model: AutoencoderOneDVA, scales: list[float], target: float
) -> None:
    """A decoder whose error falls with the length, at a pace of each region's own."""
    clip = clip_of(video(0.5))
    budgets, tiling = torch.tensor(model.budgets(5, *SIZE)), model.regions(5, *SIZE)

    def error(region: int, length: int) -> float:
        return scales[region] * 0.5 ** (length - 1)

    def decode(latents: Latents, **options: object) -> SimpleNamespace:
        lengths = latents.lengths[0].tolist()
        parts = [part + error(i, lengths[i]) for i, part in enumerate(model.region_clips(clip * 0))]
        return SimpleNamespace(sample=clip * 0 + tiling.blend(parts, 16))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "decode", decode)
        found = TargetPsnr(target).choose(model, clip * 0, full(model, clip), 0, None)
    for region, length in enumerate(found.tolist()):

        def reached(length: int, region: int = region) -> bool:
            return error(region, length) ** 2 <= 4 * 10 ** (-target / 10) * (1 + 1e-6)

        most = int(budgets[region])
        assert length == next((i for i in range(most) if reached(i)), most)


@pytest.mark.parametrize(("index", "seed", "steps"), [(0, 0, 1), (3, 7, 2)])
def test_a_decoded_chunk_reaches_the_target_psnr(
    model: AutoencoderOneDVA, index: int, seed: int, steps: int
) -> None:
    """The noise is that of the chunk's number and the seed: with another the figures are far from these."""
    frames = torch.stack(video(0.5, size=(32, 32)))
    everything = full(model, clip_of(list(frames)))

    def psnr(length: int) -> float:
        latents = everything.truncate(torch.tensor([[length]]))[0]
        options = DecodeOptions(steps=steps, seed=seed)
        chunk = ChunkLatents(index, latents, 5)
        out = DecodeSession(model, height=32, width=32, options=options).feed(chunk)
        return -10 * math.log10((out.double() - frames).square().mean().item() / 255**2)

    figures = [psnr(length) for length in range(9)]
    target = (min(figures) + max(figures)) / 2
    clip = clip_of(list(frames))
    (found,) = TargetPsnr(target, steps, seed).choose(model, clip, everything, index, None).tolist()
    assert figures[found] >= target - 1e-3
    assert found == 0 or figures[found - 1] < target + 1e-3
    (impossible,) = TargetPsnr(99.0, steps, seed).choose(model, clip, everything, index, None).tolist()
    assert impossible == 8
    (easy,) = TargetPsnr(0.1, steps, seed).choose(model, clip, everything, index, None).tolist()
    assert easy == 0


def planned(model: AutoencoderOneDVA, frames: Video, budget: float) -> list[list[int]]:
    return [row.tolist() for row in two_pass(model, frames, RATE, Budget(budget)).rows]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(0, 4), st.floats(0, 1.2))
def test_a_plan_uses_the_whole_budget_and_no_more(
    model: AutoencoderOneDVA, contrasts: list[float], missing: int, share: float
) -> None:
    """`share`: how far the budget lies from the structural latents alone to all there can be."""
    frames = video(*contrasts)
    frames = frames[: max(2, len(frames) - missing)]
    chunks = -(-len(frames) // 5)
    seconds = len(frames) / float(RATE)
    budget = (12 + 12 * share) * 4 * chunks / seconds + 1e-6
    lengths = two_pass(model, frames, RATE, Budget(budget))
    rows = [row.tolist() for row in lengths.rows]
    assert len(rows) == chunks
    assert all(0 <= a <= 4 and 0 <= b <= 8 for a, b in rows)
    found = list(encode_frames(model, frames, lengths=lengths))
    assert [chunk.latents.lengths.tolist() for chunk in found] == rows
    values = sum(chunk.latents.numel() for chunk in found)
    assert values <= budget * seconds + 1e-6
    assert values > budget * seconds - 4 - 1e-6 or rows == [[4, 8]] * chunks


def test_busy_chunks_get_more_than_calm_ones(model: AutoencoderOneDVA) -> None:
    rows = planned(model, video(0.0, 1.0, 0.3, 0.0), (12 + 6) * 4 * float(RATE) / 5)
    still, busy, calm, still_too = map(sum, rows)
    assert still == still_too < calm < busy <= 12
    assert still > 0


def test_regions_share_by_what_moves_in_them(model: AutoencoderOneDVA) -> None:
    frames = [frame.clone() for frame in video(0.6)]
    for frame in frames:
        frame[:, 16:] = 90
    ((moving, still),) = planned(model, frames, (12 + 5) * 4 * float(RATE) / 5 + 1e-3)
    assert (moving, still) == (4, 1), "all that it can have, and the rest"


def test_a_budget_below_the_structural_latents_is_an_error(model: AutoencoderOneDVA) -> None:
    """12 structural latents of 4 numbers each, for five frames: 287.7 each second."""
    for budget in (1e-3, 287.7):
        with pytest.raises(ValueError, match=f"must be at least 288 .* got {budget:g}"):
            two_pass(model, video(0.5, 0.5), RATE, Budget(budget))
    assert planned(model, video(0.5, 0.5), 287.8) == [[0, 0], [0, 0]]


def test_a_plan_for_an_image_and_for_nothing(model: AutoencoderOneDVA) -> None:
    image = video(0.5, frames=1)
    (row,) = planned(model, image, float(RATE) * (6 + 4) * 4 + 1e-3)
    assert sum(row) == 4
    (chunk,) = encode_frames(model, image, lengths=two_pass(model, image, RATE, Budget(1e6)))
    assert chunk.latents.lengths.tolist() == [2, 4]
    assert planned(model, [], 100.0) == []


AMOUNTS = st.one_of(st.just(0.0), st.floats(1e-3, 3000))


@settings(max_examples=100)
@given(st.lists(st.tuples(AMOUNTS, st.integers(0, 2560)), min_size=1, max_size=12), st.data())
def test_parts_are_whole_in_proportion_and_add_up(
    parties: list[tuple[float, int]], data: st.DataObject
) -> None:
    wanted = torch.tensor([amount for amount, _ in parties])
    most = torch.tensor([limit for _, limit in parties])
    total = data.draw(st.integers(0, int(most.sum()) + 10))
    parts = allocate(wanted, most, total)
    assert parts.dtype == torch.int64
    assert int(parts.sum()) == min(total, int(most.sum()))
    assert bool(((parts >= 0) & (parts <= most)).all())
    short = [i for i in range(len(parties)) if parts[i] < most[i] and wanted[i] > 1e-2]
    for i in range(len(parties)):
        for j in short:  # parts of what they want differ by rounding alone, but for those that have the most
            assert (parts[i] - 1) * wanted[j] <= (parts[j] + 1) * wanted[i] * (1 + 1e-5) or wanted[i] < 1e-2


def test_parts_of_an_hour_of_video_add_up() -> None:
    """An hour of a large video; sums in 32 bits would be off by many."""
    wanted = torch.rand(150_000) * 300
    most = torch.full((150_000,), 320)
    for total in (1, 1_234_567, 47_999_999, 48_000_000):
        assert int(allocate(wanted, most, total).sum()) == total


LENGTHS = [None, FixedLength(0), FixedLength(7), FixedLength(share=0.4), TargetPsnr(8.0), "budget"]


@pytest.mark.parametrize("lengths", LENGTHS, ids=["motion", "none", "7", "40%", "psnr", "budget"])
@pytest.mark.parametrize("count", [1, 12])
def test_lengths_do_not_depend_on_the_split_into_calls(
    model: AutoencoderOneDVA, lengths: Lengths | str | None, count: int
) -> None:
    frames = video(0.25, 0.0, 0.9, size=(30, 45))[:count]
    if lengths == "budget":  # for 12 structural and 6 1D latents in each chunk, in the mean
        lengths = two_pass(model, frames, RATE, Budget(18 * 4 * math.ceil(count / 5) * float(RATE) / count))
    chunks = list(encode_frames(model, frames, lengths=lengths))
    session = EncodeSession(model, lengths=lengths)
    in_pieces = [*session.feed(frames[:3]), *session.feed(frames[3:]), *session.flush()]
    assert all(same_latents(a.latents, b.latents) for a, b in zip(in_pieces, chunks, strict=True))
    if lengths is None and count > 1:
        assert len(set(counts(chunks))) == 3, "each chunk has a length of its own"
