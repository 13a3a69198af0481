"""Data loader that survives dead and hanging workers.

torch's DataLoader does not: when a worker dies, its SIGCHLD handler raises in the middle of a training step,
and a stopped worker blocks it for ever, whatever its timeout.
"""

import atexit
import gc
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from itertools import islice
from multiprocessing.connection import Connection

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regen.console import STOP_SIGNALS, warn
from regen.data.batches import BatchKey
from regen.data.failures import KINDS
from regen.media.pixels import uint8_to_signed
from regen.runtime import tune_malloc
from regen.workers import exit_with_parent

Batch = dict[str, Tensor]
# A batch between processes: each distinct tensor once, and its index for each name.
Item = tuple[dict[str, int], list[Tensor]]

PREFETCH = 2  # batches per worker
MAX_RESTARTS = 3  # for the same batch
KILL_SECONDS = 10.0  # for a killed worker to end; one that waits for a dead disk does not


class BatchLoader(AbstractContextManager["BatchLoader"]):
    """Iterates once over `batches[key]` for all `keys`, in order. A context manager.

    uint8 tensors are pixels and become floats in [-1, 1] on `device`; the others stay on the CPU.
    `num_workers` processes prefetch; 0 loads in this process. When one dies or is silent for `timeout`
    seconds, all are restarted at the missing batch. `waited`: seconds spent waiting for batches.

    Raises ValueError when the data raise one or when the same batch fails repeatedly, and RuntimeError with
    the traceback of any other error.
    """

    def __init__(
        self,
        batches: Dataset[Batch],
        keys: Iterable[BatchKey],
        num_workers: int,
        device: torch.device,
        timeout: float = 600.0,
    ) -> None:
        self.batches, self.keys, self.num_workers = batches, keys, num_workers
        self.device, self.timeout = device, timeout
        self.waited, self.restarts = 0.0, 0
        self.replaced: Counter[str] = Counter()
        self._workers: deque[_Worker] = deque()

    @property
    def counts(self) -> dict[str, float]:
        """For the log: restarts, and replaced samples by the kind of failure."""
        counts = {f"{kind}_samples": float(self.replaced[kind]) for kind in KINDS}
        return counts | {"loader_restarts": float(self.restarts)}

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers; the loader can't be used any more."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        atexit.unregister(self.close)

    def __iter__(self) -> Iterator[Batch]:
        items = self._prefetched() if self.num_workers else (_load(self.batches, key) for key in self.keys)
        while True:
            start = time.perf_counter()
            item = next(items, None)
            self.waited += time.perf_counter() - start
            if item is None:
                return
            yield self._to_batch(item)

    def _to_batch(self, item: Item) -> Batch:
        indices, tensors = item
        ready = [
            uint8_to_signed(x.to(self.device, non_blocking=True)) if x.dtype == torch.uint8 else x
            for x in tensors
        ]
        batch = {name: ready[index] for name, index in indices.items()}
        if "replaced" in batch:
            self.replaced.update(dict(zip(KINDS, batch["replaced"].tolist(), strict=True)))
        return batch

    def _prefetched(self) -> Iterator[Item]:
        """Batches from the workers; batch i of the `pending` ones is with worker i modulo their number."""
        keys = iter(self.keys)
        pending = deque(islice(keys, PREFETCH * self.num_workers))
        failures = 0
        while pending:
            if not self._workers:
                self._start(pending)
            worker = self._workers[0]
            try:
                item = worker.receive(self.timeout)
            except _WorkerError as error:
                failures += 1
                self._restart(pending[0], failures, str(error))
                continue
            if isinstance(item, Exception):
                raise item
            failures = 0
            pending.popleft()
            self._workers.rotate(-1)
            for key in islice(keys, 1):
                pending.append(key)
                worker.request(key)
            yield item

    def _start(self, pending: Iterable[BatchKey]) -> None:
        atexit.register(self.close)  # runs before multiprocessing joins its processes
        self._workers.extend(_Worker(self.batches) for _ in range(self.num_workers))
        for worker in self._workers:  # last, because a process with threads should not be forked
            worker.listen(self.device)
        for index, key in enumerate(pending):
            self._workers[index % self.num_workers].request(key)

    def _restart(self, key: BatchKey, failures: int, reason: str) -> None:
        self.close()
        reason = f"{reason} while batch {key[0]} (part {key[1] + 1} of {key[2]}) was loaded"
        if failures > MAX_RESTARTS:
            raise ValueError(
                f"{failures} times {reason}; check the memory and that the data can be read, or use fewer "
                "workers (--loop.num-workers)."
            )
        self.restarts += 1
        warn(f"{reason}; all data loading processes are restarted.")


