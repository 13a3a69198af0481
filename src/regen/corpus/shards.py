"""A folder of latents: manifest, shards, and their writer.

    manifest.json      the model, its normalisation, the settings, and the input shards
    NAME.safetensors   one tensor for each sample of the input shard NAME, under the sample's key
    NAME.json          its samples in order (see `LatentInfo`), and the skipped ones with reasons

A tensor has the shape "chunks channels frames height width": what the model's `encode` gives for each chunk,
normalised, with the latent frames of a chunk (2 for REGEN; 1 for an image, which is one chunk). A short last
chunk repeats its last frame. NAME.json is written last: where it exists, the shard is complete.

For a model with 1D latents (One-DVA) the tensor KEY has the grid, and there are two more:

    KEY#sequence       "tokens channels": the 1D latents, chunk after chunk and region after region, unpadded
    KEY#lengths        "chunks regions": the number of 1D latents of each region of each chunk (int64)

Keys have letters, digits, - and _ only, so no sample is called KEY#lengths.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from regen.io import check_settings, check_types, parse_json, write_text
from regen.latents import Latents

FORMAT = 1
MANIFEST = "manifest.json"
SEQUENCE, LENGTHS = "#sequence", "#lengths"  # suffixes of the keys of 1D latents
TYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
MAX_NUMBER, SIGNED = 2**31 - 1, ("label", "sequence_length")  # of facts, and those that may be -1
ENTRY_BYTES = 256  # upper bound of a tensor's entry in the header, without its name


@dataclass(frozen=True)
class LatentInfo:
    """Facts about a sample: `frames` frames of `height` x `width` pixels at `frame_rate` per second.

    They are `chunks` chunks of `latent_frames` latent frames each, the last chunk of `last_frames` frames; an
    image has one of each. The source had `source_height` x `source_width` pixels. `label` is a class or -1.
    `sequence_length` is the number of 1D latents of all chunks together, -1 for models without.
    """

    key: str
    frames: int
    frame_rate: float
    height: int
    width: int
    source_height: int
    source_width: int
    chunks: int
    latent_frames: int
    last_frames: int
    caption: str = ""
    label: int = -1
    sequence_length: int = -1

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in vars(self).items():
            if not isinstance(value, str) and not -(name in SIGNED) <= value <= MAX_NUMBER:
                raise ValueError(f"{name} of a sample can't be {value}.")
        if self.frame_rate == 0:
            raise ValueError("The frame rate of a sample must be positive.")

    def row(self) -> dict[str, Any]:
        """The row in NAME.json."""
        return {name: value for name, value in vars(self).items() if (name, value) != ("sequence_length", -1)}


@dataclass(frozen=True)
class InputShard:
    """A shard of the input: `name` of its latents, `source` for people, `digest` of names and sizes."""

    name: str
    source: str
    samples: int
    digest: str


@dataclass(frozen=True)
class LatentManifest:
    """What all latents of a folder share.

    `weights` is the hash of the model's weights, `model` its name and `model_class` its class. The latents
    are normalised: (raw - `latents_mean`) / `latents_std`, with a row for the first latent frame of a chunk
    and one for the others (One-DVA: for the grid and for the 1D latents). `arguments` are those of `regen
    latents export` without --out; `classes` are class indices by name.
    """

    model: str
    model_class: str
    weights: str
    latent_channels: int
    temporal_compression_ratio: int
    spatial_compression_ratio: int
    chunk_frames: int
    latents_mean: list[list[float]]
    latents_std: list[list[float]]
    settings: dict[str, Any]
    arguments: list[str]
    classes: dict[str, int]
    shards: list[InputShard]
    latent_space: dict[str, Any] = field(default_factory=dict)
    """Fields of `embedders.frozen_encoder.LatentSpace`, for decoders; empty in exports that lack it."""

    @classmethod
    def read(cls, folder: Path) -> "LatentManifest":
        """Raises ValueError for a folder without latents, or of another format version."""
        path = folder / MANIFEST
        try:
            content = parse_json(path.read_bytes())
            version = content.pop("format")
            shards = [InputShard(**shard) for shard in content.pop("shards")]
            manifest = cls(**content, shards=shards) if version == FORMAT else None
            for part in (*shards, *filter(None, [manifest])):
                check_types(part)
        except OSError as error:
            raise ValueError(
                f"{folder} holds no latents ({path.name}: {error.strerror}); give a folder of regen latents "
                "export."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is damaged; export the latents to another folder.") from None
        if manifest is None:
            raise ValueError(
                f"The format version of {folder} must be {FORMAT}, got {version}; export it again."
            )
        return manifest

    def text(self) -> str:
        """The content of manifest.json."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1, allow_nan=False) + "\n"

    def check_settings(self, folder: Path, settings: dict[str, Any], model: str, weights: str) -> None:
        """Raise ValueError unless these are the settings of `folder`, and the model, under whatever name."""
        before = self.settings | {"model": f"{self.model} (hash {self.weights})"}
        now = settings | {"model": f"{model} (hash {weights})"}
        if self.weights == weights:
            now["model"] = before["model"]
        check_settings(str(folder), before, now, "give the same again, or another --out")

    def check_data(
        self, folder: Path, shards: Sequence[InputShard], advice: str = "undo it, or give another --out"
    ) -> None:
        """Raise ValueError, with advice, unless these are the input shards of `folder`."""
        before, now = ({shard.name: shard for shard in part} for part in (self.shards, shards))
        for name in sorted(before.keys() | now.keys()):
            if name in before and name in now and before[name].digest == now[name].digest:
                continue
            change = "is missing" if name not in now else "has changed" if name in before else "is new"
            source = (now.get(name) or before[name]).source
            raise ValueError(f"{source} {change} since the latents in {folder} were begun; {advice}.")

    def missing(self, folder: Path) -> list[InputShard]:
        """The input shards without latents."""
        return [shard for shard in self.shards if not is_complete(folder, shard.name)]

    def command(self, folder: Path) -> str:
        """The command that finishes the export."""
        return shlex.join(["regen", "latents", "export", *self.arguments, "--out", str(folder)])


