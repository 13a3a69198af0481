"""The samples of shard sets and folders, decoded into chunks of frames."""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

import fsspec
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.corpus.shards import InputShard
from regen.curate.sources import list_sources, read_sidecars
from regen.data.shards import ShardSet, is_shard_set
from regen.io import parse_json
from regen.media.files import Frame, MissingFileError, Source, VideoError
from regen.media.pixels import Size, resize_center_crop
from regen.media.prefetch import prefetch
from regen.media.reader import TIME_TOLERANCE, VideoReader
from regen.workers import JobError

Item = TypeVar("Item")
CLASSES = "classes.json"  # in a folder of shards or files: class indices by name
PREFETCH_CHUNKS = 2  # of each video


@dataclass(frozen=True)
class CorpusSample:
    """A video or image: sample `number` of source number `source`, where its `key` is unique."""

    source: int
    number: int
    key: str


class Corpus:
    """All samples of shard sets and folders, in shards. Holds no open file and can be pickled.

    A shard set has a shard for each tar file. A folder is split into shards of `files_per_shard` files,
    sorted by name, with the keys of `regen shards build`. Raises ValueError or VideoError for a source that
    is missing or empty.
    """

    def __init__(self, data: Sequence[str], files_per_shard: int) -> None:
        if not data:
            raise ValueError("--data must name at least one folder of videos or shards.")
        self._sources = [_open_source(address, files_per_shard) for address in data]
        self.shards: list[InputShard] = []
        self._ranges: list[tuple[int, range]] = []
        self.classes: dict[str, int] = {}
        for index, (address, source) in enumerate(zip(data, self._sources, strict=True)):
            for shard, numbers in source.shards():
                name = f"{index:02}-{shard.name}" if len(data) > 1 else shard.name
                self.shards.append(InputShard(name, shard.source, shard.samples, shard.digest))
                self._ranges.append((index, numbers))
            for name, label in source.classes.items():
                if self.classes.setdefault(name, label) != label:
                    raise ValueError(
                        f"The class {name!r} must have one index, got {label} in {address} and "
                        f"{self.classes[name]} before; export to several folders."
                    )

    def samples(self, shard: int) -> list[CorpusSample]:
        """The samples of a shard, in order."""
        source, numbers = self._ranges[shard]
        return [CorpusSample(source, number, self._sources[source].key(number)) for number in numbers]

    def open(self, sample: CorpusSample) -> tuple[Source, str, int]:
        """The file, caption, and class or -1 of a sample. Raises MissingFileError or another VideoError."""
        return self._sources[sample.source].open(sample.number)


class _ShardSetSource:
    def __init__(self, address: str) -> None:
        self._set = ShardSet(address)
        self.classes = _read_classes(self._set.address)

    def shards(self) -> Iterator[tuple[InputShard, range]]:
        columns = [self._set.column(name) for name in ("offset", "size", "frames", "label")]
        for shard in self._set.shards:
            numbers = self._set.samples_in(shard)
            rows = b"".join(column[numbers.start : numbers.stop].tobytes() for column in columns)
            name = PurePosixPath(shard).with_suffix("").as_posix().replace("/", "--")
            yield InputShard(name, f"{self._set.address}/{shard}", len(numbers), _digest(rows)), numbers

    def key(self, number: int) -> str:
        return self._set.name(number).rpartition(".")[0]

    def open(self, number: int) -> tuple[Source, str, int]:
        info = self._set.info(number)
        try:
            return self._set.read(number), info.caption, info.label
        except VideoError as error:  # the shard is at fault, not the sample
            raise MissingFileError(str(error)) from None


class _FolderSource:
    def __init__(self, folder: Path, files_per_shard: int) -> None:
        self.classes = _read_classes(str(folder))
        self._files, self._files_per_shard = list_sources([folder]), files_per_shard

    def shards(self) -> Iterator[tuple[InputShard, range]]:
        for index, start in enumerate(range(0, len(self._files), self._files_per_shard)):
            files = self._files[start : start + self._files_per_shard]
            rows = "".join(f"{file.key} {_size(file.path)}\n" for file in files)
            source = str(files[0].path) + (f" to {files[-1].path.name}" if len(files) > 1 else "")
            shard = InputShard(f"{index:05}", source, len(files), _digest(rows.encode()))
            yield shard, range(start, start + len(files))

    def key(self, number: int) -> str:
        return self._files[number].key

    def open(self, number: int) -> tuple[Source, str, int]:
        path = self._files[number].path
        try:
            return path, *read_sidecars(path)
        except JobError as error:
            raise VideoError(f"{error}.") from None


def _open_source(address: str, files_per_shard: int) -> _ShardSetSource | _FolderSource:
    if address.endswith(".tar"):
        raise ValueError(f"{address} is one shard; give its folder, with the index.")
    without_index = "://" not in address and any(Path(address).glob("*.tar"))
    if is_shard_set(address) or without_index:  # ShardSet raises, with how to make an index
        return _ShardSetSource(address)
    return _FolderSource(Path(address), files_per_shard)


