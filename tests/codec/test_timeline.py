"""Which times of which chunk are decoded: counts, order and seconds for any clip and any wish."""

import weakref
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regen.codec.timeline import (
    FrameSource,
    OutputFrame,
    Timeline,
    blend_frames,
    offsets_per_chunk,
    output_frames,
)

FRAMES = st.integers(2, 23)
CHUNK = st.integers(2, 9)
FACTOR = st.integers(1, 5)
BEYOND = st.integers(0, 3)
RATES = st.sampled_from([Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(7, 2)])


def constant(frames: int, rate: Fraction) -> list[float]:
    return [float(index / rate) for index in range(frames)]


@st.composite
def variable(draw: st.DrawFn) -> tuple[list[float], Fraction]:
    """Times of a variable frame rate in seconds, and their average rate."""
    steps = draw(st.lists(st.integers(1, 20), min_size=1, max_size=20))
    times = [sum(steps[:index]) / 100 for index in range(len(steps) + 1)]
    return times, Fraction(len(steps) * 100, sum(steps))


def positions(result: list[OutputFrame], chunk_frames: int) -> list[float]:
    """Where the frames lie: the mean of their sources by weight."""
    return [
        sum(source.weight * (source.chunk * chunk_frames + source.offset) for source in frame.sources)
        for frame in result
    ]


def places(result: list[OutputFrame]) -> list[tuple[int, float]]:
    assert all(len(frame.sources) == 1 for frame in result)
    return [frame.sources[0].key for frame in result]


def require_order(result: list[OutputFrame]) -> None:
    for earlier, later in pairwise(result):
        for end in (0, -1):
            assert earlier.sources[end].key <= later.sources[end].key
        assert earlier.seconds < later.seconds


def require_mixtures(result: list[OutputFrame], frames: int, chunk_frames: int) -> None:
    """Two sources exactly where a frame lies between two chunks, the nearer one with more weight."""
    for frame, position in zip(result, positions(result, chunk_frames), strict=True):
        assert sum(source.weight for source in frame.sources) == 1
        earlier, beyond = divmod(position, chunk_frames)
        between = beyond - (chunk_frames - 1)
        if between > 1e-9 and earlier >= 0 and (earlier + 1) * chunk_frames < frames:
            first, second = frame.sources
            assert (first.chunk, second.chunk) == (earlier, earlier + 1)
            assert (first.weight, second.weight) == pytest.approx((1 - between, between))
            assert (first.offset, second.offset) == (chunk_frames - 1, 0), "encoded frames"
        else:
            assert [source.weight for source in frame.sources] == [1.0]


