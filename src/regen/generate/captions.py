"""Embedded captions of latents, or of the media of a post-training.

NAME.text-FINGERPRINT.safetensors, for each shard and text encoder (see `TextEncoderSpec`), has

    states     "tokens d", bf16: hidden states of the tokens of all captions, sample after sample
    lengths    number of tokens of each sample (int64); an empty caption has none

and in its metadata a hash of the captions: when they change, they are embedded again.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from regen.console import OnProgress, first_line
from regen.generate.text import TextEncoder, TextEncoderSpec
from regen.io import atomic_path

BATCH = 64  # captions at a time


@runtime_checkable
class CaptionShards(Protocol):
    """Captions in named shards, such as those of a `LatentDataset`; their embeddings lie in `folder`."""

    folder: Path
    shard_names: list[str]

    def captions(self, shard: int) -> list[str]:
        """The captions of a shard in order; "" for none."""
        ...


def caption_path(folder: Path, shard: str, fingerprint: str) -> Path:
    """The file of a shard's embedded captions."""
    return folder / f"{shard}.text-{fingerprint}.safetensors"


def embed_captions(
    dataset: CaptionShards,
    spec: TextEncoderSpec,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    on_progress: OnProgress | None = None,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Embed the missing captions of `dataset` into its folder; process `part` of `parts` takes its share.

    The encoder is loaded, in `dtype`, only if captions are missing. Duplicates in a shard are embedded once.
    `on_progress` receives the number of distinct captions done, and of all. Raises ValueError for an encoder
    that can't be loaded.
    """
    missing: dict[Path, list[str]] = {}
    names = dataset.shard_names
    for number in range(part, len(names), parts):
        path = caption_path(dataset.folder, names[number], spec.fingerprint)
        captions = dataset.captions(number)
        try:
            _read_lengths(path, captions)
        except ValueError:
            missing[path] = captions
    if not missing:
        return
    total, done = sum(len({*captions} - {""}) for captions in missing.values()), 0
    encoder = spec.load(device, dtype)
    for path, captions in missing.items():
        states = {"": torch.empty(0, encoder.width, dtype=torch.bfloat16)}
        unique = list(dict.fromkeys(caption for caption in captions if caption))
        for start in range(0, len(unique), BATCH):
            batch = unique[start : start + BATCH]
            states |= zip(batch, _states(encoder, batch), strict=True)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, total)
        rows = [states[caption] for caption in captions]
        lengths = torch.tensor([*map(len, rows)], dtype=torch.int64)
        with atomic_path(path) as temporary:
            tensors = {"states": torch.cat([states[""], *rows]), "lengths": lengths}
            save_file(tensors, temporary, {"captions": _hash(captions)})


class CaptionStates:
    """Embedded captions of the samples of a dataset, by sample index.

    `width`: values per token. `lengths`: tokens of each sample; `longest`: their maximum. No file stays open,
    so it works in any number of processes. Raises ValueError when captions are not embedded for the encoder
    with this fingerprint, or their file is damaged.
    """

    def __init__(self, dataset: CaptionShards, fingerprint: str) -> None:
        names = dataset.shard_names
        self._paths = [caption_path(dataset.folder, name, fingerprint) for name in names]
        missing = [path.name for path in self._paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"The captions of {len(missing)} of {len(names)} shards in {dataset.folder} are not "
                f"embedded for this text encoder ({missing[0]} is missing); embed them."
            )
        parts, widths = [np.empty(0, np.int64)], [0]
        for number, path in enumerate(self._paths):
            lengths, width = _read_lengths(path, dataset.captions(number))
            parts.append(lengths)
            widths.append(width)
        self.width: int = max(widths)
        self.lengths = np.concatenate(parts)
        self.longest = int(self.lengths.max(initial=0))
        self._ends = np.cumsum([len(part) for part in parts[1:]])  # of the samples of each shard
        self._starts = np.concatenate([np.cumsum(part) - part for part in parts])  # in the file of the shard

    def __len__(self) -> int:
        return len(self.lengths)

    def states(self, index: int) -> Float[Tensor, "n d"]:
        """Hidden states of one sample in bf16, read alone. Raises ValueError for a damaged file."""
        start, length = int(self._starts[index]), int(self.lengths[index])
        if not length:
            return torch.empty(0, self.width, dtype=torch.bfloat16)
        with _open(self._paths[np.searchsorted(self._ends, index, side="right")]) as file:
            return file.get_slice("states")[start : start + length]


def _states(encoder: TextEncoder, captions: list[str]) -> list[Float[Tensor, "_ d"]]:
    found = encoder(captions)
    states, lengths = found.states.to("cpu", torch.bfloat16), found.mask.sum(1).tolist()
    return [row[:length].clone() for row, length in zip(states, lengths, strict=True)]


def _hash(captions: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for caption in captions:
        content = caption.encode()
        digest.update(f"{len(content)}\n".encode() + content)
    return digest.hexdigest()


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    """The open file. Raises ValueError, also in place of the block's, when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        reason = f"{first_line(error)}); delete the file and run again"
        raise ValueError(f"The embedded captions {path} can't be used ({reason}.") from None


def _read_lengths(path: Path, captions: list[str]) -> tuple[np.ndarray, int]:
    """Tokens of each sample, and values per token. Raises ValueError unless the file is of these captions."""
    with _open(path) as file:
        if (file.metadata() or {}).get("captions") != _hash(captions):
            raise ValueError("it is of other captions")
        lengths, (rows, width) = file.get_tensor("lengths").numpy(), file.get_slice("states").get_shape()
        if len(lengths) != len(captions) or rows != lengths.sum():
            raise ValueError("its lengths do not fit")
    return lengths, width
