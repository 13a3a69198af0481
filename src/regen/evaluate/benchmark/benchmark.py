"""Benchmark of many systems on one frozen list of clips, resumable and shared by processes.

One job measures one system on one clip at one size and number of steps. Its result is written when it is
done, so an interrupted benchmark resumes where it stopped, and any number of processes can share one. Results
are independent: the noise follows from the seed and the content of the clip, and every process computes on
one CPU thread, because sums over several threads differ in their last bits.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from regen import __version__
from regen.codec.sessions import DecodeOptions, Seams
from regen.data.video_sets import VideoSet
from regen.diffusion import Noise
from regen.evaluate.benchmark.clip_list import Clip, ClipList, OnWarning, check_unchanged, read_clips
from regen.evaluate.benchmark.drift import measure_drift
from regen.evaluate.benchmark.measure import (
    ClipError,
    FittedClip,
    LoadedMetrics,
    MetricConfig,
    ReportFolder,
    measure,
    record_original,
    result_key,
    write_finite_json,
)
from regen.evaluate.benchmark.report import Row, write_report, write_summary
from regen.evaluate.benchmark.systems import ModelSystem, System, SystemSpec, folder_name, load_system
from regen.io import check_settings, read_json
from regen.media.pixels import Size
from regen.pretrained.models import silence_logging
from regen.runtime import DTYPES, fold_seed, one_thread
from regen.workers import run_workers, worker_device

POLL_SECONDS = 0.5  # between two checks for the results of other processes
OnJob = Callable[[int, int, str], None]  # jobs done, jobs in all, what is being worked on


@dataclass(frozen=True)
class Job:
    """One result. Without a system it is the original, which is only recorded and has no steps."""

    system: SystemSpec | None
    size: Size | None
    steps: int
    clip: Clip

    @property
    def key(self) -> str:
        """Name of its files in the report."""
        name = None if self.system is None else self.system.name
        return result_key(name, size_name(self.size), self.steps, self.clip.label)


@dataclass(frozen=True)
class Benchmark:
    """What to measure. A size of None is that of each clip; `dtype` is a name of `regen.runtime.DTYPES`.

    `data` is a folder or a published set (see `regen.data.video_sets`). With `round_trips` above 1 every clip
    is coded again as often (see `drift`).
    """

    systems: tuple[SystemSpec, ...]
    data: Path
    report: Path
    dtype: str
    sizes: tuple[Size | None, ...] = (None,)
    steps: tuple[int, ...] = (1,)
    seed: int = 0
    seams: Seams = "extend"
    noise: Noise | None = None
    batch: int = 1
    max_frames: int | None = None
    round_trips: int = 1
    metrics: MetricConfig = field(default_factory=MetricConfig)

    def __post_init__(self) -> None:
        names = [system.label for system in self.systems]
        if not names:
            raise ValueError("A benchmark needs at least one model; give --model.")
        if len({*names}) < len(names):
            raise ValueError(f"Names must be unique, got {', '.join(names)}; give NAME=FOLDER to rename one.")
        for option, value in (("--max-frames", self.max_frames), ("--round-trips", self.round_trips)):
            if value is not None and value < 1:
                raise ValueError(f"{option} must be at least 1, got {value}.")
        for steps in self.steps:
            DecodeOptions(steps=steps, seams=self.seams, batch=self.batch, noise=self.noise)

    def settings(self, metrics: LoadedMetrics, device: torch.device) -> dict[str, Any]:
        """Settings that all results of a report must share."""
        videos = VideoSet.parse(self.data)
        own: dict[str, Any] = {"set": videos.name} if videos.name else {}
        if self.round_trips > 1:
            own["round_trips"] = self.round_trips
        return own | {
            "regen": __version__,
            "torch": torch.__version__,
            "device": device.type,
            "seed": self.seed,
            "seams": self.seams,
            "noise": self.noise,
            "max_frames": self.max_frames,
            "dtype": self.dtype,
            **metrics.settings,
        }

    def decode_options(self, job: Job) -> DecodeOptions:
        """Decoding options of a job, with a seed that depends on the content of its clip alone."""
        seed = fold_seed(self.seed, job.clip.seed) >> 32  # 31 bits: a browser reads them exactly
        return DecodeOptions(job.steps, seed, seams=self.seams, batch=self.batch, noise=self.noise)


def run_benchmark(
    benchmark: Benchmark,
    device: torch.device,
    processes: int = 1,
    on_job: OnJob = lambda done, total, description: None,
    on_warning: OnWarning = lambda text: None,
) -> list[Row]:
    """Compute all missing results, write the summary and the page, and return the summary.

    More than one process: they are started here and share the jobs; `device` "cuda" then means all GPUs in
    turn. Other calls for the same report may run at the same time. Raises ValueError or OSError; finished
    results stay, and the same call resumes from them.
    """
    if processes < 1:
        raise ValueError(f"--processes must be at least 1, got {processes}.")
    silence_logging()
    jobs = prepare(benchmark, device, on_job, on_warning)
    folder = ReportFolder(benchmark.report)
    if processes == 1:
        run_jobs(benchmark, jobs, device, on_job)
    else:

        def show_progress() -> None:
            on_job(sum(folder.is_done(job.key) for job in jobs), len(jobs), f"{processes} processes")

        run_workers(partial(_run_worker, benchmark, jobs, device), processes, show_progress)
    with folder.claims.alone(), one_thread():
        folder.claims.tidy()
        for reason in folder.failed().values():
            on_warning(f"skipped: {reason}")
        summary = write_summary(folder)
        write_report(benchmark.report)
    return summary


def _run_worker(benchmark: Benchmark, jobs: Sequence[Job], device: torch.device, number: int) -> None:
    silence_logging()
    run_jobs(benchmark, jobs, worker_device(number, device), lambda done, total, description: None)


def prepare(
    benchmark: Benchmark,
    device: torch.device,
    on_job: OnJob = lambda done, total, description: None,
    on_warning: OnWarning = lambda text: None,
) -> tuple[Job, ...]:
    """Freeze clips and settings, or raise ValueError when they differ; return all jobs in order."""
    folder = ReportFolder(benchmark.report)
    folder.open()
    with folder.claims.alone():
        settings = benchmark.settings(benchmark.metrics.load(device), device)
        folder.retry_failed()
        clips, rows = _freeze_clips(benchmark, folder, settings, on_job, on_warning), folder.rows()
        jobs = [Job(None, size, 0, clip) for size in benchmark.sizes for clip in clips]
        for spec in benchmark.systems:
            on_job(0, 0, f"loading {spec.name}")
            system = load_system(spec, clips, benchmark.max_frames, device, DTYPES[benchmark.dtype])
            _check_weights(benchmark, spec, {clip.name: system.weights(clip) for clip in clips}, rows)
            for size, clip in product(benchmark.sizes, clips):
                system.check(clip, *clip.sides(size))
            steps = dict.fromkeys(benchmark.steps if system.takes_steps else (1,))
            jobs += [Job(spec, *setting) for setting in product(benchmark.sizes, steps, clips)]
            del system
            free_memory(device)
    return tuple(jobs)


def run_jobs(benchmark: Benchmark, jobs: Sequence[Job], device: torch.device, on_job: OnJob) -> None:
    """Run the missing `jobs` with other processes until all are done; clips may fail."""
    folder = ReportFolder(benchmark.report)
    with one_thread():
        runner = _JobRunner(benchmark, list(dict.fromkeys(job.clip for job in jobs)), device)
        while missing := [job for job in jobs if not folder.is_done(job.key)]:
            done = before = len(jobs) - len(missing)
            for job in missing:
                on_job(done, len(jobs), "originals" if job.system is None else job.system.name)
                with folder.claims.claim(job.key) as place:
                    if place is not None and not folder.is_done(job.key):
                        folder.publish(job.key, place, runner.run(job, place))
                        done += 1
            if done == before:
                time.sleep(POLL_SECONDS)
    on_job(len(jobs), len(jobs), "")


class _JobRunner:
    """Runs jobs with one system at a time in memory."""

    def __init__(self, benchmark: Benchmark, clips: Sequence[Clip], device: torch.device) -> None:
        self.benchmark, self.clips, self.device = benchmark, clips, device
        self.metrics, self.root = benchmark.metrics.load(device), VideoSet.parse(benchmark.data).root
        self._spec: SystemSpec | None = None
        self._system: System | None = None

    def run(self, job: Job, place: Path) -> dict[str, Any]:
        """Write the video and the features of a job to the folder `place`; return its row."""
        benchmark, clip = self.benchmark, job.clip
        fitted = FittedClip(self.root / clip.name, clip, job.size, benchmark.max_frames)
        names = {"clip": clip.name, "sha256": clip.sha256}
        try:
            if job.system is None:
                record_original(fitted, self.metrics, place)
                return names
            system, options = self._load(job.system), benchmark.decode_options(job)
            result, compression = measure(system, fitted, options, self.metrics, place)
            if benchmark.round_trips > 1 and isinstance(system, ModelSystem):
                compression["drift"] = measure_drift(system, fitted, options, benchmark.round_trips)
        except ClipError as error:
            return names | {"failed": str(error)}
        return {
            "model": job.system.name,
            "size": size_name(job.size),
            "steps": job.steps,
            "seed": options.seed,
            **names,
            **{name: value for name, value in asdict(result).items() if name != "name"},
            "weights": system.weights(clip),
            **compression,
        }

    def _load(self, spec: SystemSpec) -> System:
        if self._system is None or self._spec != spec:
            self._spec = self._system = None
            free_memory(self.device)
            frames, dtype = self.benchmark.max_frames, DTYPES[self.benchmark.dtype]
            self._spec, self._system = spec, load_system(spec, self.clips, frames, self.device, dtype)
        return self._system


def size_name(size: Size | None) -> str:
    """A size in reports: "256x256", or "native" for that of each clip."""
    return "native" if size is None else str(size)


def free_memory(device: torch.device) -> None:
    """Release the memory of objects that are no longer used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _freeze_clips(
    benchmark: Benchmark,
    folder: ReportFolder,
    settings: dict[str, Any],
    on_job: OnJob,
    on_warning: OnWarning,
) -> tuple[Clip, ...]:
    """The list of clips. It is written after the settings, so where it exists they do too."""
    if not folder.clips.is_file():
        clips = read_clips(
            benchmark.data,
            benchmark.max_frames,
            on_warning,
            lambda done, total: on_job(done, total, "reading clips"),
        )
        write_finite_json(folder.settings, settings)
        write_finite_json(folder.clips, asdict(clips))
        return clips.clips
    check_settings(str(folder.path), read_json(folder.settings), settings, "use another --report")
    frozen = ClipList.from_json(read_json(folder.clips))
    check_unchanged(frozen, benchmark.data, benchmark.report)
    return frozen.clips


def _check_weights(
    benchmark: Benchmark, spec: SystemSpec, weights: dict[str, str], rows: Sequence[dict[str, Any]]
) -> None:
    """Raises ValueError when results of this name came from other weights; `weights` are by clip."""
    sizes = [size_name(size) for size in benchmark.sizes]
    for row in rows:
        same = folder_name(row["model"]) == spec.label and (spec.folder is None or row["size"] in sizes)
        if same and (row["model"], row["weights"]) != (spec.name, weights[row["clip"]]):
            raise ValueError(
                f"{benchmark.report} has results of another {spec.name}: {row['clip']} by {row['model']} "
                f"({row['weights']}, now {weights[row['clip']]}); use another name or another --report."
            )