class _WorkerError(Exception): ...


class _Worker:
    """A process that loads batches, and a thread in this process that empties its pipe."""

    def __init__(self, batches: Dataset[Batch]) -> None:
        worker_keys, self.keys = multiprocessing.Pipe(duplex=False)
        self.items, worker_items = multiprocessing.Pipe()  # duplex pipes are faster
        self.received: queue.SimpleQueue[Item | Exception | None] = queue.SimpleQueue()
        arguments = (batches, worker_keys, worker_items)
        self.process = multiprocessing.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        worker_keys.close()
        worker_items.close()  # so that the pipe ends with the process

    def listen(self, device: torch.device) -> None:
        """Start to receive, into pinned memory where `device` is a GPU."""
        gpu = None
        if device.type == "cuda":
            gpu = torch.cuda.current_device() if device.index is None else device.index
        arguments = self.items, self.received, gpu
        self.thread = threading.Thread(target=_receive_all, args=arguments, daemon=True)
        self.thread.start()

    def request(self, key: BatchKey) -> None:
        with suppress(OSError):  # a dead process is noticed when the batch is received
            self.keys.send(key)

    def receive(self, timeout: float) -> Item | Exception:
        """The next requested batch, or the error of the data. Raises _WorkerError."""
        try:
            item = self.received.get(timeout=timeout)
        except queue.Empty:
            raise _WorkerError(f"no batch arrived within {timeout:g} seconds") from None
        if item is None:
            self.process.join(KILL_SECONDS)
            raise _WorkerError(f"a data loading process died (exit code {self.process.exitcode})")
        return item

    def end(self) -> None:
        self.process.join(KILL_SECONDS)
        self.thread.join(KILL_SECONDS)
        self.keys.close()
        self.items.close()


def _load(batches: Dataset[Batch], key: BatchKey) -> Item:
    batch = batches[key]
    tensors = {id(tensor): tensor for tensor in batch.values()}  # clip and target are often the same
    indices = {identity: index for index, identity in enumerate(tensors)}
    return {name: indices[id(tensor)] for name, tensor in batch.items()}, list(tensors.values())


def _work(batches: Dataset[Batch], keys: Connection, items: Connection) -> None:
    """Serve batches until the main process ends or kills this one."""
    for number in STOP_SIGNALS:  # on which the main process saves and exits
        signal.signal(number, signal.SIG_IGN)
    exit_with_parent()
    torch.set_num_threads(1)
    tune_malloc()
    gc.freeze()  # keeps the memory of existing objects shared with the main process
    try:
        while True:
            key = keys.recv()
            try:
                indices, tensors = _load(batches, key)
            except ValueError as error:
                items.send(ValueError(str(error)))
            except Exception:
                items.send(RuntimeError(traceback.format_exc()))
            else:
                items.send((indices, [(tensor.dtype, tensor.shape) for tensor in tensors]))
                for tensor in tensors:
                    _send(items, _bytes_of(tensor.contiguous()))
    except (EOFError, OSError):
        return


def _receive_all(
    items: Connection, received: "queue.SimpleQueue[Item | Exception | None]", gpu: int | None
) -> None:
    """Receive the batches of a worker; None marks the end of its pipe."""
    try:
        if gpu is not None:
            torch.cuda.set_device(gpu)  # pinned memory belongs to a GPU
        while True:
            header = items.recv()
            if isinstance(header, Exception):
                received.put(header)
                continue
            indices, sizes = header
            tensors = [torch.empty(shape, dtype=dtype, pin_memory=gpu is not None) for dtype, shape in sizes]
            for tensor in tensors:
                _receive(items, _bytes_of(tensor))
            received.put((indices, tensors))
    except (EOFError, OSError):
        received.put(None)
    except Exception as error:  # for the thread that waits for batches to raise
        received.put(error)


def _send(items: Connection, content: memoryview) -> None:
    """Send raw bytes, in a fifth of the time that Connection.send_bytes takes."""
    while content:
        content = content[os.write(items.fileno(), content) :]


def _receive(items: Connection, content: memoryview) -> None:
    """Fill `content` with raw bytes. Raises EOFError when the pipe ends."""
    while content:
        count = os.readv(items.fileno(), [content])
        if not count:
            raise EOFError
        content = content[count:]


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy's stubs
