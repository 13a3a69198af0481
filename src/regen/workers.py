"""Worker processes: jobs that fail one by one, and shared work that fails as a whole."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Generic, TypeVar

import torch

from regen.console import Interrupted, repeat_dropped_signals

Job = TypeVar("Job")
Result = TypeVar("Result")
ExtendDeadline = Callable[[float], None]
"""Gives the current job more time, in seconds."""

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
START_SECONDS = 600.0  # for a process to start and import what a job needs


@dataclass(frozen=True)
class Failure:
    """Why a job has no result; `reason` is "damaged", "slow", "killed" or that of a `JobError`."""

    reason: str
    text: str


class JobError(ValueError):
    """Raised by a job to fail with a `reason` of its own."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def run_jobs(
    function: Callable[[Job, ExtendDeadline], Result], jobs: Iterable[Job], workers: int, time_limit: float
) -> Generator[tuple[Job, Result | Failure], None, None]:
    """Yield each job with its result, in the order in which they finish.

    `function` runs in `workers` processes, for at most `time_limit` seconds per job plus what the job adds
    with its second argument. A job that raises, takes longer or takes its process down gives a Failure, and
    the others go on. Jobs are taken from the iterable when they start. The processes end with the iterator,
    and when this process is killed.
    """
    remaining, pool = iter(jobs), list[_JobWorker[Job]]()
    try:
        while True:
            for job in islice(remaining, workers - sum(worker.busy for worker in pool)):
                idle = next((worker for worker in pool if not worker.busy), None)
                if idle is None:
                    pool.append(idle := _JobWorker(function))
                idle.start(job, time_limit)
            busy = {worker.pipe: worker for worker in pool if worker.busy}
            if not busy:
                return
            seconds = max(0.0, min(worker.deadline for worker in busy.values()) - time.monotonic())
            ready = wait(list(busy), timeout=seconds)
            for pipe, worker in busy.items():
                outcome = worker.receive() if pipe in ready else worker.check_deadline()
                if outcome is None:
                    continue
                if not worker.alive:
                    pool.remove(worker)
                yield worker.job, outcome[0]
    finally:
        for worker in pool:
            worker.kill()


class _JobWorker(Generic[Job]):
    """A process and its current job."""

    job: Job

    def __init__(self, function: Callable[[Job, ExtendDeadline], Any]) -> None:
        # Forked from a server that has imported what jobs need and has no threads; Windows has none.
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if has_server else "spawn")
        if has_server:
            module = function.func.__module__ if isinstance(function, partial) else function.__module__
            context.set_forkserver_preload([__name__, module])
        self.pipe, other_end = context.Pipe()
        self.process = context.Process(target=_serve_jobs, args=(function, other_end), daemon=True)
        self.process.start()
        other_end.close()
        self.busy, self.alive, self.deadline, self.allowed = False, True, 0.0, 0.0

    def start(self, job: Job, time_limit: float) -> None:
        self.job, self.busy, self.allowed = job, True, time_limit
        self.deadline = time.monotonic() + START_SECONDS + time_limit
        with suppress(OSError):  # a process that has ended while idle is noticed by receive()
            self.pipe.send(job)

    def receive(self) -> tuple[Any] | None:
        """The result of the job, or None while it goes on."""
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self.kill()
            code = self.process.exitcode
            cause = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
            return (Failure("killed", f"the process that worked on it was ended {cause}"),)
        if kind == "begin":
            self.deadline = time.monotonic() + self.allowed
            return None
        if kind == "extend":
            self.deadline, self.allowed = self.deadline + content, self.allowed + content
            return None
        self.busy = False
        return (content,)

    def check_deadline(self) -> tuple[Failure] | None:
        if time.monotonic() < self.deadline:
            return None
        self.kill()
        return (Failure("slow", f"not done after {self.allowed:.0f} s"),)

    def kill(self) -> None:
        self.busy = self.alive = False
        self.process.kill()
        self.process.join(GRACE_SECONDS)  # one that waits for a dead disk can't be killed
        self.pipe.close()


def _serve_jobs(function: Callable[[Any, ExtendDeadline], Any], pipe: Connection) -> None:
    _prepare_worker()
    torch.set_num_threads(1)
    with suppress(EOFError, BrokenPipeError):  # the parent has ended
        while True:
            job = pipe.recv()
            pipe.send(("begin", None))
            try:
                result = function(job, lambda seconds: pipe.send(("extend", seconds)))
            except JobError as error:
                result = Failure(error.reason, str(error))
            except BrokenPipeError:
                raise
            except Exception as error:  # whatever a decoder raises for a file is about that file
                result = Failure("damaged", " ".join(str(error).split()) or type(error).__name__)
            pipe.send(("done", result))


def run_workers(function: Callable[[int], object], processes: int, on_poll: Callable[[], object]) -> None:
    """Call `function(number)` in each of `processes` new processes, and return when all have returned.

    All are stopped as soon as one fails or this process is interrupted, and none outlives this process.
    `function` must be picklable; `on_poll` is called here every 0.2 seconds. Raises the ValueError, OSError
    or MemoryError of `function`, and a ValueError for anything else.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for number in range(processes):
            errors, other_end = context.Pipe(duplex=False)
            process = context.Process(target=_run_shared, args=(function, number, other_end), daemon=True)
            process.start()
            other_end.close()
            workers.append((process, errors))
        while alive := [worker.sentinel for worker, _ in workers if worker.is_alive()]:
            on_poll()
            wait(alive, timeout=POLL_SECONDS)
            _raise_errors(workers)
        _raise_errors(workers)
    finally:
        for worker, _ in workers:
            worker.terminate()
        for worker, _ in workers:
            worker.join(GRACE_SECONDS)
            worker.kill()


def _raise_errors(workers: Iterable[tuple[BaseProcess, Connection]]) -> None:
    for worker, errors in workers:
        if worker.is_alive() or worker.exitcode == 0:
            continue
        try:
            raise errors.recv()
        except EOFError:
            raise ValueError(
                f"A worker process ended unexpectedly (exit code {worker.exitcode}); finished work is kept, "
                "and the same command continues."
            ) from None


def _run_shared(function: Callable[[int], object], number: int, errors: Connection) -> None:
    _prepare_worker()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with repeat_dropped_signals():
            function(number)
    except Interrupted:
        sys.exit(1)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        is_runtime = isinstance(error, RuntimeError)
        errors.send(ValueError(f"A worker process failed: {error}") if is_runtime else error)
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted("", number)


def worker_device(number: int, device: torch.device) -> torch.device:
    """The device of worker `number`: "cuda" without an index means all GPUs in turn."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", number % torch.cuda.device_count())


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent, which ends its workers
    warnings.simplefilter("ignore")
    exit_with_parent()


def exit_with_parent() -> None:
    """End this worker process when its parent is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
