"""Exported latents as a dataset, and the summary of a folder of latents."""

from collections import Counter
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from regen.console import first_line
from regen.corpus.shards import LENGTHS, SEQUENCE, LatentInfo, LatentManifest, ShardRows, damaged
from regen.latents import Latents

WHOLE = slice(None)
COLUMN_TYPES = {int: np.int32, float: np.float64}
NUMBERS = {one.name: COLUMN_TYPES[one.type] for one in fields(LatentInfo) if one.type in COLUMN_TYPES}
TEXTS = [one.name for one in fields(LatentInfo) if one.type is str]


class LatentDataset(Dataset):
    """The samples of a folder made by `regen latents export`, in the order of the input.

    Facts about the samples are in memory, in columns; latents are read on access. No file stays open, so it
    works in any number of processes. Skipped samples are not counted. Raises ValueError for an export that is
    incomplete or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, LatentManifest.read(folder)
        missing = self.manifest.missing(folder)
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.manifest.shards)} shards of latents in {folder} are missing, "
                f"the first is {missing[0].name}; finish the export by: {self.manifest.command(folder)}"
            )
        self.shard_names = [shard.name for shard in self.manifest.shards]
        shards = [ShardRows.read(folder, name).samples for name in self.shard_names]
        rows = [row for shard in shards for row in shard]
        self._shards = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard) for shard in shards])
        self._numbers = {
            name: np.array([getattr(row, name) for row in rows], dtype=kind) for name, kind in NUMBERS.items()
        }
        texts = {name: [getattr(row, name).encode() for row in rows] for name in TEXTS}
        self._texts = {name: np.frombuffer(b"".join(values), np.uint8) for name, values in texts.items()}
        self._ends = {name: np.cumsum([*map(len, values)], dtype=np.int64) for name, values in texts.items()}

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`latents` (as `decode` takes them), and all fields of `LatentInfo`."""
        return vars(self.info(index)) | {"latents": self.latents(index).for_decoder()}

    def info(self, index: int) -> LatentInfo:
        """Facts about a sample. Raises IndexError when there is none."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no sample {index} among {len(self)}.")
        values: dict[str, Any] = {name: self._numbers[name][index].item() for name in NUMBERS}
        return LatentInfo(**values | {name: self._text(name, index) for name in TEXTS})

    def column(self, name: str) -> np.ndarray:
        """A number of `LatentInfo`, such as `chunks` or `label`, of all samples."""
        return self._numbers[name]

    def name(self, index: int) -> tuple[str, str]:
        """The name of a sample's shard, and its key there."""
        return self.shard_names[self._shards[index]], self._text("key", index)

    def captions(self, shard: int) -> list[str]:
        """The captions of `manifest.shards[shard]`, in order; "" for none."""
        first, end = np.searchsorted(self._shards, (shard, shard + 1))
        return [self._text("caption", index) for index in range(first, end)]

    def latents(self, index: int, chunks: slice = WHOLE) -> Latents:
        """The chunks of a sample, or these, as a batch. Raises ValueError for a damaged or missing file."""
        assert chunks.step in (None, 1), chunks
        name = self.shard_names[self._shards[index]]
        try:
            with safe_open(self.folder / f"{name}.safetensors", framework="pt") as file:
                key = self._text("key", index)
                grid = file.get_slice(key)[chunks]
                if grid.ndim != 5 or not grid.is_floating_point():
                    raise ValueError(f"{key} is not a latent")
                if self._numbers["sequence_length"][index] < 0:
                    return Latents.of(grid)
                return Latents.from_flat(grid, *_sequence(file, key, chunks))
        except (SafetensorError, OSError, ValueError, IndexError) as error:
            raise damaged(self.folder, name, f"{name}.safetensors: {first_line(error)}") from None

    def require_model(self, weights: str) -> None:
        """Raise ValueError unless the latents are of the model whose weights have this hash."""
        if weights != self.manifest.weights:
            raise ValueError(
                f"The latents in {self.folder} are of {self.manifest.model} (hash {self.manifest.weights}), "
                f"got a model with hash {weights}; use that model, or export the latents again."
            )

    def _text(self, column: str, index: int) -> str:
        ends = self._ends[column]
        start = int(ends[index - 1]) if index else 0
        return self._texts[column][start : int(ends[index])].tobytes().decode()


