"""Batches in the order of their keys, from processes that may die or hang without ending the run."""

import atexit
import gc
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection
from types import TracebackType

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regen.data.failures import KINDS
from regen.data.tasks import BatchKey
from regen.media.pixels import uint8_to_signed
from regen.runtime import keep_freed_memory
from regen.workers import exit_with_parent

__all__ = ["BatchKey", "BatchLoader"]

Batch = dict[str, Tensor]
# What travels between processes: tensors, each once, and for each name which of them it is.
Item = tuple[dict[str, int], list[Tensor]]

AHEAD = 2  # batches that each process loads before they are asked for
RESTARTS = 3  # for the same batch; then something is wrong that does not pass
KILL_SECONDS = 10.0  # for a killed process to be gone; one that waits for a dead disk stays
# The main process answers these by saving and leaving, for which it needs its batches.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class BatchLoader:
    """Iterates over `batches[key]` for all `keys`, in their order. A context manager, to be used once.

    8-bit tensors of a batch are pixels and come as numbers in [-1, 1] on `device`; all others stay on the
    CPU. `workers` processes load ahead; 0 loads in this one. Each has a pipe of its own to this process and
    shares nothing with the others. When one dies, or gives nothing for `timeout` seconds, all are killed and
    started anew at the batch that is missing. `waited` is the time in seconds that was spent waiting for
    batches; `counts` has the restarts and what `replaced` of the batches says, for the log.

    Raises ValueError when the data raise one, and when the same batch fails again and again; RuntimeError
    with the traceback of any other error.
    """

    def __init__(
        self,
        batches: Dataset[Batch],
        keys: Iterable[BatchKey],
        workers: int,
        device: torch.device,
        timeout: float = 600.0,
    ) -> None:
        self.batches, self.keys, self.count = batches, keys, workers
        self.device, self.timeout = device, timeout
        self.waited = 0.0
        self.restarts = 0
        self.replaced: Counter[str] = Counter()
        self._workers: deque[_Worker] = deque()

    @property
    def counts(self) -> dict[str, float]:
        """What went wrong so far and was mended: restarts of processes, and samples replaced by kind."""
        counts = {f"{kind}_samples": float(self.replaced[kind]) for kind in KINDS}
        return counts | {"loader_restarts": float(self.restarts)}

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes; the loader can't be used any more."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        atexit.unregister(self.close)

    def __iter__(self) -> Iterator[Batch]:
        items = self._loaded_ahead() if self.count else (_load(self.batches, key) for key in self.keys)
        while True:
            start = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - start
            if item is None:
                return
            yield self._ready(item)

    def _ready(self, item: Item) -> Batch:
        names, tensors = item
        ready = [
            uint8_to_signed(tensor.to(self.device, non_blocking=True))
            if tensor.dtype == torch.uint8
            else tensor
            for tensor in tensors
        ]
        batch = {name: ready[place] for name, place in names.items()}
        if "replaced" in batch:
            self.replaced.update(dict(zip(KINDS, batch["replaced"].tolist(), strict=True)))
        return batch

    def _loaded_ahead(self) -> Iterator[Item]:
        """Batches from the processes. Number i of the `pending` ones is at worker i, counted round."""
        keys = iter(self.keys)
        pending = deque(islice(keys, AHEAD * self.count))
        failures = 0
        while pending:
            if not self._workers:
                self._start(pending)
            worker = self._workers[0]
            try:
                item = worker.take(self.timeout)
            except _WorkerError as error:
                failures += 1
                self._give_up_or_restart(pending[0], failures, str(error))
                continue
            if isinstance(item, Exception):
                raise item
            failures = 0
            pending.popleft()
            self._workers.rotate(-1)
            for key in islice(keys, 1):
                pending.append(key)
                worker.give(key)
            yield item

    def _start(self, pending: Iterable[BatchKey]) -> None:
        atexit.register(self.close)  # before multiprocessing waits for its processes to end by themselves
        self._workers.extend(_Worker(self.batches) for _ in range(self.count))
        for worker in self._workers:  # last, because a process with threads should not be forked
            worker.listen(self.device)
        for index, key in enumerate(pending):
            self._workers[index % self.count].give(key)

    def _give_up_or_restart(self, key: BatchKey, failures: int, reason: str) -> None:
        self.close()
        what = f"while batch {key[0]} (part {key[1] + 1} of {key[2]}) was loaded"
        if failures > RESTARTS:
            raise ValueError(
                f"{failures} times {reason} {what}; make sure that there is enough memory and that the data "
                "can be read, or use fewer workers."
            )
        self.restarts += 1
        print(
            f"regen: warning: {reason} {what}; all processes that load data are started anew.",
            file=sys.stderr,
        )


