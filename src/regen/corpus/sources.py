"""What is embedded: shard sets and folders of videos and images, shard by shard."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec

from regen.corpus.shards import InputShard
from regen.curate.sources import SourceFile, list_sources, read_sidecars
from regen.data.shards import ShardSet, is_shard_set
from regen.media.files import MissingFileError, Source, VideoError
from regen.workers import JobError

CLASSES = "classes.json"  # in a folder of shards or files: the numbers of its classes by their names


@dataclass(frozen=True)
class Sample:
    """A video or an image: `number` in the place that has the number `place`; `key` is unique there."""

    place: int
    number: int
    key: str


@dataclass(frozen=True)
class Material:
    """What a sample is made of. `label` is a class, or -1 without one."""

    source: Source
    caption: str
    label: int


class Corpus:
    """All samples of these addresses and folders, in shards. Holds no open file, may go to any process.

    A shard set has one shard for each of its tar files. A folder is cut into shards of `group` files, in the
    order of their names; the keys of its samples are those that `regen shards build` would give. Raises
    ValueError or VideoError when a place does not exist or nothing is in it.
    """

    def __init__(self, data: Sequence[str], group: int) -> None:
        if not data:
            raise ValueError("There is nothing to embed; give folders of videos, or shards, with --data.")
        self._places = [_place(address, group) for address in data]
        parts = [(place, *part) for place, each in enumerate(self._places) for part in each.shards()]
        self.shards = [
            InputShard(f"{place:02}-{one.name}", one.source, one.samples, one.digest)
            if len(data) > 1
            else one
            for place, one, _ in parts
        ]
        self._ranges = [(place, numbers) for place, _, numbers in parts]
        self.classes: dict[str, int] = {}
        for address, each in zip(data, self._places, strict=True):
            for name, label in each.classes.items():
                if self.classes.setdefault(name, label) != label:
                    raise ValueError(
                        f"The class {name!r} has another number in {address} than before; export each to a "
                        "folder of its own."
                    )

    def samples(self, shard: int) -> list[Sample]:
        """The samples of shard number `shard`, in their order."""
        place, numbers = self._ranges[shard]
        return [Sample(place, number, self._places[place].key(number)) for number in numbers]

    def open(self, sample: Sample) -> Material:
        """Raises MissingFileError when it can't be opened, VideoError when something is wrong with it."""
        return self._places[sample.place].open(sample.number)


class _SetPlace:
    """A shard set."""

    def __init__(self, address: str) -> None:
        self._set = ShardSet(address)
        self.classes = _classes_of(self._set.address)

    def shards(self) -> list[tuple[InputShard, range]]:
        columns = [self._set.column(name) for name in ("offset", "size", "frames", "label")]
        found = []
        for shard in self._set.shards:
            numbers = self._set.samples_in(shard)
            rows = b"".join(column[numbers.start : numbers.stop].tobytes() for column in columns)
            name = PurePosixPath(shard).with_suffix("").as_posix().replace("/", "--")
            source = f"{self._set.address}/{shard}"
            found.append((InputShard(name, source, len(numbers), _digest(rows)), numbers))
        return found

    def key(self, number: int) -> str:
        return self._set.name(number).rpartition(".")[0]

    def open(self, number: int) -> Material:
        facts = self._set.info(number)
        try:
            return Material(self._set.read(number), facts.caption, facts.label)
        except VideoError as error:  # the shard is at fault, not the sample
            raise MissingFileError(str(error)) from None


class _FolderPlace:
    """Files, some after the other."""

    def __init__(self, folder: Path, group: int) -> None:
        self.classes = _classes_of(str(folder))
        self._files: list[SourceFile] = list_sources([folder])
        self._group = group

    def shards(self) -> list[tuple[InputShard, range]]:
        found = []
        for start in range(0, len(self._files), self._group):
            numbers = range(start, min(start + self._group, len(self._files)))
            files = [self._files[number] for number in numbers]
            rows = "".join(f"{file.key} {os.path.getsize(file.path)}\n" for file in files)
            source = str(files[0].path) + (f" to {files[-1].path.name}" if len(files) > 1 else "")
            name = f"{start // self._group:05}"
            found.append((InputShard(name, source, len(files), _digest(rows.encode())), numbers))
        return found

    def key(self, number: int) -> str:
        return self._files[number].key

    def open(self, number: int) -> Material:
        path = self._files[number].path
        try:
            return Material(path, *read_sidecars(path))
        except JobError as error:
            raise VideoError(f"{error}.") from None


def _place(address: str, group: int) -> _SetPlace | _FolderPlace:
    if address.endswith(".tar"):
        raise ValueError(f"{address} is one shard; give the folder that it lies in, with its index.")
    bare = "://" not in address and any(Path(address).glob("*.tar"))
    if is_shard_set(address) or bare:  # without an index it tells how to make one
        return _SetPlace(address)
    return _FolderPlace(Path(address), group)


def _classes_of(address: str) -> dict[str, int]:
    path = f"{address}/{CLASSES}"
    files, _ = fsspec.core.url_to_fs(address)
    try:
        return {str(name): int(label) for name, label in json.loads(files.cat_file(path)).items()}
    except (FileNotFoundError, NotADirectoryError):  # the address of one file has none
        return {}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged; it holds the number of each class by its name.") from None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