@given(variable(), CHUNK)
def test_source_frames_at_their_times_by_default(clip: tuple[list[float], Fraction], chunk: int) -> None:
    times, rate = clip
    result, output_rate = output_frames(torch.tensor(times, dtype=torch.float64), rate, chunk)
    assert output_rate == rate
    assert result == [
        OutputFrame((FrameSource(index // chunk, float(index % chunk), 1.0),), time)
        for index, time in enumerate(times)
    ]


@given(variable(), CHUNK, FACTOR)
def test_interpolation_keeps_every_source_frame(
    clip: tuple[list[float], Fraction], chunk: int, factor: int
) -> None:
    times, rate = clip
    result, output_rate = output_frames(times, rate, chunk, Timeline(interpolate=factor))
    assert (len(result), output_rate) == (factor * len(times), factor * rate)
    require_order(result)
    require_mixtures(result, len(times), chunk)
    assert result[::factor] == output_frames(times, rate, chunk)[0]
    last = len(times) - 1
    expected = [min(index / factor, last) for index in range(len(result))]
    assert positions(result, chunk) == pytest.approx(expected)
    for index, (start, end) in enumerate(pairwise(times)):
        between = [frame.seconds for frame in result[index * factor : (index + 1) * factor]]
        assert between == pytest.approx([start + (end - start) * j / factor for j in range(factor)])
    held = [frame.seconds - times[-1] for frame in result[last * factor :]]
    assert held == pytest.approx([float(j / output_rate) for j in range(factor)])


@given(FRAMES, CHUNK, st.integers(2, 7), RATES)
def test_chunks_are_asked_for_the_same_times(chunks: int, chunk: int, factor: int, rate: Fraction) -> None:
    result, _ = output_frames(constant(chunks * chunk, rate), rate, chunk, Timeline(interpolate=factor))
    wanted = offsets_per_chunk(result, chunks)
    asked = [float(Fraction(j, factor)) for j in range((chunk - 1) * factor + 1)]
    assert wanted == [asked] * chunks


@given(variable(), CHUNK, st.fractions(1, 120, max_denominator=1001))
def test_constant_rate_fills_the_duration(
    clip: tuple[list[float], Fraction], chunk: int, fps: Fraction
) -> None:
    times, rate = clip
    result, output_rate = output_frames(times, rate, chunk, Timeline(fps=fps))
    assert output_rate == fps
    require_order(result)
    require_mixtures(result, len(times), chunk)
    assert [frame.seconds for frame in result] == constant(len(result), fps)
    duration = times[-1] + float(1 / rate)
    assert len(result) == 1 or abs(len(result) / fps - duration) <= 0.5 / fps + 1e-9
    shown = [min(frame, len(times) - 1) for frame in range(len(times) + 1)]
    for frame, position in zip(result, positions(result, chunk), strict=True):
        after = next((index for index, time in enumerate(times) if time >= frame.seconds), len(times))
        if after == 0 or after == len(times):
            expected = float(shown[after])
        else:
            start, end = times[after - 1], times[after]
            expected = after - (end - frame.seconds) / (end - start)
        assert position == pytest.approx(expected, abs=1 / 32 + 1e-9)


@given(FRAMES, CHUNK, FACTOR, RATES)
def test_a_multiple_of_a_constant_rate_is_interpolation(
    frames: int, chunk: int, factor: int, rate: Fraction
) -> None:
    times = constant(frames, rate)
    by_rate, rate_of_first = output_frames(times, rate, chunk, Timeline(fps=factor * rate))
    by_factor, rate_of_second = output_frames(times, rate, chunk, Timeline(interpolate=factor))
    assert rate_of_first == rate_of_second
    assert len(by_rate) == len(by_factor)
    for one, other in zip(by_rate, by_factor, strict=True):
        assert one.seconds == pytest.approx(other.seconds)
        for source, same in zip(one.sources, other.sources, strict=True):
            assert source.chunk == same.chunk
            assert (source.offset, source.weight) == pytest.approx((same.offset, same.weight))


@pytest.mark.parametrize("rate", [24, 30, 60])
def test_times_in_whole_milliseconds_still_meet_the_frames(rate: int) -> None:
    times = [round(1000 * index / rate) / 1000 for index in range(50)]
    result, _ = output_frames(times, Fraction(rate), 5, Timeline(fps=Fraction(rate)))
    assert places(result) == [(index // 5, float(index % 5)) for index in range(50)]


@given(FRAMES, CHUNK, FACTOR, BEYOND, BEYOND, RATES)
def test_frames_before_and_after(
    frames: int, chunk: int, factor: int, before: int, after: int, rate: Fraction
) -> None:
    timeline = Timeline(interpolate=factor, extrapolate_before=before, extrapolate_after=after)
    result, output_rate = output_frames(constant(frames, rate), rate, chunk, timeline)
    assert len(result) == factor * (before + frames + after)
    require_order(result)
    require_mixtures(result, frames, chunk)
    assert [frame.seconds for frame in result] == pytest.approx(constant(len(result), output_rate))
    end = frames - 1 + after
    expected = [min(index / factor - before, end) for index in range(len(result))]
    assert positions(result, chunk) == pytest.approx(expected)
    last = (frames - 1) // chunk
    assert {source.chunk for frame in result for source in frame.sources} == set(range(last + 1))
    for frame, position in zip(result, expected, strict=True):
        if position < 0 or position > frames - 1:
            assert [source.chunk for source in frame.sources] == [0 if position < 0 else last]
    plain, _ = output_frames(constant(frames, rate), rate, chunk)
    delayed = result[factor * before : factor * (before + frames) : factor]
    for moved, own in zip(delayed, plain, strict=True):
        assert moved.sources == own.sources
        assert moved.seconds == pytest.approx(own.seconds + before / rate)


def test_a_constant_rate_covers_what_is_extrapolated_too() -> None:
    rate = Fraction(10)
    timeline = Timeline(fps=Fraction(20), extrapolate_before=1, extrapolate_after=2)
    result, _ = output_frames(constant(3, rate), rate, 5, timeline)
    assert positions(result, 5) == pytest.approx([min(index / 2 - 1, 4) for index in range(12)])
    assert [frame.seconds for frame in result] == constant(12, Fraction(20))
    assert {chunk for chunk, _ in places(result)} == {0}


@given(FRAMES, CHUNK, st.integers(1, 3), BEYOND, BEYOND)
def test_every_chunk_with_its_surroundings(
    frames: int, chunk: int, factor: int, before: int, after: int
) -> None:
    rate = Fraction(25)
    timeline = Timeline(
        interpolate=factor, extrapolate_before=before, extrapolate_after=after, every_chunk=True
    )
    result, output_rate = output_frames(constant(frames, rate), rate, chunk, timeline)
    assert output_rate == factor * rate
    require_order(result)
    assert [frame.seconds for frame in result] == constant(len(result), output_rate)
    shown = iter(places(result))
    for index in range(-(-frames // chunk)):
        own = min(chunk, frames - index * chunk)
        end = own - 1 + after
        for j in range((before + own + after) * factor):
            assert next(shown) == (index, pytest.approx(min(j / factor - before, end)))
    assert list(shown) == []


@pytest.mark.parametrize("timeline", [Timeline(interpolate=3), Timeline(fps=Fraction(30))])
def test_an_image_is_held_and_not_extrapolated(timeline: Timeline) -> None:
    result, _ = output_frames([0.0], Fraction(10), 5, timeline)
    assert places(result) == [(0, 0.0)] * 3
    assert offsets_per_chunk(result, 1) == [[0.0]]
    assert [frame.seconds for frame in result] == pytest.approx([0, 1 / 30, 2 / 30])
    for beyond in (Timeline(extrapolate_before=1), Timeline(extrapolate_after=2, every_chunk=True)):
        with pytest.raises(ValueError, match="image can't be extrapolated"):
            output_frames([0.0], Fraction(10), 5, beyond)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fps": Fraction(0)}, "above 0"),
        ({"fps": Fraction(-3)}, "above 0"),
        ({"interpolate": 0}, "interpolate .* got 0"),
        ({"extrapolate_before": -1}, "0 or more"),
        ({"extrapolate_after": -1}, "0 or more"),
        ({"fps": Fraction(60), "interpolate": 2}, "fps can't be combined"),
        ({"fps": Fraction(60), "every_chunk": True}, "fps can't be combined"),
    ],
)
def test_values_out_of_range(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timeline(**wrong)


def test_chunks_may_have_nothing_to_show() -> None:
    result, _ = output_frames(constant(10, Fraction(10)), Fraction(10), 2, Timeline(fps=Fraction(2)))
    assert offsets_per_chunk(result, 5) == [[0.0], [], [1.0], [], []]


EXTRAPOLATE = {"extrapolate_before": BEYOND, "extrapolate_after": BEYOND}
TIMELINES = st.one_of(
    st.builds(Timeline, interpolate=FACTOR, **EXTRAPOLATE),
    st.builds(Timeline, fps=st.fractions(1, 120, max_denominator=9), **EXTRAPOLATE),
    st.builds(Timeline, interpolate=FACTOR, every_chunk=st.just(True), **EXTRAPOLATE),
)


def flat(value: float) -> Tensor:
    return torch.full((1, 2, 3), round(value), dtype=torch.uint8)


def pieces(frames: list[Tensor], lengths: list[int]) -> Iterator[Tensor]:
    for length in lengths:
        yield torch.stack(frames[:length]) if frames[:length] else torch.empty(0, 1, 2, 3).byte()
        frames = frames[length:]
    yield torch.stack(frames) if frames else torch.empty(0, 1, 2, 3).byte()


@given(variable(), CHUNK, TIMELINES, st.lists(st.integers(0, 9)))
def test_images_are_those_of_their_sources_however_late_they_come(
    clip: tuple[list[float], Fraction], chunk: int, timeline: Timeline, lengths: list[int]
) -> None:
    """Every frame that is asked for is of another grey, so that an image tells its sources and weights."""
    shown, _ = output_frames(*clip, chunk, timeline)
    wanted = offsets_per_chunk(shown, -(-len(clip[0]) // chunk))
    asked = [(chunk, offset) for chunk, offsets in enumerate(wanted) for offset in offsets]
    assert asked == sorted({source.key for frame in shown for source in frame.sources}), "each once"
    greys = {place: 83 * index % 251 for index, place in enumerate(asked)}
    frames = [flat(grey) for grey in greys.values()]
    images = [image for ready in blend_frames(shown, wanted, pieces(frames, lengths)) for image in ready]
    for image, frame in zip(images, shown, strict=True):
        expected = sum(source.weight * greys[source.key] for source in frame.sources)
        assert image.dtype == torch.uint8 and (image - expected).abs().max() <= 0.5 + 1e-4


def test_frames_are_let_go_when_the_next_chunk_has_come() -> None:
    chunks, alive, most = 6, [], 0
    shown, _ = output_frames(constant(3 * chunks, Fraction(5)), Fraction(5), 3, Timeline(interpolate=3))
    wanted = offsets_per_chunk(shown, chunks)

    def decoded() -> Iterator[Tensor]:
        nonlocal most
        for chunk, positions in enumerate(wanted):
            piece = np.full((len(positions), 1, 2, 3), chunk, dtype=np.uint8)
            alive.append(weakref.ref(piece))
            most = max(most, sum(array() is not None for array in alive))
            yield torch.from_numpy(piece)

    assert sum(len(ready) for ready in blend_frames(shown, wanted, decoded())) == len(shown)
    assert most == 2