@dataclass(frozen=True)
class ShardRows:
    """The content of NAME.json; `bytes` is the size of NAME.safetensors, `skipped` has reasons by key."""

    samples: list[LatentInfo]
    skipped: dict[str, str]
    bytes: int

    @classmethod
    def read(cls, folder: Path, name: str) -> "ShardRows":
        """Raises ValueError when one of the two files is damaged or missing."""
        path = folder / f"{name}.json"
        try:
            content = parse_json(path.read_bytes())
            samples = [LatentInfo(**row) for row in content["samples"]]
            rows = cls(samples, content["skipped"], content["bytes"])
            check_types(rows)
        except (OSError, ValueError, KeyError, TypeError):
            raise damaged(folder, name, f"{name}.json can't be read") from None
        latents = folder / f"{name}.safetensors"
        if not latents.is_file():
            raise damaged(folder, name, f"{latents.name} is missing")
        if latents.stat().st_size != rows.bytes:
            raise damaged(folder, name, f"{latents.name} is truncated")
        return rows


def is_complete(folder: Path, name: str) -> bool:
    """Whether the latents of the input shard `name` are complete."""
    return (folder / f"{name}.json").is_file()


def damaged(folder: Path, name: str, reason: str) -> ValueError:
    """The error about a damaged shard of latents."""
    return ValueError(
        f"The latents in {folder} are damaged ({reason}); delete {name}.json there and run regen latents "
        "export again."
    )


class LatentShardWriter:
    """Writes NAME.safetensors and NAME.json sample by sample. A context manager.

    Only the current sample is in memory. `keys` are those of all possible samples, which bound the header.
    `has_sequence`: samples have 1D latents, and so three tensors each. Both files are complete when the block
    ends without an error.
    """

    def __init__(self, folder: Path, name: str, keys: Sequence[str], has_sequence: bool = False) -> None:
        self.latents, self.rows = folder / f"{name}.safetensors", folder / f"{name}.json"
        suffixes = ("", SEQUENCE, LENGTHS) if has_sequence else ("",)
        names = [key + suffix for key in keys for suffix in suffixes]
        room = sum(ENTRY_BYTES + len(json.dumps(name)) for name in names) + ENTRY_BYTES
        self._has_sequence = has_sequence
        self._room = -(-room // 8) * 8  # the values begin at a multiple of 8 bytes
        self._header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._samples: list[LatentInfo] = []
        self._skipped: dict[str, str] = {}
        self._bytes = 0

    def __enter__(self) -> "LatentShardWriter":
        self._file = self.latents.open("wb")
        self._file.seek(8 + self._room)
        return self

    def add(self, info: LatentInfo, latents: Latents) -> None:
        """Append a sample: the latents of all its chunks, in their own precision."""
        assert latents.shape[0] == info.chunks and latents.shape[2] == info.latent_frames
        assert latents.has_sequence == self._has_sequence == (info.sequence_length >= 0), info.key
        self._append(info.key, latents.grid)
        if latents.has_sequence:
            self._append(info.key + SEQUENCE, latents.flat().mT)
            self._append(info.key + LENGTHS, latents.lengths)
        self._samples.append(info)

    def skip(self, key: str, reason: str) -> None:
        """Record a sample that could not be read."""
        self._skipped[key] = reason

    def _append(self, name: str, tensor: Tensor) -> None:
        assert name not in self._header, name
        content = tensor.contiguous().flatten().view(torch.uint8).numpy()
        self._file.write(content.data)
        self._header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._bytes, self._bytes + content.nbytes],
        }
        self._bytes += content.nbytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if error is not None:
                return
            header = json.dumps(self._header, separators=(",", ":")).encode().ljust(self._room)
            assert len(header) == self._room, "more samples than keys"
            self._file.seek(0)
            self._file.write(len(header).to_bytes(8, "little") + header)
            self._file.flush()
            os.fsync(self._file.fileno())
        samples = ",\n".join(json.dumps(info.row(), allow_nan=False) for info in self._samples)
        rest = json.dumps({"skipped": self._skipped, "bytes": 8 + self._room + self._bytes}, indent=1)
        write_text(self.rows, f'{{"samples": [\n{samples}\n],\n{rest[1:].lstrip()}\n')

    def publish(self, folder: Path) -> None:
        """Move both files to `folder`, NAME.json last."""
        for path in (self.latents, self.rows):
            path.replace(folder / path.name)
