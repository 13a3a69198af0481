"""Shards: tar files of WebDataset with an index for random access.

    DIR/00000.tar  00001.tar ...   members KEY.mp4 (or another suffix), KEY.txt (caption), KEY.cls (class)
    DIR/index.safetensors          one row per sample: its position and description

DIR is a folder or any address that fsspec knows ("s3://bucket/videos"). Only the index is read at the start,
and each sample by one read, so order and memory don't depend on the numbers of shards and processes.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from regen.console import first_line
from regen.io import atomic_path, parse_json
from regen.media.files import Blob, MissingFileError, VideoError
from regen.media.reader import VideoReader

INDEX = "index.safetensors"
METADATA = "regen"
COMMAND = "regen shards index"
FORMAT = 1
TIME_TOLERANCE = 5e-4  # seconds that a frame may be off its place at a constant rate
MTIME = 0  # of all members, so that the same samples give the same bytes
# Columns of the index and their types; a text column is concatenated bytes, with a column NAME_end.
COLUMNS = {
    "shard": np.int32,
    "offset": np.int64,
    "size": np.int64,
    "frames": np.int32,
    "frame_rate": np.float64,
    "seconds": np.float64,
    "width": np.int32,
    "height": np.int32,
    "label": np.int32,
    "is_image": np.bool_,
    "is_regular": np.bool_,
}
TEXTS = ("name", "caption")


@dataclass(frozen=True)
class SampleInfo:
    """Index entry of a sample; `name` is that of its member, KEY.mp4.

    `seconds` is the time from the first to the last frame, `width` and `height` are in pixels after rotation,
    `label` is a class or -1. `is_regular`: frame i is shown at i / `frame_rate` seconds, +- 0.5 ms.
    """

    name: str
    frames: int
    frame_rate: float
    seconds: float
    width: int
    height: int
    is_image: bool
    is_regular: bool
    caption: str = ""
    label: int = -1

    @property
    def key(self) -> str:
        """The name without its suffix."""
        return self.name.rpartition(".")[0]


def sample_info(reader: VideoReader, name: str, caption: str = "", label: int = -1) -> SampleInfo:
    """The index entry of an open file, with the size of its upright frames; nothing is decoded for it."""
    times, info = reader.frame_times(), reader.info
    rate, span = float(info.frame_rate), float(times[-1] - times[0])
    measured = (len(times) - 1) / span if span > 0 else rate  # where a file declares a wrong rate
    is_regular = _is_regular(times, rate)
    if not is_regular and _is_regular(times, measured):
        rate, is_regular = measured, True
    size = info.width, info.height
    return SampleInfo(name, len(times), rate, span, *size, info.is_image, is_regular, caption, label)


def _is_regular(times: np.ndarray, rate: float) -> bool:
    return bool(np.abs(times - np.arange(len(times)) / rate).max() <= TIME_TOLERANCE)


def read_sample_info(path: Path, name: str) -> SampleInfo:
    """`sample_info` of a file."""
    with VideoReader(path, threads=1) as reader:
        return sample_info(reader, name)


class ShardWriter(ExitStack):
    """Writes one shard, a tar file, atomically. A context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> "ShardWriter":
        temporary = self.enter_context(atomic_path(self._path))
        self._tar = self.enter_context(tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT))
        return self

    def add(self, info: SampleInfo, content: bytes) -> None:
        """Append a sample: the bytes of its file, and members for its caption and class."""
        offset = self._member(info.name, content)
        if info.caption:
            self._member(f"{info.key}.txt", info.caption.encode())
        if info.label >= 0:
            self._member(f"{info.key}.cls", str(info.label).encode())
        self.rows.append(asdict(info) | {"offset": offset, "size": len(content)})

    def _member(self, name: str, content: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(content), MTIME, 0o644
        start = self._tar.offset
        self._tar.addfile(info, io.BytesIO(content))
        return start + len(info.tobuf(tarfile.USTAR_FORMAT))


def serialize_index(
    shards: Sequence[str], rows: Iterable[Sequence[dict[str, Any]]], root: str | None = None
) -> bytes:
    """The content of an index file, from the names of the shards and the rows of each.

    `root` is the address of the shards, where the index does not lie beside them.
    """
    flat = [row | {"shard": number} for number, part in enumerate(rows) for row in part]
    columns: dict[str, np.ndarray] = {
        name: np.array([row[name] for row in flat], dtype=kind) for name, kind in COLUMNS.items()
    }
    for name in TEXTS:
        encoded = [str(row[name]).encode() for row in flat]
        columns[name] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        columns[f"{name}_end"] = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    # One entry of metadata: the order of several is random.
    metadata = {"format": FORMAT, "shards": list(shards)} | ({} if root is None else {"root": root})
    return save(columns, {METADATA: json.dumps(metadata)})


class ShardSet:
    """The samples of a folder of shards, by number, in any process. Raises ValueError without valid index."""

    def __init__(self, address: str) -> None:
        self.address = self._root = address.rstrip("/")
        try:
            content = self._fetch(INDEX)
        except OSError as error:
            raise ValueError(
                f"{self.address} has no readable {INDEX} ({first_line(error)}); make one by {COMMAND}."
            ) from None
        except ImportError as error:
            raise ValueError(f"Reading {self.address} needs another package: {error}.") from None
        try:
            columns = load(content)
            header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            metadata = parse_json(header[METADATA])
            self.shards: list[str] = metadata["shards"]
            self._root = str(metadata.get("root", self.address))
            self._columns = {name: columns[name] for name in (*COLUMNS, *TEXTS, *(f"{t}_end" for t in TEXTS))}
            _check_columns(self._columns, self.shards)
        except (SafetensorError, KeyError, ValueError, TypeError):
            raise ValueError(f"{self.address}/{INDEX} is damaged; make it again by {COMMAND}.") from None
        if (found := metadata.get("format")) != FORMAT:
            raise ValueError(
                f"{self.address}/{INDEX} must have format {FORMAT}, got {found}; make it again by {COMMAND}."
            )

    def __len__(self) -> int:
        return len(self._columns["shard"])

    def column(self, name: str) -> np.ndarray:
        """One of `COLUMNS`: a value for every sample."""
        return self._columns[name]

    def name(self, number: int) -> str:
        return self._text("name", number)

    def info(self, number: int) -> SampleInfo:
        names = [name for name in COLUMNS if name not in ("shard", "offset", "size")]
        values = {name: self._columns[name][number].item() for name in names}
        return SampleInfo(name=self.name(number), caption=self._text("caption", number), **values)

    def samples_in(self, shard: str) -> range:
        """The numbers of the samples in one shard, in their order."""
        number = self.shards.index(shard)
        first, last = np.searchsorted(self._columns["shard"], [number, number + 1])
        return range(int(first), int(last))

    def read(self, number: int) -> Blob:
        """The file of sample `number`. Raises MissingFileError without its shard, VideoError when cut off."""
        shard = self.shards[int(self._columns["shard"][number])]
        start, size = int(self._columns["offset"][number]), int(self._columns["size"][number])
        name = f"{self.address}/{shard}/{self.name(number)}"
        file = Path(self._root) / shard
        if file.is_file() and file.stat().st_size < start + size:  # before memory is taken
            raise VideoError(f"{name} is cut off; copy the shard again.")
        try:
            content = self._fetch(shard, start, start + size)
        except VideoError:  # a timeout
            raise
        except Exception as error:  # what a remote address raises is up to the package that reads it
            raise MissingFileError(f"{name} can't be read ({first_line(error)}); check the shard.") from None
        if len(content) != size:
            raise VideoError(f"{name} is cut off; copy the shard again.")
        return Blob(name, content)

    def _fetch(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        # Get the file system each time (fsspec caches it): some can't be used after a fork.
        files, root = fsspec.core.url_to_fs(self._root)
        return bytes(files.cat_file(f"{str(root).rstrip('/')}/{name}", start=start, end=end))

    def _text(self, column: str, number: int) -> str:
        ends = self._columns[f"{column}_end"]
        start = int(ends[number - 1]) if number else 0
        return self._columns[column][start : int(ends[number])].tobytes().decode()


def _check_columns(columns: dict[str, np.ndarray], shards: Any) -> None:
    """Raise ValueError unless the columns are those of the samples in a list of shards."""
    count, ends = len(columns["shard"]), {name: columns[f"{name}_end"] for name in TEXTS}
    kinds = {**COLUMNS, **{f"{name}_end": np.int64 for name in TEXTS}}
    facts: list[Any] = [isinstance(shards, list) and all(isinstance(name, str) for name in shards)]
    facts += [columns[name].shape == (count,) and columns[name].dtype == kind for name, kind in kinds.items()]
    facts += [columns[name].ndim == 1 and columns[name].dtype == np.uint8 for name in TEXTS]
    if all(facts):
        facts += [(np.diff(end, prepend=0) >= 0).all() for end in ends.values()]
        facts += [len(columns[name]) == end[-1:].sum() for name, end in ends.items()]
        facts += [(columns[name] > 0).all() for name in ("frames", "frame_rate", "width", "height")]
        facts += [(columns[name] >= 0).all() for name in ("shard", "offset", "size", "seconds")]
        facts += [(columns["shard"] < len(shards)).all()]
    if not all(facts):
        raise ValueError("its columns do not fit")


def is_shard_set(address: str) -> bool:
    """True for a remote address, and for a folder with an index."""
    return "://" in address or (Path(address) / INDEX).is_file()
