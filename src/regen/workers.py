"""Several processes on one machine that share a piece of work: started together and ended together."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import torch

POLL_SECONDS = 0.2  # seconds between two looks at the workers
GRACE = 10.0  # seconds for a worker to tidy up


def run_workers(work: Callable[[int], object], processes: int, on_poll: Callable[[], object]) -> None:
    """Call `work(number)` in each of `processes` new processes; return when all of them are through.

    All are stopped as soon as one fails or this process is interrupted, and none outlives this process.
    `work` must be picklable; `on_look` is called here every fifth of a second. Raises what `work` raised:
    a ValueError, an OSError or a MemoryError as it is, anything else as a ValueError of one sentence.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[SpawnProcess] = []
    ears: list[Connection] = []
    try:
        for number in range(processes):
            ear, mouth = context.Pipe(duplex=False)
            worker = context.Process(target=_worker, args=(work, number, mouth), daemon=True)
            worker.start()
            mouth.close()
            workers.append(worker)
            ears.append(ear)
        while any(worker.is_alive() for worker in workers):
            on_poll()
            wait([worker.sentinel for worker in workers if worker.is_alive()], timeout=POLL_SECONDS)
            _raise_what_failed(workers, ears)
        _raise_what_failed(workers, ears)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(GRACE)
            worker.kill()


def worker_device(number: int, device: torch.device) -> torch.device:
    """The device of worker `number`: "cuda" is all GPUs in turn, unless one was chosen."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", number % torch.cuda.device_count())


def _raise_what_failed(workers: Sequence[SpawnProcess], ears: Sequence[Connection]) -> None:
    for worker, ear in zip(workers, ears, strict=True):
        if worker.is_alive() or worker.exitcode == 0:
            continue
        try:
            raise ear.recv()
        except EOFError:
            raise ValueError(
                f"One of the processes ended unexpectedly (exit code {worker.exitcode}); what is done is "
                "kept, and the same command continues."
            ) from None


def _worker(work: Callable[[int], object], number: int, mouth: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent, which ends its workers
    signal.signal(signal.SIGTERM, _leave)
    warnings.simplefilter("ignore")
    exit_with_parent()
    try:
        work(number)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        known = isinstance(error, ValueError | OSError | MemoryError)
        mouth.send(error if known else ValueError(f"One of the processes failed: {error}"))
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(1)


def exit_with_parent() -> None:
    """See to it that this process, a worker, ends when its parent is killed; it must not go on alone."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
