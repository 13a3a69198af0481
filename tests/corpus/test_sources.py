"""Decoding for the export: which frames, at which rate, and several videos at once."""

import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.corpus.sources import PREFETCH_CHUNKS, at_rate, prefetch_streams
from regen.media.files import Frame


def numbered(frames: int, rate: Fraction) -> list[Frame]:
    """Frames whose pixels tell their number; times are rounded to milliseconds as Matroska does."""
    return [
        Frame(torch.full((1, 1, 3), number, dtype=torch.uint8), round(float(number / rate), 3))
        for number in range(frames)
    ]


RATES = st.fractions(min_value=1, max_value=60, max_denominator=1001)


@given(frames=st.integers(1, 40), own=RATES, rate=RATES)
def test_at_rate_gives_the_frame_shown_at_each_moment(frames, own, rate):
    """As many as fit into the duration, each that which is shown in the middle of its moment."""
    shown = [int(image[0, 0, 0]) for image in at_rate(numbered(frames, own), rate, own)]
    assert abs(len(shown) - float(frames / own * rate)) < 1.1
    for number, frame in enumerate(shown):
        assert abs(frame - min(number / rate * own, frames - 1)) <= 0.5 + 0.0025 * float(own)


@given(frames=st.integers(1, 40), own=RATES)
def test_at_its_own_rate_all_frames_are_given(frames, own):
    shown = [int(image[0, 0, 0]) for image in at_rate(numbered(frames, own), own, own)]
    assert shown == [*range(frames)]


def test_streams_come_in_order_and_run_side_by_side():
    """Three are begun at once, each as far as its depth goes, and no further one."""
    begun: list[int] = []
    made = threading.Semaphore(0)

    def stream(number: int) -> Iterator[tuple[int, int]]:
        begun.append(number)
        for item in range(4):
            made.release()
            yield number, item

    with prefetch_streams((stream(number) for number in range(5)), 3) as streams:
        first = next(streams)
        for _ in range(3 * PREFETCH_CHUNKS):
            assert made.acquire(timeout=10)
        assert sorted(begun) == [0, 1, 2]
        assert list(first) == [(0, item) for item in range(4)]
        assert [list(each) for each in streams] == [[(n, item) for item in range(4)] for n in range(1, 5)]


def test_all_threads_end_with_the_block():
    begun: list[int] = []
    closed: list[int] = []

    def stream(number: int) -> Iterator[int]:
        begun.append(number)
        try:
            yield from count()
        finally:
            closed.append(number)

    streams = (stream(number) for number in range(9))
    with pytest.raises(KeyboardInterrupt), prefetch_streams(streams, 3) as decoded:  # noqa: PT012
        assert next(next(decoded)) == 0
        raise KeyboardInterrupt
    assert 0 in begun and sorted(closed) == sorted(begun)


def test_what_a_stream_raises_is_raised_where_it_is_read():
    def stream(number: int) -> Iterator[int]:
        yield number
        if number == 1:
            raise ValueError("damaged")

    with prefetch_streams((stream(n) for n in range(3)), 2) as streams:
        assert list(next(streams)) == [0]
        with pytest.raises(ValueError, match="damaged"):
            list(next(streams))
        assert list(next(streams)) == [2]
