"""Many models on one frozen list of clips: what is to be done, what is done, and one process's share of it.

A result is that of one contestant for one clip at one size and number of steps. Each is kept as soon as it is
there, so an interrupted evaluation goes on where it stopped, and any number of processes can share one.
What a result is depends on no other: the noise follows from the seed and the content of the clip, and each
process computes on one thread of the CPU, because sums over several differ in their last bits.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch

from regen import __version__
from regen.codec.sessions import DecodeOptions, Seams
from regen.evaluate.benchmark.clip_list import Clip, ClipList, OnWarning, check_unchanged, read_clips
from regen.evaluate.benchmark.measure import FittedClip, LoadedMetrics, MetricConfig, measure, record_original
from regen.evaluate.benchmark.report_folder import ReportFolder, folder_name, result_key
from regen.evaluate.benchmark.systems import System, SystemSpec, load_system
from regen.media.sizes import Size
from regen.runtime import DTYPES, fold_seed, one_thread

POLL_SECONDS = 0.5  # seconds between two looks at what other processes are doing
OnJob = Callable[[int, int, str], None]  # results there, results wanted, what is being worked on


@dataclass(frozen=True)
class Job:
    """One result; without an entry it is the original, which is only shown and has no steps."""

    system: SystemSpec | None
    size: Size | None
    steps: int
    clip: Clip

    @property
    def key(self) -> str:
        """The name of its files in the report."""
        name = None if self.system is None else self.system.name
        return result_key(name, size_name(self.size), self.steps, self.clip.label)


@dataclass(frozen=True)
class Benchmark:
    """What is asked for. `sizes`: None is each clip's own; `dtype` is a name of `regen.runtime.DTYPES`."""

    systems: tuple[SystemSpec, ...]
    data: Path
    report: Path
    dtype: str
    sizes: tuple[Size | None, ...] = (None,)
    steps: tuple[int, ...] = (1,)
    seed: int = 0
    seams: Seams = "extend"
    batch: int = 1
    max_frames: int | None = None
    metrics: MetricConfig = field(default_factory=MetricConfig)

    def __post_init__(self) -> None:
        names = [entry.label for entry in self.systems]
        if not names:
            raise ValueError("There is no model to evaluate; name at least one with --model.")
        if len({*names}) < len(names):
            raise ValueError(
                f"Two contestants have one name among {', '.join(names)}; name each one once, or give "
                "NAME=FOLDER where two folders have one name."
            )
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"At most {self.max_frames} frames are none; give --max-frames 1 or more.")
        for steps in self.steps:
            DecodeOptions(steps=steps, seams=self.seams, batch=self.batch)

    def settings(self, tools: LoadedMetrics, device: torch.device) -> dict[str, Any]:
        """What must be the same for all results of a report."""
        return {
            "regen": __version__,
            "torch": torch.__version__,
            "device": device.type,
            "seed": self.seed,
            "seams": self.seams,
            "max_frames": self.max_frames,
            "dtype": self.dtype,
            **tools.settings(),
        }

    def decode_options(self, job: Job) -> DecodeOptions:
        """How a job's clip is decoded; its seed is that of the clip, whatever else is in the list."""
        seed = fold_seed(self.seed, job.clip.seed) >> 32  # 31 bits: a browser reads them exactly
        return DecodeOptions(steps=job.steps, seed=seed, seams=self.seams, batch=self.batch)

    def load_system(self, entry: SystemSpec, clips: Sequence[Clip], device: torch.device) -> System:
        return load_system(entry, clips, self.max_frames, device, DTYPES[self.dtype])


def prepare(
    contest: Benchmark, device: torch.device, on_result: OnJob, on_warning: OnWarning | None
) -> tuple[Job, ...]:
    """Freeze the list of clips and the settings, or check them; then all results that are wanted, in order.

    Raises ValueError, one sentence, when something is not as it was for the results that are there.
    """
    folder = ReportFolder(contest.report)
    folder.open()
    with folder.claims.alone():
        settings = contest.settings(contest.metrics.load(device), device)
        clips, rows = _freeze_clips(contest, settings, on_result, on_warning), folder.rows()
        jobs = [Job(None, size, 0, clip) for size in contest.sizes for clip in clips]
        for entry in contest.systems:
            on_result(0, 0, f"loading {entry.name}")
            contestant = contest.load_system(entry, clips, device)
            _check_weights(contest, entry, {clip.name: contestant.weights(clip) for clip in clips}, rows)
            for size, clip in product(contest.sizes, clips):
                sides = (clip.height, clip.width) if size is None else (size.height, size.width)
                contestant.check(clip, *sides)
            steps = dict.fromkeys(contest.steps if contestant.takes_steps else (1,))
            ways = product(contest.sizes, steps)
            jobs += [Job(entry, size, number, clip) for size, number in ways for clip in clips]
            del contestant
            free_memory(device)
    return tuple(jobs)


