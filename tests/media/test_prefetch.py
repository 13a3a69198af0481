"""Prefetching and background writing: order, bounds, errors at their place, no thread left."""

import faulthandler
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regen.media.prefetch import background_writer, prefetch

PATIENCE = 20.0  # seconds; longer than anything here takes on a busy machine
A_WHILE = 0.05  # seconds in which what must not happen would happen
OneError, OtherError = LookupError, BufferError  # which nothing here raises by itself


def threads() -> int:
    return len(sys._current_frames())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A test that hangs ends with a traceback of every thread."""
    before = threads()
    faulthandler.dump_traceback_later(6 * PATIENCE, exit=True)
    yield
    wait_until(lambda: threads() <= before)
    faulthandler.cancel_dump_traceback_later()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def interrupt() -> None:
    """What Ctrl+C does: the main thread raises KeyboardInterrupt, wherever it is."""
    os.kill(os.getpid(), signal.SIGINT)


class Source:
    """The numbers from 0 to `count` - 1, one after the other, and what became of them."""

    def __init__(self, count: int, error: BaseException | None = None) -> None:
        self.made, self.closed_in = 0, 0
        self._count, self._error = count, error

    def __iter__(self) -> Iterator[int]:
        try:
            for index in range(self._count):
                self.made = index + 1
                yield index
            if self._error is not None:
                raise self._error
        finally:
            self.closed_in = threading.get_ident()


class Calls:
    """A function that records its calls and can be held up, or made to fail at one of them."""

    def __init__(
        self, held: bool = False, fails_at: int | None = None, error: type[BaseException] = OneError
    ) -> None:
        self.done: list[int] = []
        self.begun, self.failed = 0, False
        self.gate = threading.Event()
        self._fails_at, self._error = fails_at, error
        if not held:
            self.gate.set()

    def __call__(self, number: int) -> None:
        self.begun += 1
        assert self.gate.wait(PATIENCE)
        if number == self._fails_at:
            self.failed = True
            raise self._error(f"call {number}")
        self.done.append(number)


@given(st.lists(st.integers() | st.sampled_from([None, False, StopIteration])), st.integers(1, 5))
def test_prefetch_keeps_order_and_all_items(items: list[object], depth: int) -> None:
    for source in (items, iter(items), (item for item in items)):
        with prefetch(source, depth) as made:
            assert list(made) == items
            assert list(made) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_makes_depth_items_and_no_more(depth: int) -> None:
    source = Source(20)
    with prefetch(source, depth) as made:
        for taken in range(6):
            wait_until(lambda taken=taken: source.made == taken + depth)
            time.sleep(A_WHILE)
            assert source.made == taken + depth
            assert next(made) == taken


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("error", [OneError, KeyboardInterrupt])
def test_an_error_of_the_source_comes_at_its_place(count: int, error: type[BaseException]) -> None:
    taken, raised = [], error("why")
    with prefetch(Source(count, raised)) as made:
        with pytest.raises(error) as caught:
            taken.extend(made.__next__() for _ in range(count + 1))
        assert caught.value is raised
        assert list(made) == []
    assert taken == list(range(count))


def test_an_error_that_was_not_reached_is_dropped() -> None:
    source = Source(3, OneError())
    with prefetch(source, depth=5) as made:
        wait_until(lambda: source.closed_in != 0)
        assert next(made) == 0


@pytest.mark.parametrize("error", [OneError, KeyboardInterrupt, StopIteration])
@pytest.mark.parametrize("closing_fails", [False, True])
def test_an_error_of_the_consumer_closes_the_source_and_is_the_one_raised(
    error: type[BaseException], closing_fails: bool
) -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(20)
        finally:
            closed.append(True)
            if closing_fails:
                raise OtherError

    def consume() -> None:
        with prefetch(items()) as made:
            next(made)
            raise error

    with pytest.raises(error):
        consume()
    assert closed


@pytest.mark.parametrize("taken", [0, 4])
def test_a_block_that_is_left_early_closes_the_source_in_its_thread(taken: int) -> None:
    source = Source(20)
    with prefetch(source) as made:
        wait_until(lambda: source.made == 2)
        assert [next(made) for _ in range(taken)] == list(range(taken))
    assert source.made <= taken + 2
    assert source.closed_in not in (0, threading.get_ident())
    assert list(made) == []


class Item:
    """Something that can be counted as long as it is alive."""


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_and_background_writer_keep_no_item_alive(depth: int) -> None:
    """With prefetch `depth` items and the one in use are alive, and a call's arguments until it is done."""
    alive, most, written = weakref.WeakSet[Item](), 0, []

    def items() -> Iterator[Item]:
        for _ in range(30):
            alive.add(item := Item())
            yield item

    gc.disable()  # nothing here may wait for the search of cycles
    try:
        with prefetch(items(), depth) as made:
            for taken in made:
                time.sleep(0.002)
                most = max(most, len(alive))
                del taken
        assert (most, len(alive)) == (depth + 1, 0)
        with background_writer(lambda item: written.append(alive.add(item))) as submit:
            submit(Item())
            wait_until(lambda: len(written) == 1 and len(alive) == 0)
    finally:
        gc.enable()


