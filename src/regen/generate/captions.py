"""Captions embedded once, and kept beside the latents: NAME.text-FINGERPRINT.safetensors for each shard.

    states     "tokens d", bf16: the states of the tokens of all captions, sample after sample
    lengths    how many tokens each sample has (int64); an empty caption has none

FINGERPRINT is that of the text encoder, so the captions can be there for several encoders.
The metadata of a file has a hash of the captions: when they are others, they are embedded anew.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from regen.console import first_line
from regen.corpus.dataset import LatentDataset
from regen.generate.text import TextEncoder, TextEncoderSource
from regen.io import atomic_path

BATCH = 64  # captions at a time


def caption_path(folder: Path, shard: str, fingerprint: str) -> Path:
    """Where the embedded captions of a shard of latents are."""
    return folder / f"{shard}.text-{fingerprint}.safetensors"


def embed_captions(
    dataset: LatentDataset,
    source: TextEncoderSource,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    on_progress: Callable[[int, int], None] | None = None,
    part: int = 0,
    parts: int = 1,
) -> None:
    """Embed the captions of the shards of `dataset` that are not embedded yet, into its folder.

    Of `parts` processes, number `part` takes every so many-th shard.

    The encoder is loaded, in `dtype`, only where there is something to do. Captions that a shard has several
    times are embedded once; those of one shard are in memory together. `on_progress` is told how many
    different captions are done, and of how many. Raises ValueError when the encoder
    can't be loaded.
    """
    missing: dict[Path, list[str]] = {}
    shards = dataset.manifest.shards
    for number in range(part, len(shards), parts):
        path, captions = (
            caption_path(dataset.folder, shards[number].name, source.fingerprint),
            dataset.captions(number),
        )
        if not _is_there(path, captions):
            missing[path] = captions
    total, done = sum(len(_unique(captions)) for captions in missing.values()), 0
    encoder = source.load(device, dtype) if missing else None
    for path, captions in missing.items():
        assert encoder is not None
        different, embedded = _unique(captions), {"": torch.empty(0, encoder.width, dtype=torch.bfloat16)}
        for start in range(0, len(different), BATCH):
            batch = different[start : start + BATCH]
            embedded |= zip(batch, _states(encoder, batch), strict=True)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, total)
        _write(path, captions, [embedded[caption] for caption in captions], embedded[""])


class CaptionStates:
    """The embedded captions of the samples of a `LatentDataset`, by their numbers there.

    `width` is how many numbers a token has, `lengths` how many tokens each sample has, `longest` the most of
    these. No file stays open: it may be used in any number of processes. Raises ValueError when the captions
    of a shard are not embedded for the encoder with this fingerprint, or when their file is damaged.
    """

    def __init__(self, dataset: LatentDataset, fingerprint: str) -> None:
        shards = dataset.manifest.shards
        self._paths = [caption_path(dataset.folder, shard.name, fingerprint) for shard in shards]
        missing = [path.name for path in self._paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"The captions of {len(missing)} of {len(shards)} shards in {dataset.folder} are not "
                f"embedded for this text encoder, {missing[0]} is the first that is missing; embed them."
            )
        parts, widths = [np.empty(0, np.int64)], [0]
        for number, path in enumerate(self._paths):
            with _open(path) as file:
                parts.append(_lengths(file, path, dataset.captions(number)))
                widths.append(file.get_slice("states").get_shape()[1])
        self.width: int = max(widths)
        self.lengths = np.concatenate(parts)
        self.longest = int(self.lengths.max(initial=0))
        self._ends = np.cumsum([len(part) for part in parts[1:]])  # of the samples of each shard
        self._starts = np.concatenate([np.cumsum(part) - part for part in parts])  # in the file of the shard

    def __len__(self) -> int:
        return len(self.lengths)

    def states(self, number: int) -> Float[Tensor, "n d"]:
        """Those of sample `number`, bf16; no others are read. Raises ValueError when the file is damaged."""
        if not 0 <= number < len(self):
            raise IndexError(f"There is no sample {number} among {len(self)}.")
        start, length = int(self._starts[number]), int(self.lengths[number])
        if not length:
            return torch.empty(0, self.width, dtype=torch.bfloat16)
        with _open(self._paths[np.searchsorted(self._ends, number, side="right")]) as file:
            return file.get_slice("states")[start : start + length]


def _unique(captions: list[str]) -> list[str]:
    return [caption for caption in dict.fromkeys(captions) if caption]


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


def _is_there(path: Path, captions: list[str]) -> bool:
    """Whether the file is whole, and of these captions; another is written again."""
    try:
        with _open(path) as file:
            _lengths(file, path, captions)
    except ValueError:
        return False
    return True


def _write(path: Path, captions: list[str], states: list[Tensor], nothing: Tensor) -> None:
    tensors = {
        "states": torch.cat([nothing, *states]),
        "lengths": torch.tensor([*map(len, states)], dtype=torch.int64),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"captions": _hash(captions)})


@contextmanager
def _open(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _damaged(path, first_line(error)) from None


def _lengths(file: safe_open, path: Path, captions: list[str]) -> np.ndarray:
    """How many tokens each sample has, once it is sure that the file is of these captions."""
    if (file.metadata() or {}).get("captions") != _hash(captions):
        raise _damaged(path, "it is of other captions")
    lengths = file.get_tensor("lengths").numpy()
    if len(lengths) != len(captions) or file.get_slice("states").get_shape()[0] != lengths.sum():
        raise _damaged(path, "its lengths do not fit")
    return lengths


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"The embedded captions {path} can't be used ({reason}); delete it and embed them again."
    )
