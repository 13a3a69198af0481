"""Samples into shards: each shard whole or absent, and those that are there already left alone."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from regen.console import first_line
from regen.curate.build_folder import BuildFolder, shard_name
from regen.curate.encoding import EncodeJob, Segment, encode
from regen.curate.filters import Rejection
from regen.curate.selection import Candidate, Dropped
from regen.curate.workers import Failure, OnPhase, PoolOptions, run_jobs
from regen.data.shards import SampleInfo, ShardWriter

BLOCK = 512  # of a tar file: a member has a header and is filled up


@dataclass(frozen=True)
class Packing:
    """How samples lie in shards.

    A shard is closed before it has more than `max_shard_bytes` or `max_samples` (0: no limit). With
    `short_side` files are encoded again, the short side at most that many pixels, with a key frame every
    `keyframe_interval` frames; so are the shots of files that are split, in their own size where it is None.
    """

    short_side: int | None
    keyframe_interval: int
    max_shard_bytes: int
    max_samples: int


@dataclass(frozen=True)
class ShardSample:
    """What goes into a shard; `id` changes with all that its bytes depend on, `facts` are its source's."""

    id: str
    candidate: Candidate
    info: SampleInfo


Content = tuple[ShardSample, SampleInfo, Path]  # a sample with the file that is stored, and the facts of that


def as_samples(kept: Sequence[Candidate], classes: dict[str, int] | None) -> list[ShardSample]:
    """What is kept as samples, in the same order, with the `classes` of their folders if there are any."""
    samples = []
    for one in kept:
        facts = one.analysis.info
        assert facts is not None
        if classes is not None:
            facts = replace(facts, label=classes[one.source.folder])
        text = json.dumps([one.key, one.analysis.stamp, facts.caption, facts.label, asdict(one.shot)])
        samples.append(ShardSample(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), one, facts))
    return samples


def write_shards(
    folder: BuildFolder,
    samples: Sequence[ShardSample],
    packing: Packing,
    work: PoolOptions,
    on_progress: OnPhase,
) -> list[list[dict[str, Any]]]:
    """Write the shards that are missing; returns the rows of all.

    Samples that can't be encoded are noted in the folder and left out. Raises ValueError when a file has
    changed since it was looked at.
    """
    unwritten = folder.unwritten()
    samples = [sample for sample in samples if sample.id not in unwritten]
    ids = [sample.id for sample in samples]
    shards: list[list[dict[str, Any]]] = []
    position, contents = 0, None
    on_progress("write", 0, len(ids))
    while position < len(ids):
        record = folder.written(len(shards))
        if record is not None and _fits(record, ids, position):
            contents = None
        else:
            folder.forget_index()
            contents = contents or _Queue(_contents(folder, samples[position:], packing, work))
            if contents.first is None:
                break  # the rest could not be encoded
            record = _write_shard(folder, len(shards), contents, packing)
        shards.append(record["rows"])
        position = len(ids) if record["next"] is None else ids.index(record["next"], position)
        on_progress("write", position, len(ids))
    folder.forget_shards(len(shards))
    return shards


def unwritten_samples(folder: BuildFolder, samples: Sequence[ShardSample]) -> list[Dropped]:
    """Those that were to be kept and could not be encoded."""
    texts = folder.unwritten()
    return [
        Dropped(str(sample.candidate.source.path), Rejection("unwritten", 1, 0, texts[sample.id]))
        for sample in samples
        if sample.id in texts
    ]


def _fits(record: dict[str, Any], ids: Sequence[str], position: int) -> bool:
    """Whether a shard holds the samples from `position` on, and ends where a new one would."""
    end = position + len(record["ids"])
    following = ids[end] if end < len(ids) else None
    return list(ids[position:end]) == record["ids"] and record["next"] == following


class _Queue:
    """An iterator whose first item can be looked at."""

    def __init__(self, items: Iterator[Content]) -> None:
        self._items = items
        self.first = next(items, None)

    def advance(self) -> None:
        self.first = next(self._items, None)


def _write_shard(folder: BuildFolder, number: int, contents: _Queue, packing: Packing) -> dict[str, Any]:
    """One shard of what comes next; returns the record of it."""
    ids: list[str] = []
    files: list[Path] = []
    size = 0
    with ShardWriter(folder.path / shard_name(number)) as writer:
        while contents.first is not None:
            sample, facts, path = contents.first
            content = _read(sample, path)
            size += _tar_bytes(facts, len(content))
            if ids and (size > packing.max_shard_bytes or len(ids) == packing.max_samples):
                break
            writer.add(facts, content)
            ids.append(sample.id)
            files.append(path)
            contents.advance()
    following = None if contents.first is None else contents.first[0].id
    record = {"ids": ids, "next": following, "rows": writer.rows}
    folder.note_written(number, record)
    for path in files:
        if path.parent == folder.encoded:
            path.unlink()
    return record


def _read(sample: ShardSample, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path} can't be read any more ({first_line(error)}); run the command again."
        ) from None
    if path == sample.candidate.source.path and len(content) != sample.candidate.analysis.bytes:
        raise ValueError(f"{path} has changed since it was looked at; run the command again.")
    return content


def _tar_bytes(facts: SampleInfo, size: int) -> int:
    """What a sample takes in a tar file."""
    caption = len(facts.caption.encode())
    sizes = [size] + [caption] * (caption > 0) + [len(str(facts.label))] * (facts.label >= 0)
    return sum(BLOCK + -(-size // BLOCK) * BLOCK for size in sizes)


def _contents(
    folder: BuildFolder, samples: Sequence[ShardSample], packing: Packing, work: PoolOptions
) -> Iterator[Content]:
    """The samples in their order, each with the file to be stored, encoded where need be."""
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample.candidate.source.key)]
    jobs = {
        group[0].id: _encoding(folder, group, packing) for group in groups if _is_encoded(group[0], packing)
    }
    ready: dict[EncodeJob, tuple[SampleInfo, ...] | Failure] = {}
    with closing(run_jobs(encode, jobs.values(), work.workers, work.time_limit)) as results:
        for group in groups:
            if group[0].id not in jobs:
                yield from ((sample, sample.info, sample.candidate.source.path) for sample in group)
                continue
            job = jobs[group[0].id]
            while job not in ready:
                done, result = next(results)
                ready[done] = result
            outcome = ready.pop(job)
            if isinstance(outcome, Failure) and outcome.reason == "disk":
                raise ValueError(outcome.text)
            if isinstance(outcome, Failure):
                for sample in group:
                    folder.note_unwritten(sample.id, outcome.text)
                continue
            for sample, part, facts in zip(group, job.segments, outcome, strict=True):
                told = replace(facts, caption=sample.info.caption, label=sample.info.label)
                yield sample, told, part.target


def _is_encoded(sample: ShardSample, packing: Packing) -> bool:
    """Shots of a file, and with a short side all but the images that are small already."""
    if packing.short_side is None:
        return sample.candidate.number is not None
    side = min(sample.info.width, sample.info.height)
    return not sample.info.is_image or side > packing.short_side


def _encoding(folder: BuildFolder, group: Sequence[ShardSample], packing: Packing) -> EncodeJob:
    parts = []
    for sample in group:
        suffix = sample.candidate.source.suffix if sample.info.is_image else ".mp4"
        shot = sample.candidate.shot
        target = folder.encoded / f"{sample.id}{suffix}"
        parts.append(Segment(shot.first, shot.end, target, f"{sample.candidate.key}{suffix}"))
    return EncodeJob(
        group[0].candidate.source.path, tuple(parts), packing.short_side, packing.keyframe_interval
    )
