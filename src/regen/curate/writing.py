"""Writing of samples into shards, some of them re-encoded."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from regen.console import ProgressBar, first_line
from regen.curate.build_folder import BuildFolder, shard_name
from regen.curate.options import PoolOptions, check_minimums
from regen.curate.selection import Candidate, Dropped, Rejection
from regen.data.shards import SampleInfo, ShardWriter, read_sample_info
from regen.media.files import WRITABLE_IMAGE_SUFFIXES, Frame, VideoError
from regen.media.reader import VideoReader
from regen.media.writer import VideoWriter
from regen.workers import ExtendDeadline, Failure, JobError, run_jobs

TAR_BLOCK = 512  # bytes; a member has a header of this size and is padded to a multiple of it
SECONDS_PER_FRAME = 1.5  # of encoding, beyond the time limit


@dataclass(frozen=True)
class Packing:
    """How samples are stored in shards.

    A shard is closed before it has more than `max_shard_bytes` or `max_samples` (0: no limit). With
    `short_side` files are re-encoded, the short side at most that many pixels, with a key frame every
    `keyframe_interval` frames; so are the shots of files that are split, in their own size without it.
    """

    short_side: int | None
    keyframe_interval: int
    max_shard_bytes: int
    max_samples: int

    def validate(self) -> None:
        """Raises ValueError for values that are out of range."""
        check_minimums(self, short_side=16, keyframe_interval=1, max_samples=0)


@dataclass(frozen=True)
class ShardSample:
    """A sample of a shard: `id` changes with all that its bytes depend on, `info` describes its source."""

    id: str
    candidate: Candidate
    info: SampleInfo


StoredSample = tuple[ShardSample, SampleInfo, Path]  # a sample, and the file to store with its description


def make_samples(kept: Sequence[Candidate], classes: dict[str, int] | None) -> list[ShardSample]:
    """The samples of the kept candidates, with the `classes` of their folders if there are any."""
    samples = []
    for candidate in kept:
        info, analysis = candidate.info, candidate.analysis
        if classes is not None:
            info = replace(info, label=classes[candidate.source.folder])
        text = json.dumps([candidate.key, analysis.stamp, info.caption, info.label, asdict(candidate.shot)])
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        samples.append(ShardSample(digest, candidate, info))
    return samples


def write_shards(
    folder: BuildFolder,
    samples: Sequence[ShardSample],
    packing: Packing,
    pool: PoolOptions,
    on_progress: ProgressBar,
) -> list[list[dict[str, Any]]]:
    """Write the missing shards, each complete or absent; returns the rows of all.

    Samples that can't be encoded are noted in the folder and left out. Raises ValueError when a file has
    changed since it was analysed.
    """
    unwritten = folder.unwritten()
    samples = [sample for sample in samples if sample.id not in unwritten]
    ids = [sample.id for sample in samples]
    shards: list[list[dict[str, Any]]] = []
    position, queue = 0, None
    on_progress(0, len(ids), "writing shards")
    while position < len(ids):
        record = folder.written(len(shards))
        if record is not None and _is_current(record, ids, position):
            queue = None
        else:
            folder.forget_index()
            queue = queue or _Queue(_stored_samples(folder, samples[position:], packing, pool))
            if queue.first is None:
                break  # the rest could not be encoded
            record = _write_shard(folder, len(shards), queue, packing)
        shards.append(record["rows"])
        position = len(ids) if record["next"] is None else ids.index(record["next"], position)
        on_progress(position, len(ids), "writing shards")
    folder.forget_shards(len(shards))
    return shards


def unwritten_samples(folder: BuildFolder, samples: Sequence[ShardSample]) -> list[Dropped]:
    """The samples that could not be encoded."""
    texts = folder.unwritten()
    return [
        Dropped(sample.candidate.source, Rejection("unwritten", 1, 0, texts[sample.id]))
        for sample in samples
        if sample.id in texts
    ]


def _is_current(record: dict[str, Any], ids: Sequence[str], position: int) -> bool:
    """Whether a shard holds the samples from `position` on, and ends where a new one would."""
    end = position + len(record["ids"])
    following = ids[end] if end < len(ids) else None
    return list(ids[position:end]) == record["ids"] and record["next"] == following


class _Queue:
    """An iterator that shows its next item."""

    def __init__(self, items: Iterator[StoredSample]) -> None:
        self._items = items
        self.first = next(items, None)

    def advance(self) -> None:
        self.first = next(self._items, None)


def _write_shard(folder: BuildFolder, number: int, queue: _Queue, packing: Packing) -> dict[str, Any]:
    """Write one shard from the front of the queue; returns its record."""
    ids: list[str] = []
    files: list[Path] = []
    size = 0
    with ShardWriter(folder.path / shard_name(number)) as writer:
        while queue.first is not None:
            sample, info, path = queue.first
            content = _read(sample, path)
            size += _tar_bytes(info, len(content))
            if ids and (size > packing.max_shard_bytes or len(ids) == packing.max_samples):
                break
            writer.add(info, content)
            ids.append(sample.id)
            files.append(path)
            queue.advance()
    following = None if queue.first is None else queue.first[0].id
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
        raise ValueError(f"{path} can't be read ({first_line(error)}); run the command again.") from None
    if path == sample.candidate.source.path and len(content) != sample.candidate.analysis.bytes:
        raise ValueError(f"{path} has changed since it was analysed; run the command again.")
    return content


def _tar_bytes(info: SampleInfo, size: int) -> int:
    """Bytes of a sample in a tar file."""
    caption = len(info.caption.encode())
    sizes = [size] + [caption] * (caption > 0) + [len(str(info.label))] * (info.label >= 0)
    return sum(TAR_BLOCK + -(-size // TAR_BLOCK) * TAR_BLOCK for size in sizes)


def _stored_samples(
    folder: BuildFolder, samples: Sequence[ShardSample], packing: Packing, pool: PoolOptions
) -> Iterator[StoredSample]:
    """The samples in their order, each with the file to store, encoded where needed."""
    groups = [list(group) for _, group in groupby(samples, key=lambda sample: sample.candidate.source.key)]
    jobs = {one[0].id: _encode_job(folder, one, packing) for one in groups if _is_encoded(one[0], packing)}
    ready: dict[EncodeJob, tuple[SampleInfo, ...] | Failure] = {}
    with closing(run_jobs(encode, jobs.values(), pool.workers, pool.time_limit)) as results:
        for group in groups:
            if group[0].id not in jobs:
                yield from ((sample, sample.info, sample.candidate.source.path) for sample in group)
                continue
            job = jobs[group[0].id]
            while job not in ready:
                ready.update([next(results)])
            result = ready.pop(job)
            if isinstance(result, Failure):
                if result.reason == "disk":
                    raise ValueError(result.text)
                for sample in group:
                    folder.note_unwritten(sample.id, result.text)
                continue
            for sample, segment, info in zip(group, job.segments, result, strict=True):
                info = replace(info, caption=sample.info.caption, label=sample.info.label)
                yield sample, info, segment.target


def _is_encoded(sample: ShardSample, packing: Packing) -> bool:
    """True for shots of a file, and with a short side for all but small images."""
    if packing.short_side is None:
        return sample.candidate.number is not None
    side = min(sample.info.width, sample.info.height)
    return not sample.info.is_image or side > packing.short_side


@dataclass(frozen=True)
class Segment:
    """Frames `first` to before `end` of a file, the file to encode them into, and its name in the index."""

    first: int
    end: int
    target: Path
    name: str


@dataclass(frozen=True)
class EncodeJob:
    """A file to decode once, and the segments to encode from it, in their order (see `Packing`)."""

    path: Path
    segments: tuple[Segment, ...]
    short_side: int | None
    keyframe_interval: int


def _encode_job(folder: BuildFolder, group: Sequence[ShardSample], packing: Packing) -> EncodeJob:
    source, segments = group[0].candidate.source, []
    for sample in group:
        still = source.suffix if source.suffix in WRITABLE_IMAGE_SUFFIXES else ".png"
        suffix = still if sample.info.is_image else ".mp4"
        shot, target = sample.candidate.shot, folder.encoded / f"{sample.id}{suffix}"
        segments.append(Segment(shot.first, shot.end, target, f"{sample.candidate.key}{suffix}"))
    return EncodeJob(source.path, tuple(segments), packing.short_side, packing.keyframe_interval)


def encode(job: EncodeJob, extend: ExtendDeadline) -> tuple[SampleInfo, ...]:
    """Write the missing segments, without sound, each complete or absent; returns the info of all.

    Raises VideoError or JobError when the file can't be read, JobError with the reason "disk" when a segment
    can't be written.
    """
    missing = [segment for segment in job.segments if not segment.target.exists()]
    if missing:
        extend(SECONDS_PER_FRAME * sum(segment.end - segment.first for segment in missing))
        with VideoReader(job.path, threads=1, short_side=job.short_side) as reader:
            try:
                _write_segments(reader, missing, job.keyframe_interval)
            except VideoError as error:  # of the writer; the reader's are JobErrors by now
                raise JobError("disk", str(error)) from None
    return tuple(read_sample_info(segment.target, segment.name) for segment in job.segments)


def _write_segments(reader: VideoReader, segments: Sequence[Segment], interval: int) -> None:
    frames = _enumerate_frames(reader)
    for segment in segments:
        number, frame = next(item for item in frames if item[0] == segment.first)
        start, image = frame.time, even(frame.image)
        height, width = image.shape[:2]
        rate = reader.info.frame_rate
        with VideoWriter(segment.target, width, height, rate, keyframe_interval=interval) as writer:
            writer.write(image, 0.0)
            while number + 1 < segment.end:
                number, frame = next(frames)
                writer.write(even(frame.image), frame.time - start)


def _enumerate_frames(reader: VideoReader) -> Iterator[tuple[int, Frame]]:
    try:
        yield from enumerate(reader)
    except VideoError as error:
        raise JobError("damaged", str(error)) from None


def even(image: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "h2 w2 3"]:
    """Drop the last row or column of an odd size, so that colour can be stored at half size."""
    height, width = image.shape[:2]
    return image[: height - height % 2 or 1, : width - width % 2 or 1]
