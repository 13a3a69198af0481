"""Reading ahead of the work and writing behind it, in threads: decoding and coding of video release Python's
lock, so both go on while a model computes.

Either block ends with its thread: after it nothing runs, however it was left. What an interruption (Ctrl+C)
meets are queues only, each of whose operations is done or not done, so it can't leave a lock behind.
PyTorch's inference mode and gradient mode belong to a thread: what runs here has to set its own.
"""

from _thread import start_new_thread
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import takewhile
from queue import SimpleQueue
from typing import Generic, ParamSpec, TypeVar

Item = TypeVar("Item")
Order = TypeVar("Order")
Parameters = ParamSpec("Parameters")


class _End:
    """What stands behind the last item."""


@contextmanager
def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Iterator[Item]]:
    """In the block: `items` in their order, up to `depth` of them made before they are asked for.

    `items` is iterated in a thread; a generator is also closed there, when it is through or the block is
    left. What it raises is raised where its next item would have come; if the block is left before that,
    it is dropped. At most `depth` + 1 items are alive here, with the one that was handed out last.
    """
    assert depth >= 1, depth
    made: SimpleQueue[Item | _End] = SimpleQueue()

    def make(orders: Iterator[bool]) -> None:
        source = iter(items)
        try:
            with suppress(StopIteration):
                for _ in orders:
                    made.put(next(source))
        finally:
            if isinstance(source, Generator):
                source.close()

    worker = _Worker(make, wake=lambda: made.put(_End()))

    def handed_out() -> Generator[Item, None, None]:
        while not isinstance(item := made.get(), _End):
            worker.order(True)
            yield item
        worker.raise_error()

    with worker, closing(handed_out()) as iterator:
        for _ in range(depth):
            worker.order(True)
        yield iterator


@contextmanager
def background_writer(
    function: Callable[Parameters, object], depth: int = 2
) -> Iterator[Callable[Parameters, None]]:
    """In the block: a function that returns at once and lets `function` be called with its arguments.

    The calls run in a thread, one by one in their order; when `depth` of them wait, the next one to be added
    waits itself. The end of the block waits for all of them. When a call fails the rest is dropped and what
    it raised is raised once: where the next call is added, or at the end of the block; no call can be added
    after that. A block that is left by an exception drops what waits, and nothing else is raised. Arguments
    must not be changed after they were handed over.
    """
    assert depth >= 1, depth
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(depth):
        room.put(None)

    def run(calls: Iterator[Callable[[], object]]) -> None:
        for call in calls:
            room.put(None)
            call()
            del call  # its arguments may be large

    worker = _Worker(run, wake=lambda: room.put(None))

    def submit(*arguments: Parameters.args, **named: Parameters.kwargs) -> None:
        if not worker.over:
            room.get()
        worker.raise_error()
        assert not worker.over, "the block is over, or a call before has failed"
        worker.order(partial(function, *arguments, **named))

    with worker:
        yield submit
        worker.finish()
        worker.raise_error()


class _Worker(Generic[Order]):
    """A thread that does `work` with the orders that come; then `over` is set and `wake` called, always.

    In a `with` block: at its end waiting orders are dropped and the thread has ended.
    """

    def __init__(self, work: Callable[[Iterator[Order]], None], wake: Callable[[], None]) -> None:
        self.over = False
        self._work, self._wake = work, wake
        self._error: BaseException | None = None
        self._stopped = False
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()

    def __enter__(self) -> None:
        try:  # not threading.Thread: it waits for its start with locks that an interruption can leave locked
            start_new_thread(self._run, ())
        except KeyboardInterrupt:
            self._end()
            raise

    def __exit__(self, *error: object) -> None:
        self._end()

    def order(self, order: Order) -> None:
        """Add to the orders."""
        self._orders.put(order)

    def finish(self) -> None:
        """Wait until all orders are dealt with, or one has failed. It can be interrupted and repeated."""
        self._orders.put(None)
        if not self.over:
            self._ended.get()

    def raise_error(self) -> None:
        """Raise what the work has raised, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, and so whatever the frames of the work hold

    def _end(self) -> None:
        """Stop after the order in work. An interruption waits too: what is in work is about to be closed."""
        self._stopped = True
        try:
            self.finish()
        except BaseException:
            self._end()
            raise

    def _run(self) -> None:
        orders = takewhile(lambda order: not self._stopped, iter(self._orders.get, None))
        try:
            self._work(orders)
        except BaseException as error:
            self._error = error
        self.over = True
        self._wake()
        self._ended.put(None)
