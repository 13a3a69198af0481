"""Shards from folders of videos: analyse, select, write, report, index."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from regen.console import ProgressBar
from regen.curate.analysis import Analysis, analyse, check_installed
from regen.curate.build_folder import BuildFolder, append_line, shard_name
from regen.curate.options import Filters, PoolOptions
from regen.curate.report import BuildResult, write_report
from regen.curate.selection import select
from regen.curate.sources import SourceFile, class_numbers, list_sources
from regen.curate.writing import Packing, make_samples, unwritten_samples, write_shards
from regen.data.shards import serialize_index
from regen.io import write_json
from regen.workers import Failure, run_jobs


@dataclass(frozen=True)
class Build:
    """Shards of the videos and images below `folders`, in the folder `out`."""

    folders: tuple[Path, ...]
    out: Path
    filters: Filters
    packing: Packing
    classes_from_folders: bool = False

    def validate(self) -> None:
        """Raises ValueError for values out of range, and for a library that is not installed."""
        if not self.folders:
            raise ValueError("There is nothing to build shards from; give one or more folders of videos.")
        self.filters.validate()
        self.packing.validate()
        check_installed(self.filters)

    def as_json(self) -> dict[str, Any]:
        """All options that the shards depend on, by the names of their flags."""
        flat: dict[str, Any] = {"folders": [str(folder.resolve()) for folder in self.folders]}
        flat |= asdict(self.packing) | asdict(self.filters)
        flat["classes_from_folders"] = self.classes_from_folders
        return {name.replace("_", "-"): value for name, value in flat.items()}


def build(
    spec: Build,
    pool: PoolOptions,
    on_progress: ProgressBar = lambda done, total, description=None: None,
    fresh: bool = False,
) -> BuildResult:
    """Do what is missing of a build. The index is written last and marks the shards as complete.

    The same files and options give the same bytes, however often the build was interrupted. Files that were
    added, removed or changed since are taken into account: their shards are written anew. With `fresh` what
    an earlier build has left is removed first. Raises ValueError; finished work is kept.
    """
    spec.validate()
    pool.validate()
    sources, folder = list_sources(spec.folders), BuildFolder(spec.out)
    with folder.lock():
        if fresh:
            folder.forget_all()
        folder.check_config(spec.as_json())
        analyses = _analyse(folder, sources, spec.filters, pool, on_progress)
        kept, dropped = select(sources, analyses, spec.filters)
        classes = class_numbers(sources) if spec.classes_from_folders else None
        samples = make_samples(kept, classes)
        if pool.retry:
            folder.forget_unwritten()
        shards = write_shards(folder, samples, spec.packing, pool, on_progress)
        if classes is not None:
            write_json(spec.out / "classes.json", classes)
        dropped += unwritten_samples(folder, samples)
        on_progress(0, None, "writing the report")
        result = BuildResult(spec.out, spec.as_json(), len(sources), shards, kept, dropped)
        write_report(result, pool)
        if not shards:
            raise ValueError(
                f"None of the {len(sources)} files is kept; {result.page} shows why, so give other limits "
                "and --fresh."
            )
        folder.finish(serialize_index([shard_name(number) for number in range(len(shards))], shards))
    return result


def _analyse(
    folder: BuildFolder,
    sources: Sequence[SourceFile],
    filters: Filters,
    pool: PoolOptions,
    on_progress: ProgressBar,
) -> dict[str, Analysis]:
    """The analysis of each source, by key; those that are known from before are not repeated."""
    known = folder.analyses()

    def is_missing(source: SourceFile) -> bool:
        before = known.get(source.key)
        if before is None or before.stamp != source.stamp:
            return True
        return pool.retry and before.failure is not None and before.failure.reason in ("slow", "killed")

    missing = [source for source in sources if is_missing(source)]
    done, job = len(sources) - len(missing), partial(analyse, filters=filters)
    on_progress(done, len(sources), "analysing files")
    with (
        folder.analysis_log() as log,
        closing(run_jobs(job, missing, pool.workers, pool.time_limit)) as results,
    ):
        for source, result in results:
            if isinstance(result, Failure):
                result = Analysis(source.key, source.stamp, failure=result)
            known[source.key] = result
            append_line(log, asdict(result))
            done += 1
            on_progress(done, len(sources), "analysing files")
    return known
