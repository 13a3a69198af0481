"""Processes that work on one job each, and whose end or standstill costs that job alone."""

import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from typing import Any, Generic, TypeVar

import torch

from regen.workers import exit_with_parent

Job = TypeVar("Job")
Result = TypeVar("Result")
ExtendDeadline = Callable[[float], None]  # asks for so many seconds more
OnPhase = Callable[[str, int, int], None]  # called with the phase, and how much is done of how much

GRACE = 10.0  # seconds


@dataclass(frozen=True)
class PoolOptions:
    """How work is shared out, on which no result depends: the processes, and the seconds for a file.

    More is allowed for large files and many frames (see `run_jobs`). With `retry` files are looked at again
    that took too long or ended their process.
    """

    workers: int
    time_limit: float = 60.0
    retry: bool = False

    def validate(self) -> None:
        """Raises ValueError for values that make no sense."""
        if self.workers < 1:
            raise ValueError(f"{self.workers} processes do nothing; give --workers 1 or more.")
        if self.time_limit <= 0:
            raise ValueError(f"--time-limit is {self.time_limit}; give a positive number of seconds.")


@dataclass(frozen=True)
class Failure:
    """Why there is no result; `reason` is "damaged", "slow" or "killed", or that of a `JobError`."""

    reason: str
    text: str


class JobError(ValueError):
    """What a job can't do for a reason of its own."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def run_jobs(
    work: Callable[[Job, ExtendDeadline], Result], jobs: Iterable[Job], workers: int, limit: float
) -> Generator[tuple[Job, Result | Failure], None, None]:
    """Each job with its result, as they are ready.

    `work` is called in `workers` processes and has `limit` seconds for each job, and those that it asks for.
    When it raises, takes longer or takes its process down, the answer is a Failure, and the others go on.
    Jobs are taken from the iterable as they are begun. The processes end with the iterator, and when this
    process is killed.
    """
    assert workers >= 1 and limit > 0
    waiting, crew = iter(jobs), list[_Worker[Job]]()
    exhausted = False
    try:
        while True:
            while not exhausted:
                free = next((worker for worker in crew if not worker.busy), None)
                if free is None and len(crew) == workers:
                    break
                try:
                    job = next(waiting)
                except StopIteration:
                    exhausted = True
                    break
                if free is None:
                    crew.append(free := _Worker(work))
                free.begin(job, limit)
            busy = {worker.pipe: worker for worker in crew if worker.busy}
            if not busy:
                return
            patience = max(0.0, min(worker.deadline for worker in busy.values()) - time.monotonic())
            spoken = wait(list(busy), timeout=patience)
            for pipe, worker in busy.items():
                outcome = worker.listen() if pipe in spoken else worker.look_at_clock()
                if outcome is None:
                    continue
                if not worker.alive:
                    crew.remove(worker)
                yield worker.job, outcome[0]
    finally:
        for worker in crew:
            worker.end()


class _Worker(Generic[Job]):
    """One process and the job that it is at."""

    job: Job

    def __init__(self, work: Callable[[Job, ExtendDeadline], Any]) -> None:
        context = _context()
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, far), daemon=True)
        self.process.start()
        far.close()
        self.busy, self.alive, self.deadline, self.allowed = False, True, 0.0, 0.0

    def begin(self, job: Job, limit: float) -> None:
        self.job, self.busy, self.allowed = job, True, limit
        self.deadline = time.monotonic() + limit
        with suppress(OSError):  # if it has ended while it was idle, listen() will tell
            self.pipe.send(job)

    def listen(self) -> tuple[Any] | None:
        """What came of the job, or None when it goes on."""
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self.end()
            code = self.process.exitcode
            how = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
            return (Failure("killed", f"the process that worked on it was ended {how}"),)
        if kind == "extend":
            self.deadline += content
            self.allowed += content
            return None
        self.busy = False
        return (content,)

    def look_at_clock(self) -> tuple[Any] | None:
        """A failure when its time is over."""
        if time.monotonic() < self.deadline:
            return None
        self.end()
        return (Failure("slow", f"not done after {self.allowed:.0f} s"),)

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self.busy = self.alive = False
        self.process.kill()
        self.process.join(GRACE)  # one that waits for a dead disk can't be killed
        self.pipe.close()


@lru_cache(maxsize=1)
def _context() -> ForkServerContext:
    """Processes that are forked from one which has imported what they need, and has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["regen.curate.analysis"])
    return context


def _serve(work: Callable[[Any, ExtendDeadline], Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent, which ends its workers
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    exit_with_parent()

    with suppress(EOFError, BrokenPipeError):  # the parent has ended
        while True:
            pipe.send(("done", _answer(work, pipe)))


def _answer(work: Callable[[Any, ExtendDeadline], Any], pipe: Connection) -> Any:
    """What comes of the next job."""
    job = pipe.recv()
    try:
        return work(job, lambda seconds: pipe.send(("extend", seconds)))
    except JobError as error:
        return Failure(error.reason, str(error))
    except BrokenPipeError:
        raise
    except Exception as error:  # whatever a decoder throws at a file is about that file
        return Failure("damaged", " ".join(str(error).split()) or type(error).__name__)
