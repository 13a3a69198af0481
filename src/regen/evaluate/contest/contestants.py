"""What takes part in an evaluation: a model, or a folder of finished reconstructions of the same clips."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import Embedder
from regen.codec.sessions import DecodeOptions
from regen.data.video import VideoReader, find_media
from regen.embedders.regen import AutoencoderRegen
from regen.evaluate.compression import compression
from regen.evaluate.contest.clip_list import Clip, clip_label, hash_file
from regen.evaluate.contest.report_folder import ORIGINAL, label_of
from regen.evaluate.cost import Stopwatch
from regen.evaluate.peers import load_contestant
from regen.evaluate.peers.classes import LTX2DiffusionPeer
from regen.evaluate.peers.peer import Peer
from regen.evaluate.quality import Pair, reconstructed
from regen.pretrained import weights_hash

Frames = Iterable[UInt8[Tensor, "h w 3"]]


@dataclass(frozen=True)
class Entry:
    """A contestant by its name: a model, or finished reconstructions where there is a `folder`.

    `model` is what loads it, where that is not the name.
    """

    name: str
    folder: Path | None = None
    model: str | None = None

    @classmethod
    def of_model(cls, model: str) -> "Entry":
        """A model by what a user calls it, or NAME=FOLDER.

        Of a local folder only its own name is told, not where it lies.
        """
        name, equals, folder = model.partition("=")
        if equals and name and Path(folder).is_dir():
            return cls(name, model=folder)
        path = Path(model)
        if not path.is_dir():
            return cls(model)
        path = path.resolve()
        return cls(path.parent.name if path.name == "model" else path.name, model=model)

    def __post_init__(self) -> None:
        if self.label == ORIGINAL or not self.label.strip("."):
            raise ValueError(f"A report can't have a model called {self.name!r}; give another name or path.")
        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(f"There is no folder {self.folder} of reconstructions; check --reconstructions.")

    @property
    def label(self) -> str:
        """The name of its folders in the report."""
        return label_of(self.name)


class Watches:
    """Seconds inside a model."""

    def __init__(self) -> None:
        self.encoding, self.decoding = Stopwatch(), Stopwatch()


@runtime_checkable
class Contestant(Protocol):
    """Answers clips."""

    @property
    def ratio(self) -> int | None:
        """k, nominally; None where nobody knows, as for the next one."""
        ...

    @property
    def chunk_frames(self) -> int | None: ...

    @property
    def takes_steps(self) -> bool:
        """Whether more steps give another reconstruction."""
        ...

    def weights(self, clip: Clip) -> str:
        """A hash of what the reconstruction of a clip follows from."""
        ...

    def pairs(self, clip: Clip, frames: Frames, options: DecodeOptions, watches: Watches) -> Iterator[Pair]:
        """The `frames` of a clip with their reconstructions, in order, any number at a time."""
        ...

    def compression(self, height: int, width: int) -> dict[str, Any]:
        """The fields of `regen.evaluate.compression.Compression`; none where nobody knows."""
        ...


class ModelContestant:
    """A model that encodes and decodes."""

    def __init__(self, name: str, model: Embedder) -> None:
        self.model = model
        self.ratio, self.chunk_frames = model.temporal_compression_ratio, model.chunk_frames
        self.takes_steps = isinstance(model, AutoencoderRegen | LTX2DiffusionPeer)
        self._weights = _weights_of(name, model)
        self._compression: dict[tuple[int, int], dict[str, Any]] = {}

    def weights(self, clip: Clip) -> str:
        return self._weights

    def pairs(self, clip: Clip, frames: Frames, options: DecodeOptions, watches: Watches) -> Iterator[Pair]:
        return reconstructed(self.model, frames, options, watches.encoding, watches.decoding)

    def compression(self, height: int, width: int) -> dict[str, Any]:
        if (height, width) not in self._compression:
            self._compression[height, width] = asdict(compression(self.model, height, width))
        return self._compression[height, width]


class FinishedContestant:
    """Reconstructions that were made elsewhere: one file per clip, of the clip's name and the size measured.

    Raises ValueError when one is missing.
    """

    ratio = chunk_frames = None
    takes_steps = False

    def __init__(self, folder: Path, clips: Iterable[Clip], max_frames: int | None) -> None:
        self.max_frames = max_frames
        paths = {clip_label(path.relative_to(folder).as_posix()): path for path in find_media([folder])}
        self._paths: dict[str, Path] = {}
        for clip in clips:
            if clip.label not in paths:
                raise ValueError(
                    f"{folder} has no reconstruction of {clip.name}; give one file per clip, of its name."
                )
            self._paths[clip.name] = paths[clip.label]

    def weights(self, clip: Clip) -> str:
        return hash_file(self._paths[clip.name])

    def pairs(self, clip: Clip, frames: Frames, options: DecodeOptions, watches: Watches) -> Iterator[Pair]:
        """Raises ValueError when the number or the size of the frames differs."""
        path, number = self._paths[clip.name], 0
        with VideoReader(path) as reader:
            others = (frame.image for frame in islice(reader, self.max_frames))
            for original in frames:
                other = next(others, None)
                if other is None:
                    raise _unequal(path, number, clip)
                if other.shape != original.shape:
                    sides = [f"{shape[0]}x{shape[1]}" for shape in (other.shape, original.shape)]
                    raise ValueError(
                        f"{path} has {sides[0]} pixels (height x width) and {clip.name} is measured at "
                        f"{sides[1]}; give reconstructions of that size."
                    )
                yield original[None], other[None]
                number += 1
            if more := sum(1 for _ in others):
                raise _unequal(path, number + more, clip)

    def compression(self, height: int, width: int) -> dict[str, Any]:
        return {}


def enter(
    entry: Entry, clips: Iterable[Clip], max_frames: int | None, device: torch.device, dtype: torch.dtype
) -> Contestant:
    """Make ready what an entry stands for; ValueError, one sentence, when it is not there."""
    if entry.folder is None:
        model = entry.model or entry.name
        return ModelContestant(model, load_contestant(model, device, dtype))
    return FinishedContestant(entry.folder, clips, max_frames)


def _weights_of(name: str, model: Embedder) -> str:
    """16 digits: of a peer over its weights as they were loaded, in their precision."""
    if not isinstance(model, Peer):
        return weights_hash(name)
    digest = hashlib.blake2b(digest_size=8)
    weights = [pair for network in model.networks for pair in sorted(network.state_dict().items())]
    for tensor, values in weights:
        digest.update(f"{tensor} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unequal(path: Path, frames: int, clip: Clip) -> ValueError:
    return ValueError(
        f"{path} has {frames} frames and the original {clip.name} has {clip.frames}; "
        "a reconstruction needs as many frames as its original."
    )