def test_interruption_at_the_end_of_prefetch_waits_for_what_is_in_work() -> None:
    """What the thread reads from is closed after the block, and must not be in use then."""
    begun, finished = threading.Event(), []

    def items() -> Iterator[int]:
        begun.set()
        time.sleep(A_WHILE)
        interrupt()
        time.sleep(A_WHILE)
        interrupt()
        time.sleep(A_WHILE)
        finished.append(True)
        yield 0

    def consume() -> None:
        with prefetch(items()):
            assert begun.wait(PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert finished


@given(st.lists(st.integers()), st.integers(1, 5))
def test_background_writer_keeps_order_and_does_all(numbers: list[int], depth: int) -> None:
    calls = Calls()
    with background_writer(calls, depth) as submit:
        for number in numbers:
            submit(number)
    assert calls.done == numbers


@pytest.mark.parametrize("depth", [1, 3])
def test_only_depth_calls_wait(depth: int) -> None:
    calls = Calls(held=True)
    opener = threading.Timer(A_WHILE, calls.gate.set)
    with background_writer(calls, depth) as submit:
        submit(0)
        wait_until(lambda: calls.begun == 1)
        for number in range(1, depth + 1):
            submit(number)
        opener.start()
        submit(depth + 1)
        assert calls.gate.is_set(), "one more waits until there is room"
    assert calls.done == list(range(depth + 2))


@pytest.mark.parametrize("error", [OneError, SystemExit])
def test_a_failed_call_is_raised_once_at_the_next(error: type[BaseException]) -> None:
    calls, before = Calls(held=True, fails_at=1, error=error), threads()
    with background_writer(calls, depth=4) as submit:
        for number in range(3):
            submit(number)
        calls.gate.set()
        wait_until(lambda: calls.failed and threads() == before)
        with pytest.raises(error, match="call 1"):
            submit(3)
        for number in range(9):
            with pytest.raises(AssertionError, match="failed"):
                submit(number)
    assert calls.done == [0], "nothing runs after a failure"


@pytest.mark.parametrize("fails_at", [None, 0])
@pytest.mark.parametrize("error", [OtherError, StopIteration])
def test_the_error_of_the_caller_wins(error: type[BaseException], fails_at: int | None) -> None:
    calls = Calls(held=True, fails_at=fails_at)

    def fail() -> None:
        with background_writer(calls, depth=3) as submit:
            for number in range(3):
                submit(number)
            wait_until(lambda: calls.begun == 1)
            threading.Timer(4 * A_WHILE, calls.gate.set).start()
            raise error

    with pytest.raises(error):
        fail()
    assert calls.begun == 1, "what waited was dropped"
    assert calls.done == ([] if fails_at == 0 else [0])


@pytest.mark.parametrize("where", ["full", "end", "elsewhere"])
def test_interruption_drops_what_waits(where: str) -> None:
    calls = Calls(held=True)

    def release() -> None:
        interrupt()
        time.sleep(A_WHILE)
        interrupt()  # an impatient one
        time.sleep(4 * A_WHILE)
        calls.gate.set()

    def fill() -> None:
        with background_writer(calls, depth=2) as submit:
            for number in range(3):
                submit(number)
                wait_until(lambda: calls.begun == 1)
            threading.Timer(A_WHILE, release).start()
            if where == "full":
                submit(3)
            elif where == "elsewhere":
                time.sleep(PATIENCE)

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert calls.done == [0], "the call in work was waited for"


@pytest.mark.parametrize("source_fails", [None, 0, 3])
@pytest.mark.parametrize("call_fails", [None, 0, 3])
@pytest.mark.parametrize("consumer_fails", [None, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_no_order_of_failures_hangs(
    source_fails: int | None, call_fails: int | None, consumer_fails: int | None, depth: int
) -> None:
    source = Source(20) if source_fails is None else Source(source_fails, OneError())
    calls = Calls(fails_at=call_fails, error=OtherError)

    def work() -> None:
        with prefetch(source, depth) as made, background_writer(calls, depth) as submit:
            for number in made:
                if number == consumer_fails:
                    raise ZeroDivisionError
                submit(number)

    places = {OneError: source_fails, OtherError: call_fails, ZeroDivisionError: consumer_fails}
    expected = tuple(error for error, place in places.items() if place is not None)
    if expected:
        with pytest.raises(expected):
            work()
    else:
        work()
        assert calls.done == list(range(20))
    assert source.closed_in


INTERRUPTED = """
import signal, sys, time
from regen.media.prefetch import background_writer, prefetch

caught, end = 0, time.monotonic() + 2
signal.signal(signal.SIGALRM, signal.default_int_handler)
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + caught % 397))
        with prefetch(range(100)) as made, background_writer(abs) as submit:
            for number in made:
                submit(number)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        caught += 1
time.sleep(0.1)
print(caught, len(sys._current_frames()))
"""


def test_interruptions_at_any_moment_leave_nothing() -> None:
    """Hundreds of them, anywhere in the machinery: none hangs, none is lost, none leaves a thread."""
    command = [sys.executable, "-c", INTERRUPTED]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    caught, left = map(int, ran.stdout.split())
    assert caught > 20 and left == 1