def _read_classes(address: str) -> dict[str, int]:
    path = f"{address}/{CLASSES}"
    files, _ = fsspec.core.url_to_fs(address)
    try:
        return {str(name): int(label) for name, label in parse_json(files.cat_file(path)).items()}
    except (FileNotFoundError, NotADirectoryError):  # the address of one file has none
        return {}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f'{path} must hold class indices by name, such as {{"cat": 0}}.') from None


def _size(path: Path) -> int:
    """Bytes of a file; 0 of a link to nowhere."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@dataclass(frozen=True)
class FrameSpec:
    """Which frames of a video are embedded, and at which size.

    Frames are resized and cropped to `size`; by default their sides are cropped to multiples of `multiple`.
    Frame rate `fps`, by default the video's own; then the first `frames`, by default all; `chunk_frames` per
    chunk.
    """

    size: Size | None
    fps: Fraction | None
    frames: int | None
    chunk_frames: int
    multiple: int

    def resize(self, frame: UInt8[Tensor, "h w 3"]) -> UInt8[Tensor, "h2 w2 3"]:
        """A frame at the size of its latents. Raises VideoError when it is too small."""
        return resize_center_crop(frame, self.size) if self.size else _crop(frame, self.multiple)


@dataclass(frozen=True)
class Chunk:
    """The next frames of a sample, `chunk_frames` or fewer at its end, and what is known of the sample."""

    frames: UInt8[np.ndarray, "t h w 3"]
    frame_rate: float
    source_height: int
    source_width: int
    caption: str
    label: int


@dataclass(frozen=True)
class Skipped:
    """Why a sample can't be embedded; the last item of its stream."""

    reason: str


Decoded = Chunk | Skipped


def decode_sample(corpus: Corpus, sample: CorpusSample, spec: FrameSpec) -> Iterator[Decoded]:
    """The chunks of a sample. Raises MissingFileError when its shard or its folder can't be opened."""
    source: Source | None = None
    try:
        source, caption, label = corpus.open(sample)
        with VideoReader(source, threads=1) as reader:
            info = reader.info
            rate = info.frame_rate if info.is_image or spec.fps is None else spec.fps
            known = float(rate), info.height, info.width, caption, label
            frames = frames_of(reader, spec)
            while pending := [frame.numpy() for frame in islice(frames, spec.chunk_frames)]:
                yield Chunk(np.stack(pending), *known)
            if reader.damage is not None:
                yield Skipped(f"{reader.path}: {reader.damage}.")
    except MissingFileError as error:
        if not isinstance(source, Path) or not source.parent.is_dir():
            raise  # the shard or the whole folder is at fault, not the sample
        yield Skipped(str(error))
    except VideoError as error:
        yield Skipped(str(error))


def frames_of(reader: VideoReader, spec: FrameSpec) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames of a video that are embedded, one by one.

    Raises VideoError when the picture is too small or changes its size.
    """
    images: Iterable[UInt8[Tensor, "h w 3"]] = (frame.image for frame in reader)
    if spec.fps is not None and not reader.info.is_image:
        images = at_rate(reader, spec.fps, reader.info.frame_rate)
    shape: torch.Size | None = None
    for frame in islice(images, spec.frames):
        image = spec.resize(frame)
        shape = shape or image.shape
        if image.shape != shape:
            raise VideoError("The picture changes its size within the video; give one by --size HxW.")
        yield image


def at_rate(frames: Iterable[Frame], rate: Fraction, own: Fraction) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames shown at evenly spaced times, `rate` per second; `own` is the average rate of `frames`.

    The times are in the middle of a frame's duration, as in training and `VideoReader.read_at`, so that
    rounded timestamps do no harm.
    """
    half, count = 0.5 / float(own), 0
    shown: Frame | None = None
    for frame in frames:
        while shown is not None and count / rate + half + TIME_TOLERANCE < frame.time:
            yield shown.image
            count += 1
        shown = frame
    assert shown is not None
    while count / rate < shown.time + 2 * half - TIME_TOLERANCE:
        yield shown.image
        count += 1


@contextmanager
def prefetch_streams(streams: Iterable[Iterable[Item]], width: int) -> Iterator[Iterator[Iterator[Item]]]:
    """In the block: the items in order, from `width` streams in threads, each PREFETCH_CHUNKS ahead."""
    pending = iter(streams)
    begun: deque[tuple[ExitStack, Iterator[Item]]] = deque()

    def each() -> Iterator[Iterator[Item]]:
        while True:
            for stream in islice(pending, width - len(begun)):
                threads = ExitStack()
                begun.append((threads, threads.enter_context(prefetch(stream, PREFETCH_CHUNKS))))
            if not begun:
                return
            yield begun[0][1]
            begun.popleft()[0].close()

    try:
        yield each()
    finally:
        for threads, _ in begun:
            threads.close()


def _crop(frame: UInt8[Tensor, "h w 3"], multiple: int) -> UInt8[Tensor, "h2 w2 3"]:
    """The centre of a frame, with sides that are multiples of `multiple`."""
    height, width = (side // multiple * multiple for side in frame.shape[:2])
    if min(height, width) == 0:
        size = f"{frame.shape[1]}x{frame.shape[0]}"
        raise VideoError(f"The picture must have at least {multiple}x{multiple} pixels, got {size}.")
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