def run_jobs(contest: Benchmark, jobs: Sequence[Job], device: torch.device, on_result: OnJob) -> None:
    """Do what is missing of `jobs`, beside other processes, and return when all of it is there.

    Raises ValueError, one sentence, for a clip that can't be measured; what was done before it is kept.
    """
    folder = ReportFolder(contest.report)
    with one_thread():
        bench = _JobRunner(contest, list(dict.fromkeys(job.clip for job in jobs)), device)
        while missing := [job for job in jobs if not folder.is_done(job.key)]:
            done = before = len(jobs) - len(missing)
            for job in missing:
                on_result(done, len(jobs), "originals" if job.system is None else job.system.name)
                with folder.claims.claim(job.key) as place:
                    if place is not None and not folder.is_done(job.key):
                        folder.publish(job.key, place, bench.run(job, place))
                        done += 1
            if done == before:
                time.sleep(POLL_SECONDS)
    on_result(len(jobs), len(jobs), "")


class _JobRunner:
    """What a process measures with; one contestant at a time is in memory."""

    def __init__(self, contest: Benchmark, clips: Sequence[Clip], device: torch.device) -> None:
        self.contest, self.clips, self.device = contest, clips, device
        self.tools = contest.metrics.load(device)
        self._entry: SystemSpec | None = None
        self._contestant: System | None = None

    def run(self, job: Job, place: Path) -> dict[str, Any]:
        """Write the videos and features of a job to the folder `place`; answer its row."""
        contest, clip = self.contest, job.clip
        view = FittedClip(contest.data / clip.name, clip, job.size, contest.max_frames)
        if job.system is None:
            record_original(view, self.tools, place)
            return {"clip": clip.name, "sha256": clip.sha256}
        contestant, options = self._enter(job.system), contest.decode_options(job)
        found, about = measure(contestant, view, options, self.tools, place)
        return {
            "model": job.system.name,
            "size": size_name(job.size),
            "steps": job.steps,
            "seed": options.seed,
            "clip": clip.name,
            "sha256": clip.sha256,
            **{name: value for name, value in asdict(found).items() if name != "name"},
            "weights": contestant.weights(clip),
            **about,
        }

    def _enter(self, entry: SystemSpec) -> System:
        if self._contestant is None or self._entry != entry:
            self._entry = self._contestant = None
            free_memory(self.device)
            self._entry, self._contestant = entry, self.contest.load_system(entry, self.clips, self.device)
        return self._contestant


def size_name(size: Size | None) -> str:
    """A size as reports have it: "256x256", or "native" for each clip's own."""
    return "native" if size is None else str(size)


def free_memory(device: torch.device) -> None:
    """Give back the memory of what is not used any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _freeze_clips(
    contest: Benchmark, now: dict[str, Any], on_result: OnJob, on_warning: OnWarning | None
) -> tuple[Clip, ...]:
    """The list of clips; it is written after the settings, so where it is they are, too."""
    folder = ReportFolder(contest.report)
    if not folder.clips.is_file():
        found = read_clips(
            contest.data,
            contest.max_frames,
            on_warning,
            lambda done, total: on_result(done, total, "reading clips"),
        )
        folder.write_json(folder.settings, now)
        folder.write_json(folder.clips, asdict(found))
        return found.clips
    before = folder.read_json(folder.settings)
    differences = [
        f"{name} was {before.get(name, 'absent')} and is now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, "absent") != now.get(name, "absent")
    ]
    if differences:
        raise ValueError(
            f"The report in {folder.path} has other settings ({'; '.join(differences)}); "
            "give the same ones to add to it, or use another --report."
        )
    frozen = ClipList.from_json(folder.read_json(folder.clips))
    check_unchanged(frozen, contest.data, contest.report)
    return frozen.clips


def _check_weights(
    contest: Benchmark, entry: SystemSpec, weights: dict[str, str], rows: Sequence[dict[str, Any]]
) -> None:
    """Raises ValueError when results under a contestant's name are not its own; `weights` are by clip."""
    sizes = [size_name(size) for size in contest.sizes]
    for row in rows:
        same = folder_name(row["model"]) == entry.label and (entry.folder is None or row["size"] in sizes)
        if same and (row["model"], row["weights"]) != (entry.name, weights[row["clip"]]):
            raise ValueError(
                f"The report in {contest.report} has results of another {entry.name}: {row['clip']} came "
                f"from {row['model']} with the hash {row['weights']}, which is {weights[row['clip']]} now; "
                "use another name, or another --report."
            )