def _sequence(
    file: safe_open, key: str, chunks: slice
) -> tuple[Float[Tensor, "c _"], Int64[Tensor, "chunks r"]]:
    """1D latents of some chunks of a sample, read alone, and their lengths."""
    lengths, stored = file.get_tensor(key + LENGTHS), file.get_slice(key + SEQUENCE)
    count = stored.get_shape()[0]
    if lengths.ndim != 2 or lengths.dtype != torch.int64 or lengths.min() < 0 or lengths.max() > count:
        raise ValueError(f"{key}{LENGTHS} are no lengths")
    if lengths.sum() != count:
        raise ValueError(f"{key}{LENGTHS} do not fit its 1D latents")
    start = int(lengths[: chunks.indices(len(lengths))[0]].sum())
    lengths = lengths[chunks].clone()
    return stored[start : start + int(lengths.sum())].mT, lengths


@dataclass(frozen=True)
class CorpusSummary:
    """Figures of a folder of latents, complete or not.

    `shapes` counts samples by the shape of their grid ("chunks x channels x frames x height x width"), the
    most frequent ones. `mean_sequence_length` is the mean number of 1D latents of a chunk, and
    `sequence_length_fraction` that number relative to the maximum, which is the number of grid latents; None
    for models without. `command` finishes an incomplete export.
    """

    folder: str
    model: str
    weights: str
    settings: dict[str, str | int | None]
    shards: int
    missing_shards: int
    samples: int
    images: int
    frames: int
    hours: float
    megabytes: float
    captions: int
    classes: int
    shapes: dict[str, int]
    mean_sequence_length: float | None
    sequence_length_fraction: float | None
    skipped: dict[str, str]
    command: str | None


def summarize(folder: Path) -> CorpusSummary:
    """The summary of a folder, from its manifest and rows. Raises ValueError when one is damaged."""
    manifest = LatentManifest.read(folder)
    missing = manifest.missing(folder)
    names = [shard.name for shard in manifest.shards if shard not in missing]
    parts = [ShardRows.read(folder, name) for name in names]
    rows = [row for part in parts for row in part.samples]
    channels, scale = manifest.latent_channels, manifest.spatial_compression_ratio
    grids = [(row.latent_frames, -(-row.height // scale), -(-row.width // scale)) for row in rows]
    shapes = Counter(
        f"{row.chunks}x{channels}x{n}x{y}x{x}" for row, (n, y, x) in zip(rows, grids, strict=True)
    )
    hybrid = [(row, prod(grid)) for row, grid in zip(rows, grids, strict=True) if row.sequence_length >= 0]
    length, chunks = sum(row.sequence_length for row, _ in hybrid), sum(row.chunks for row, _ in hybrid)
    maximum = sum(row.chunks * positions for row, positions in hybrid)
    return CorpusSummary(
        folder=str(folder),
        model=manifest.model,
        weights=manifest.weights,
        settings=manifest.settings,
        shards=len(manifest.shards),
        missing_shards=len(missing),
        samples=len(rows),
        images=sum(row.frames == 1 for row in rows),
        frames=sum(row.frames for row in rows),
        hours=sum(row.frames / row.frame_rate for row in rows if row.frames > 1) / 3600,
        megabytes=sum(part.bytes for part in parts) / 1e6,
        captions=sum(bool(row.caption) for row in rows),
        classes=len({row.label for row in rows} - {-1}),
        shapes=dict(shapes.most_common(3)),
        mean_sequence_length=length / chunks if hybrid else None,
        sequence_length_fraction=length / maximum if hybrid else None,
        skipped={key: reason for part in parts for key, reason in part.skipped.items()},
        command=manifest.command(folder) if missing else None,
    )
