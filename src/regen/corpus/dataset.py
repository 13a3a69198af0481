"""Exported latents as a dataset: any sample, and any chunks of it, in any order and any process."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from regen.console import first_line
from regen.corpus.shards import LENGTHS, SEQUENCE, LatentInfo, LatentManifest, ShardRows, damaged
from regen.latents import Latents

WHOLE = slice(None)
TEXTS = ("key", "caption")
NUMBERS = {
    "frames": np.int32,
    "frame_rate": np.float64,
    "height": np.int32,
    "width": np.int32,
    "source_height": np.int32,
    "source_width": np.int32,
    "chunks": np.int32,
    "latent_frames": np.int32,
    "last_frames": np.int32,
    "label": np.int32,
    "tokens": np.int32,
}


class LatentDataset(Dataset):
    """The samples of a folder made by `regen latents export`, by number: in the order of the input.

    `manifest` tells of the model and the settings. What is known of the samples is in memory, in columns;
    latents are read when they are asked for. A dataset holds no open file and may be used in any number of
    processes, so a `DataLoader` can have any number of workers. Samples that were left out are not counted.

    Raises ValueError when the export is not complete, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, LatentManifest.read(folder)
        missing = self.manifest.missing(folder)
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self.manifest.shards)} shards of latents in {folder} are missing, "
                f"{missing[0].name} is the first; finish the export by: {self.manifest.command(folder)}"
            )
        self._names = [shard.name for shard in self.manifest.shards]
        parts = [_Columns(ShardRows.read(folder, name).samples) for name in self._names]
        counts = [len(part.numbers["chunks"]) for part in parts]
        self._shards = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        self._numbers = {name: _joined([part.numbers[name] for part in parts]) for name in NUMBERS}
        self._texts = {name: _joined([part.texts[name] for part in parts]) for name in TEXTS}
        lengths = {name: _joined([part.lengths[name] for part in parts]) for name in TEXTS}
        self._ends = {name: np.cumsum(lengths[name], dtype=np.int64) for name in TEXTS}

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Sample `number`: `latents` (as `decode` takes them), and all of `LatentInfo` by name."""
        return vars(self.facts(number)) | {"latents": self.latents(number).for_decoder()}

    def facts(self, number: int) -> LatentInfo:
        """What is known of sample `number`, without its latents. Raises IndexError when there is none."""
        if not 0 <= number < len(self):
            raise IndexError(f"There is no sample {number} among {len(self)}.")
        values: dict[str, Any] = {name: self._numbers[name][number].item() for name in NUMBERS}
        return LatentInfo(**values | {name: self._text(name, number) for name in TEXTS})

    def column(self, name: str) -> np.ndarray:
        """A number of `LatentInfo`, such as `chunks` or `label`, of every sample."""
        return self._numbers[name]

    def captions(self, shard: int) -> list[str]:
        """The captions of all samples of `manifest.shards[shard]` in their order; one without has ""."""
        first, end = np.searchsorted(self._shards, (shard, shard + 1))
        return [self._text("caption", number) for number in range(first, end)]

    def latents(self, number: int, chunks: slice = WHOLE) -> Latents:
        """The latents of sample `number`; of these consecutive `chunks` alone where some are named.

        They are a batch of chunks. Raises ValueError when the file is damaged or gone.
        """
        assert chunks.step in (None, 1), chunks
        name = self._names[self._shards[number]]
        try:
            with safe_open(self.folder / f"{name}.safetensors", framework="pt") as file:
                key = self._text("key", number)
                grid = file.get_slice(key)[chunks]
                if self._numbers["tokens"][number] < 0:
                    return Latents.of(grid)
                return Latents.from_flat(grid, *_sequence(file, key, chunks))
        except (SafetensorError, OSError) as error:
            raise ValueError(damaged(self.folder, name, f"{name}.safetensors: {first_line(error)}")) from None

    def require_model(self, weights: str) -> None:
        """Raise ValueError unless the latents are those of the model whose weights have this hash."""
        if weights != self.manifest.weights:
            raise ValueError(
                f"The latents in {self.folder} are those of {self.manifest.model} (hash "
                f"{self.manifest.weights}), not of the model with the hash {weights}; use that model, or "
                "export the latents again."
            )

    def _text(self, column: str, number: int) -> str:
        ends = self._ends[column]
        start = int(ends[number - 1]) if number else 0
        return self._texts[column][start : int(ends[number])].tobytes().decode()


class _Columns:
    """The rows of one shard by column; texts lie end to end."""

    def __init__(self, rows: list[LatentInfo]) -> None:
        self.numbers = {
            name: np.array([getattr(row, name) for row in rows], dtype=kind) for name, kind in NUMBERS.items()
        }
        encoded = {name: [getattr(row, name).encode() for row in rows] for name in TEXTS}
        self.texts = {name: np.frombuffer(b"".join(texts), np.uint8) for name, texts in encoded.items()}
        self.lengths = {name: np.array([*map(len, texts)], np.int64) for name, texts in encoded.items()}


def _sequence(
    file: safe_open, key: str, chunks: slice
) -> tuple[Float[Tensor, "c _"], Int64[Tensor, "chunks r"]]:
    """The 1D latents of these chunks of a sample, which alone are read, and their lengths."""
    lengths = file.get_tensor(key + LENGTHS)
    start = int(lengths[: chunks.indices(len(lengths))[0]].sum())
    lengths = lengths[chunks].clone()
    return file.get_slice(key + SEQUENCE)[start : start + int(lengths.sum())].mT, lengths


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(parts))
