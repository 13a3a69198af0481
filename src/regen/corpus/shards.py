"""A folder of latents: what `regen latents export` writes, and what `LatentDataset` reads.

    manifest.json      the model, its normalisation, the settings, and the input shards
    NAME.safetensors   one tensor for each sample of the input shard NAME, under the sample's key
    NAME.json          its samples in their order (see `LatentInfo`), and those that were left out, with why

A tensor has the shape "chunks channels frames height width": chunk by chunk what the model's `encode` gives,
normalised, with as many latent frames as a chunk has (2 for REGEN; 1 for an image, which is one chunk). A
short last chunk repeats its last frame. NAME.json is written last: where it is, the shard is whole.

Of a model that has 1D latents, too (One-DVA), the tensor KEY has the structural ones, and beside it are

    KEY#sequence       "tokens channels": the 1D latents that are kept, chunk after chunk and in each region
                       after region, without padding
    KEY#lengths        "chunks regions": how many of them belong to each region of each chunk (int64)

A key that `regen` makes has letters, digits, - and _ only, so no sample can be called KEY#lengths.
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from regen.latents import Latents

FORMAT = 1
MANIFEST = "manifest.json"
SEQUENCE, LENGTHS = "#sequence", "#lengths"  # behind a key: the further tensors of hybrid latents
TYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
ENTRY_BYTES = 256  # of the header for one tensor, beside its name: more than it can need


@dataclass(frozen=True)
class LatentInfo:
    """What is known of a sample: `frames` frames of `height` x `width` pixels, `frame_rate` a second.

    `chunks` of `latent_frames` each stand for them, the last chunk for `last_frames` frames. The source had
    `source_height` x `source_width` pixels. `label` is a class or -1. An image has one frame, one chunk
    and one latent frame. `tokens` 1D latents are kept of all chunks together, -1 where the model has none.
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
    tokens: int = -1

    def row(self) -> dict[str, Any]:
        """As it stands in NAME.json."""
        row = asdict(self)
        if self.tokens < 0:
            del row["tokens"]
        return row


@dataclass(frozen=True)
class InputShard:
    """A shard of the input: `name` is that of its latents, `source` where it lies, for people.

    `digest` follows from the names and sizes of its `samples` files.
    """

    name: str
    source: str
    samples: int
    digest: str


@dataclass(frozen=True)
class LatentManifest:
    """What all latents of a folder have in common.

    `weights` is the hash of the model's weights, `model` the name by which it was asked for, `model_class`
    its class. The latents are normalised: (raw - `latents_mean`) / `latents_std`, whose rows are the first
    latent frame of a chunk and the others; for One-DVA the structural and the 1D latents. `arguments` are
    those of `regen latents export`, without --out; `classes` are the numbers of the classes by name, as far
    as they have names.
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

    @classmethod
    def read(cls, folder: Path) -> "LatentManifest":
        """Raises ValueError when the folder holds no latents, or of another version."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("format")
            shards = [InputShard(**shard) for shard in content.pop("shards")]
            manifest = cls(**content, shards=shards) if version == FORMAT else None
        except OSError as error:
            raise ValueError(
                f"{folder} holds no latents ({path.name}: {error.strerror}); "
                "give a folder made by regen latents export."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is damaged; export the latents to another folder.") from None
        if manifest is None:
            raise ValueError(
                f"{folder} has version {version} of the format and this program reads version {FORMAT}; "
                "use the release of regen that wrote it."
            )
        return manifest

    def text(self) -> str:
        """The content of manifest.json."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1, allow_nan=False) + "\n"

    def missing(self, folder: Path) -> list[InputShard]:
        """The input shards whose latents are not there yet."""
        return [shard for shard in self.shards if not is_complete(folder, shard.name)]

    def command(self, folder: Path) -> str:
        """The command that finishes the export."""
        return shlex.join(["regen", "latents", "export", *self.arguments, "--out", str(folder)])


@dataclass(frozen=True)
class ShardRows:
    """The content of NAME.json; `bytes` is the size of NAME.safetensors, `left_out` tells why by key."""

    samples: list[LatentInfo]
    left_out: dict[str, str]
    bytes: int

    @classmethod
    def read(cls, folder: Path, name: str) -> "ShardRows":
        """Raises ValueError when it, or the file of the latents, is damaged or gone."""
        path = folder / f"{name}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = cls(
                [LatentInfo(**row) for row in content["samples"]], content["left_out"], content["bytes"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(damaged(folder, name, f"{name}.json can't be read")) from None
        latents = folder / f"{name}.safetensors"
        if not latents.is_file() or latents.stat().st_size != rows.bytes:
            reason = "is cut off" if latents.is_file() else "is gone"
            raise ValueError(damaged(folder, name, f"{latents.name} {reason}"))
        return rows


def is_complete(folder: Path, name: str) -> bool:
    """Whether the latents of the input shard `name` are there."""
    return (folder / f"{name}.json").is_file()


def damaged(folder: Path, name: str, reason: str) -> str:
    """What to tell of a damaged shard of latents."""
    return (
        f"The latents in {folder} are damaged ({reason}); delete {name}.json there and run their "
        "regen latents export again."
    )


class LatentShardWriter:
    """Writes NAME.safetensors and NAME.json into a folder, sample by sample. A context manager.

    Only what is added is in memory, not the shard. `keys` are those of all samples that may come: they
    tell how much room the header needs. `hybrid`: the samples have 1D latents and so three tensors each.
    Both files are whole when the block ends without an error.
    """

    def __init__(self, folder: Path, name: str, keys: Sequence[str], hybrid: bool = False) -> None:
        self.latents, self.rows = folder / f"{name}.safetensors", folder / f"{name}.json"
        parts = ("", SEQUENCE, LENGTHS) if hybrid else ("",)
        names = [key + part for key in keys for part in parts]
        room = sum(ENTRY_BYTES + len(json.dumps(name)) for name in names) + ENTRY_BYTES
        self._hybrid = hybrid
        self._room = -(-room // 8) * 8  # the values begin at a multiple of 8 bytes
        self._header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._samples: list[LatentInfo] = []
        self._left_out: dict[str, str] = {}
        self._bytes = 0

    def __enter__(self) -> "LatentShardWriter":
        self._file = self.latents.open("wb")
        self._file.seek(8 + self._room)
        return self

    def add(self, facts: LatentInfo, latents: Latents) -> None:
        """Append a sample: the latents of all its chunks, in their own precision."""
        assert latents.shape[0] == facts.chunks and latents.shape[2] == facts.latent_frames
        assert latents.has_sequence == self._hybrid == (facts.tokens >= 0), facts.key
        self._append(facts.key, latents.grid)
        if latents.has_sequence:
            self._append(facts.key + SEQUENCE, latents.flat().mT)
            self._append(facts.key + LENGTHS, latents.lengths)
        self._samples.append(facts)

    def leave_out(self, key: str, reason: str) -> None:
        """Note that a sample could not be read."""
        self._left_out[key] = reason

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
        samples = ",\n".join(json.dumps(facts.row(), allow_nan=False) for facts in self._samples)
        rest = json.dumps({"left_out": self._left_out, "bytes": 8 + self._room + self._bytes}, indent=1)
        with self.rows.open("w", encoding="utf-8") as file:
            file.write(f'{{"samples": [\n{samples}\n],\n{rest[1:].lstrip()}\n')
            file.flush()
            os.fsync(file.fileno())

    def publish(self, folder: Path) -> None:
        """Give both files, which are whole, their names in `folder`; the one that says so comes last."""
        for path in (self.latents, self.rows):
            path.replace(folder / path.name)
