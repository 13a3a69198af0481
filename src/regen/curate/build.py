"""Shards from folders of videos and images: look at all files, choose, write, report, index."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regen.console import first_line
from regen.curate.analysis import Analysis, failed, make_analyse
from regen.curate.build_folder import BuildFolder, append, shard_name, write_json
from regen.curate.filters import Filters
from regen.curate.frame_stats import check_installed
from regen.curate.report import BuildResult, write_report
from regen.curate.selection import select
from regen.curate.sources import SourceFile, class_numbers, list_sources
from regen.curate.workers import Failure, OnPhase, PoolOptions, run_jobs
from regen.curate.writing import Packing, as_samples, unwritten_samples, write_shards
from regen.data.shards import serialize_index


@dataclass(frozen=True)
class Build:
    """What is to be built: samples of the videos and images below `folders`, in the folder `out`."""

    folders: tuple[Path, ...]
    out: Path
    filters: Filters
    packing: Packing
    classes_from_folders: bool = False

    def validate(self) -> None:
        """Raises ValueError for what makes no sense, or needs a library that is not installed."""
        filters, packing = self.filters, self.packing
        if not self.folders:
            raise ValueError("There is nothing to build shards from; give one or more folders of videos.")
        filters.validate()
        if packing.short_side is not None and packing.short_side < 16:
            raise ValueError(f"--short-side is {packing.short_side}; give 16 pixels or more.")
        if packing.keyframe_interval < 1:
            raise ValueError(f"--keyframe-interval is {packing.keyframe_interval}; give 1 frame or more.")
        if packing.max_samples < 0:
            raise ValueError(f"--max-samples is {packing.max_samples}; give 1 or more, or 0 for no limit.")
        check_installed(filters.cuts != "keep", filters.duplicates == "drop", filters.cut_threshold)

    def as_json(self) -> dict[str, Any]:
        """All that decides on the shards, by the names of the options."""
        flat: dict[str, Any] = {"folders": [str(folder.resolve()) for folder in self.folders]}
        flat |= asdict(self.packing) | asdict(self.filters)
        flat["classes_from_folders"] = self.classes_from_folders
        return {name.replace("_", "-"): value for name, value in flat.items()}


def build(
    task: Build, work: PoolOptions, on_progress: OnPhase = lambda phase, done, total: None
) -> BuildResult:
    """Do what is missing of a build. The index is written last, and with it the shards are complete.

    The same files and options give the same bytes, however often it was interrupted. Files that have come,
    gone or changed since are taken into account: the shards that they concern are written anew. Raises
    ValueError in one sentence; what was done until then is kept.
    """
    task.validate()
    work.validate()
    sources = list_sources(task.folders)
    try:
        return _build(task, sources, work, on_progress)
    except OSError as error:
        raise ValueError(
            f"The shards can't be written to {task.out} ({first_line(error)}); mend that and the "
            "same command continues."
        ) from None


def _build(
    task: Build, sources: Sequence[SourceFile], work: PoolOptions, on_progress: OnPhase
) -> BuildResult:
    folder = BuildFolder(task.out)
    with folder.alone():
        folder.begin(task.as_json())
        analyses = _analyse(folder, sources, task.filters, work, on_progress)
        kept, dropped = select(sources, analyses, task.filters)
        classes = class_numbers(sources) if task.classes_from_folders else None
        samples = as_samples(kept, classes)
        if work.retry:
            folder.forget_unwritten()
        shards = write_shards(folder, samples, task.packing, work, on_progress)
        if classes is not None:
            write_json(task.out / "classes.json", classes)
        dropped += unwritten_samples(folder, samples)
        on_progress("report", 0, 0)
        outcome = BuildResult(task.out, task.as_json(), len(sources), shards, kept, dropped)
        write_report(outcome, work)
        if not shards:
            raise ValueError(
                f"None of the {len(sources)} files is kept; {outcome.page} shows why, so give other limits "
                "and another --out."
            )
        folder.finish(serialize_index([shard_name(number) for number in range(len(shards))], shards))
    return outcome


def _analyse(
    folder: BuildFolder,
    sources: Sequence[SourceFile],
    filters: Filters,
    work: PoolOptions,
    on_progress: OnPhase,
) -> dict[str, Analysis]:
    """What is known of each source, by key; those of which nothing is known are looked at."""
    known = folder.analyses()

    def is_missing(source: SourceFile) -> bool:
        before = known.get(source.key)
        if before is None or before.stamp != source.stamp:
            return True
        return work.retry and before.failure is not None and before.failure.reason in ("slow", "killed")

    missing = [source for source in sources if is_missing(source)]
    done = len(sources) - len(missing)
    on_progress("look", done, len(sources))
    with (
        folder.analysis_log() as log,
        closing(run_jobs(make_analyse(filters), missing, work.workers, work.time_limit)) as results,
    ):
        for source, result in results:
            analysis = failed(source, result) if isinstance(result, Failure) else result
            known[source.key] = analysis
            append(log, analysis.as_json())
            done += 1
            on_progress("look", done, len(sources))
    return known
