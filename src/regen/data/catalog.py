"""Catalogs of videos and images in files, folders, published sets and shard sets.

Columns of numbers, not objects: 100,000 samples take a few megabytes, which forked processes share.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from regen.data.failures import time_limit
from regen.data.shards import ShardSet, is_shard_set
from regen.data.video_sets import find_media
from regen.media.files import Source, VideoError
from regen.media.reader import VideoReader


@dataclass(frozen=True)
class MediaColumns:
    """A value for every sample; `seconds` is the time from the first to the last frame."""

    frames: Int64[np.ndarray, " sample"]
    frame_rate: Float64[np.ndarray, " sample"]
    seconds: Float64[np.ndarray, " sample"]
    width: Int64[np.ndarray, " sample"]
    height: Int64[np.ndarray, " sample"]
    is_image: Bool[np.ndarray, " sample"]

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, numbers: Int64[np.ndarray, " taken"]) -> "MediaColumns":
        """The columns of some samples, in the order of `numbers`."""
        return MediaColumns(*(getattr(self, field.name)[numbers] for field in fields(self)))


@runtime_checkable
class Catalog(Protocol):
    """Samples by number. Holds no open file and may be used in any process."""

    columns: MediaColumns

    def name(self, number: int) -> str:
        """The path or address of a sample, for messages."""
        ...

    def source(self, number: int) -> Source:
        """The input of a reader. Raises VideoError when it is gone."""
        ...

    def times(self, number: int, source: Source) -> Float64[np.ndarray, " t"]:
        """The times of all frames in seconds, rising. Raises VideoError."""
        ...


class FolderCatalog:
    """Video and image files, each opened once at the start; `skipped` has the unreadable ones and why."""

    def __init__(self, paths: Sequence[Path], seconds: float | None = None) -> None:
        self.skipped: dict[str, str] = {}
        names: list[bytes] = []
        times: list[np.ndarray] = []
        rows: list[tuple[int, float, float, int, int, bool]] = []
        for path in find_media(paths):
            try:
                with time_limit(seconds, str(path)), VideoReader(path, threads=1) as reader:
                    frame_times, info = reader.frame_times(), reader.info
            except VideoError as error:
                self.skipped[str(path)] = str(error)
                continue
            frames, span = len(frame_times), float(frame_times[-1] - frame_times[0])
            rows.append((frames, float(info.frame_rate), span, info.width, info.height, info.is_image))
            names.append(os.fsencode(path))
            times.append(frame_times)
        self.columns = _columns(*(zip(*rows, strict=True) if rows else [()] * 6))
        self._names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self._name_ends = np.cumsum([0, *map(len, names)], dtype=np.int64)
        self._times = np.concatenate([np.empty(0), *times])
        self._time_ends = np.cumsum([0, *self.columns.frames], dtype=np.int64)

    def name(self, number: int) -> str:
        return os.fsdecode(self._names[self._name_ends[number] : self._name_ends[number + 1]].tobytes())

    def source(self, number: int) -> Source:
        return Path(self.name(number))

    def times(self, number: int, source: Source) -> Float64[np.ndarray, " t"]:
        return self._times[self._time_ends[number] : self._time_ends[number + 1]]


class ShardCatalog:
    """The samples of a shard set, from its index."""

    def __init__(self, address: str) -> None:
        self.shards = ShardSet(address)
        self.columns = _columns(*(self.shards.column(field.name) for field in fields(MediaColumns)))

    def name(self, number: int) -> str:
        return f"{self.shards.address}/{self.shards.name(number)}"

    def source(self, number: int) -> Source:
        return self.shards.read(number)

    def times(self, number: int, source: Source) -> Float64[np.ndarray, " t"]:
        if self.shards.column("is_regular")[number]:
            return np.arange(self.columns.frames[number]) / self.columns.frame_rate[number]
        with VideoReader(source, threads=1) as reader:
            return reader.frame_times()


@dataclass(frozen=True)
class Collection:
    """Several catalogs in a row. `skipped` has the files that are left out, with the reasons."""

    catalogs: tuple[Catalog, ...]
    skipped: dict[str, str]

    @property
    def columns(self) -> MediaColumns:
        parts, names = [catalog.columns for catalog in self.catalogs], [f.name for f in fields(MediaColumns)]
        return MediaColumns(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def find(self, number: int) -> tuple[Catalog, int]:
        """The catalog of sample `number`, and its number there."""
        for catalog in self.catalogs:
            if number < len(catalog.columns):
                return catalog, number
            number -= len(catalog.columns)
        raise AssertionError(f"sample {number} after the last one")

    def file_names(self, numbers: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        """The file names of some samples, without their folders, as the system encodes them."""
        for number in numbers.tolist():
            catalog, index = self.find(number)
            yield os.fsencode(os.path.basename(catalog.name(index)))


def open_collection(paths: Sequence[str | Path], seconds: float | None) -> Collection:
    """All samples of these files, folders and sets: those of files first, sorted, each once.

    Files that can't be read in `seconds` are left out. Raises ValueError when a path does not exist or no
    sample is left.
    """
    names = list(dict.fromkeys(str(path) for path in paths))
    addresses = [name for name in names if is_shard_set(name)]
    folder = FolderCatalog([Path(name) for name in names if name not in addresses], seconds)
    catalogs: list[Catalog] = [folder] if len(folder.columns) else []
    catalogs += [ShardCatalog(address) for address in addresses]
    if not sum(len(catalog.columns) for catalog in catalogs):
        raise ValueError(_empty_message(names, folder.skipped))
    return Collection(tuple(catalogs), folder.skipped)


def _empty_message(names: Sequence[str], skipped: dict[str, str]) -> str:
    paths = ", ".join(names)
    if skipped:
        first = next(iter(skipped.values()))
        return f"None of the {len(skipped)} videos and images in {paths} can be used: {first}"
    unindexed = next((name for name in names if any(Path(name).glob("*.tar"))), None)
    if unindexed is not None:
        return f"{unindexed} has shards without an index; make one by regen shards index {unindexed}."
    return f"There is no video or image in {paths}; give a folder that holds some."


def _columns(*values: Sequence[Any] | np.ndarray) -> MediaColumns:
    kinds = (np.int64, np.float64, np.float64, np.int64, np.int64, np.bool_)
    return MediaColumns(*(np.asarray(column, dtype=kind) for column, kind in zip(values, kinds, strict=True)))
