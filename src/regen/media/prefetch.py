"""Prefetching and background writing in threads, while a model computes.

Decoding and encoding of video release Python's lock. After either block its thread has ended, however it was
left. An interruption (Ctrl+C) meets only operations of queues, which are atomic, so it leaves no lock behind.
PyTorch's inference mode and gradient mode belong to a thread: code that runs here has to set its own.
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
    """Marks the end of the items."""


@contextmanager
def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Iterator[Item]]:
    """Context manager for `items` in their order, up to `depth` of them computed in advance.

    `items` is iterated in a thread; a generator is also closed there, at its end or that of the block. Its
    error is raised in place of its next item; if the block is left before that, the error is dropped. At most
    `depth` + 1 items are alive, with the one that was returned last.
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
            worker.orders.put(True)
            yield item
        worker.raise_error()

    with worker, closing(handed_out()) as iterator:
        for _ in range(depth):
            worker.orders.put(True)
        yield iterator


@contextmanager
def background_writer(
    function: Callable[Parameters, object], depth: int = 2
) -> Iterator[Callable[Parameters, None]]:
    """Context manager for a function that queues calls of `function` and returns at once.

    The calls run in a thread, in their order; when `depth` of them are queued, the next one blocks. The end
    of the block waits for all. When a call fails the queued ones are dropped and its error is raised once: by
    the next call, or at the end of the block. A block that is left by an exception drops the queued calls and
    raises only that. Arguments must not be changed after the call.
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
        worker.orders.put(partial(function, *arguments, **named))

    with worker:
        yield submit
        worker.finish()
        worker.raise_error()


class _Worker(Generic[Order]):
    """A thread that runs `work` on the orders; at its end `over` is set and `wake` called, always.

    A context manager: at its end queued orders are dropped and the thread has ended.
    """

    def __init__(self, work: Callable[[Iterator[Order]], None], wake: Callable[[], None]) -> None:
        self.over = False
        self._work, self._wake = work, wake
        self._error: BaseException | None = None
        self._stopped = False
        self.orders: SimpleQueue[Order | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()

    def __enter__(self) -> None:
        try:  # not threading.Thread: it waits for its start with locks that an interruption can leave locked
            start_new_thread(self._run, ())
        except KeyboardInterrupt:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        """Stop after the current order. An interruption waits too: the order may use what is closed next."""
        self._stopped = True
        try:
            self.finish()
        except BaseException:
            self.__exit__()
            raise

    def finish(self) -> None:
        """Wait until all orders are done, or one has failed. It can be interrupted and repeated."""
        self.orders.put(None)
        if not self.over:
            self._ended.get()

    def raise_error(self) -> None:
        """Raise the error of the work, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame, and so whatever the frames of the work hold

    def _run(self) -> None:
        orders = takewhile(lambda order: not self._stopped, iter(self.orders.get, None))
        try:
            self._work(orders)
        except BaseException as error:
            self._error = error
        self.over = True
        self._wake()
        self._ended.put(None)
