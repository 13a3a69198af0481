"""A whole evaluation, by this process or by several: prepare, work, sum up, and write the page."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

import torch
from diffusers.utils import logging

from regen.evaluate.contest.clip_list import OnWarning
from regen.evaluate.contest.contest import Contest, Job, OnResult, one_thread, prepare, work
from regen.evaluate.contest.report_folder import ReportFolder
from regen.evaluate.contest.summary import Row, write_summary
from regen.evaluate.report import write_report
from regen.runtime import keep_freed_memory

LOOK = 0.2  # seconds between two looks at the workers
GRACE = 10.0  # seconds for a worker to tidy up


def evaluate(
    contest: Contest,
    device: torch.device,
    processes: int = 1,
    on_result: OnResult = lambda done, total, what: None,
    on_warning: OnWarning | None = None,
) -> list[Row]:
    """Do what is missing of an evaluation, write its summary and its page, and answer the summary.

    With more than one process they are started here and share the work; `device` "cuda" is then all GPUs in
    turn. Other calls for the same report, in other processes, share it as well. Raises ValueError or OSError
    in one sentence; what was done until then is kept, and the same call goes on from there.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes do nothing; give 1 or more.")
    be_quiet()
    jobs = prepare(contest, device, on_result, on_warning)
    if processes == 1:
        work(contest, jobs, device, on_result)
    else:
        _share(contest, jobs, device, processes, on_result)
    folder = ReportFolder(contest.report)
    with folder.alone(), one_thread():
        folder.tidy()
        summary = write_summary(folder)
        write_report(contest.report)
    return summary


def be_quiet() -> None:
    """Nothing but a command's own words on the terminal, and memory kept from model to model."""
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    keep_freed_memory()


def _share(
    contest: Contest, jobs: Sequence[Job], device: torch.device, processes: int, on_result: OnResult
) -> None:
    """Start workers, and stop all of them as soon as one fails or this process is interrupted."""
    context, folder = multiprocessing.get_context("spawn"), ReportFolder(contest.report)
    workers: list[SpawnProcess] = []
    ears: list[Connection] = []
    try:
        for number in range(processes):
            ear, mouth = context.Pipe(duplex=False)
            worker = context.Process(
                target=_worker, args=(contest, jobs, _device_of(number, device), mouth), daemon=True
            )
            worker.start()
            mouth.close()
            workers.append(worker)
            ears.append(ear)
        while any(worker.is_alive() for worker in workers):
            on_result(sum(folder.is_done(job.key) for job in jobs), len(jobs), f"{processes} processes")
            wait([worker.sentinel for worker in workers if worker.is_alive()], timeout=LOOK)
            _raise_what_failed(workers, ears)
        _raise_what_failed(workers, ears)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(GRACE)
            worker.kill()


def _raise_what_failed(workers: Sequence[SpawnProcess], ears: Sequence[Connection]) -> None:
    for worker, ear in zip(workers, ears, strict=True):
        if worker.is_alive() or worker.exitcode == 0:
            continue
        try:
            raise ear.recv()
        except EOFError:
            raise ValueError(
                f"A process of the evaluation ended unexpectedly (exit code {worker.exitcode}); what is done "
                "is kept, and the same command continues."
            ) from None


def _worker(contest: Contest, jobs: Sequence[Job], device: torch.device, mouth: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent, which ends its workers
    signal.signal(signal.SIGTERM, _leave)
    warnings.simplefilter("ignore")
    be_quiet()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        work(contest, jobs, device, lambda done, total, what: None)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        known = isinstance(error, ValueError | OSError | MemoryError)
        mouth.send(error if known else ValueError(f"A process of the evaluation failed: {error}"))
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(1)


def _leave_with_parent() -> None:
    """A worker whose parent was killed does not go on alone; what it was at is begun anew by the next one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _device_of(number: int, device: torch.device) -> torch.device:
    """The worker's GPU, where there are several and none was chosen."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", number % torch.cuda.device_count())
