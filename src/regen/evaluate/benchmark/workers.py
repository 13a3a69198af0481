"""A whole evaluation, by this process or by several: prepare, work, sum up, and write the page."""

from collections.abc import Sequence
from functools import partial

import torch

from regen.evaluate.benchmark.benchmark import Benchmark, Job, OnJob, prepare, run_jobs
from regen.evaluate.benchmark.clip_list import OnWarning
from regen.evaluate.benchmark.report_folder import ReportFolder
from regen.evaluate.benchmark.summary import Row, write_summary
from regen.evaluate.report import write_report
from regen.pretrained.models import silence_logging
from regen.runtime import one_thread
from regen.workers import run_workers, worker_device


def run_benchmark(
    contest: Benchmark,
    device: torch.device,
    processes: int = 1,
    on_result: OnJob = lambda done, total, what: None,
    on_warning: OnWarning | None = None,
) -> list[Row]:
    """Do what is missing of an evaluation, write its summary and its page, and answer the summary.

    With more than one process they are started here and share the work; `device` "cuda" is then all GPUs in
    turn. Other calls for the same report, in other processes, share it as well. Raises ValueError or OSError
    in one sentence; what was done until then is kept, and the same call goes on from there.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes do nothing; give 1 or more.")
    silence_logging()
    jobs = prepare(contest, device, on_result, on_warning)
    if processes == 1:
        run_jobs(contest, jobs, device, on_result)
    else:
        _share(contest, jobs, device, processes, on_result)
    folder = ReportFolder(contest.report)
    with folder.claims.alone(), one_thread():
        folder.claims.tidy()
        summary = write_summary(folder)
        write_report(contest.report)
    return summary


def _share(
    contest: Benchmark, jobs: Sequence[Job], device: torch.device, processes: int, on_result: OnJob
) -> None:
    folder = ReportFolder(contest.report)

    def look() -> None:
        on_result(sum(folder.is_done(job.key) for job in jobs), len(jobs), f"{processes} processes")

    run_workers(partial(_work, contest, jobs, device), processes, look)


def _work(contest: Benchmark, jobs: Sequence[Job], device: torch.device, number: int) -> None:
    silence_logging()
    run_jobs(contest, jobs, worker_device(number, device), lambda done, total, what: None)