class _WorkerError(Exception):
    """A process died or hangs; the message says so in words that a sentence can begin with."""


class _Worker:
    """A process that loads batches, and a thread here that empties its pipe."""

    def __init__(self, batches: Dataset[Batch]) -> None:
        theirs, self.keys = multiprocessing.Pipe(duplex=False)
        self.items, mine = multiprocessing.Pipe()  # in both directions it is a faster one
        self.received: queue.SimpleQueue[Item | Exception | None] = queue.SimpleQueue()
        self.process = multiprocessing.Process(target=_work, args=(batches, theirs, mine), daemon=True)
        self.process.start()
        theirs.close()
        mine.close()  # so that the end of the process is the end of the pipe

    def listen(self, device: torch.device) -> None:
        """Start to receive what the process sends, into memory from which `device` copies fast."""
        gpu = None
        if device.type == "cuda":
            gpu = torch.cuda.current_device() if device.index is None else device.index
        arguments = (self.items, self.received, gpu)
        self.thread = threading.Thread(target=_receive_all, args=arguments, daemon=True)
        self.thread.start()

    def give(self, key: BatchKey) -> None:
        """Ask for the batch of `key`; a process that is dead is noticed when its batch is taken."""
        with suppress(OSError):
            self.keys.send(key)

    def take(self, timeout: float) -> Item | Exception:
        """The next batch that was asked for, or the error of the data. Raises _WorkerError."""
        try:
            item = self.received.get(timeout=timeout)
        except queue.Empty:
            raise _WorkerError(f"nothing came for {timeout:g} seconds") from None
        if item is None:
            self.process.join(KILL_SECONDS)
            raise _WorkerError(f"a process that loads data died (exit code {self.process.exitcode})")
        return item

    def end(self) -> None:
        """Wait until the process, which was killed, and the thread are gone."""
        self.process.join(KILL_SECONDS)
        self.thread.join(KILL_SECONDS)
        self.keys.close()
        self.items.close()


def _load(batches: Dataset[Batch], key: BatchKey) -> Item:
    batch = batches[key]
    tensors = {id(tensor): tensor for tensor in batch.values()}  # clip and target are often the same
    places = {identity: place for place, identity in enumerate(tensors)}
    return {name: places[id(tensor)] for name, tensor in batch.items()}, list(tensors.values())


def _work(batches: Dataset[Batch], keys: Connection, items: Connection) -> None:
    """What a worker does until the main process is gone or kills it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    exit_with_parent()
    torch.set_num_threads(1)  # the processes are what runs in parallel
    keep_freed_memory()
    gc.freeze()  # what was there before is not looked through again, so that its memory stays shared
    try:
        while True:
            key = keys.recv()
            try:
                names, tensors = _load(batches, key)
            except ValueError as error:
                items.send(ValueError(str(error)))
            except Exception:
                items.send(RuntimeError(traceback.format_exc()))
            else:
                items.send((names, [(tensor.dtype, tensor.shape) for tensor in tensors]))
                for tensor in tensors:
                    _send(items, _bytes_of(tensor.contiguous()))
    except (EOFError, OSError):
        return


def _receive_all(
    items: Connection, received: "queue.SimpleQueue[Item | Exception | None]", gpu: int | None
) -> None:
    """What the thread of a worker does until the pipe ends, of which None tells."""
    try:
        if gpu is not None:
            torch.cuda.set_device(gpu)  # pinned memory belongs to a GPU
        while True:
            header = items.recv()
            if isinstance(header, Exception):
                received.put(header)
                continue
            names, facts = header
            tensors = [torch.empty(shape, dtype=dtype, pin_memory=gpu is not None) for dtype, shape in facts]
            for tensor in tensors:
                _receive(items, _bytes_of(tensor))
            received.put((names, tensors))
    except (EOFError, OSError):
        received.put(None)
    except Exception as error:  # it belongs to the thread that waits for batches
        received.put(error)


def _send(items: Connection, content: memoryview) -> None:
    """The bytes as they are: a fifth of the time of a message of the connection."""
    while content:
        content = content[os.write(items.fileno(), content) :]


def _receive(items: Connection, content: memoryview) -> None:
    """Fill `content` with what was sent. Raises EOFError when the pipe ends before."""
    while content:
        count = os.readv(items.fileno(), [content])
        if not count:
            raise EOFError
        content = content[count:]


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy's stubs
