"""The latent file: a whole video as latents, with all that decoding needs, in one safetensors file.

Tensors: `latents` "chunks c n h w" in the precision of the model, `times` "frames" (float64, seconds) and,
when the video has sound, `audio` (the bytes of an audio-only MP4 file). Where the model has 1D latents, too,
`sequence` "c s" has those that each chunk keeps, one chunk after the other, and `lengths` "chunks r" how many
of them belong to each region of each chunk. Metadata: one JSON object under the
key `regen_latents` with the version of the format, the model and a hash of its weights, sizes, frame rate.
The latents of a whole video are kept in memory; at 4x with 8 channels they have 1/60 of its values.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from regen.codec.chunks import ChunkLatents
from regen.latents import HybridLatents, Latents, batch_of

KEY = "regen_latents"
VERSION = 1


@dataclass(frozen=True)
class LatentVideo:
    """A video as latents. `model` and `weights` (a hash) name the one model that can decode it.

    `latents` are those of all chunks as a batch: a tensor "chunks c n h w", or `HybridLatents`.
    `height` and `width` are those of the decoded frames, in pixels; the latents cover them padded to a
    multiple of the patch. `source_height` and `source_width` are those of the video that was encoded.
    """

    latents: Latents
    times: Float64[Tensor, " frames"]
    height: int
    width: int
    source_height: int
    source_width: int
    frame_rate: Fraction
    model: str
    weights: str
    audio: bytes | None = None

    def chunks(self, length: int) -> Iterator[ChunkLatents]:
        """The latents chunk by chunk, when a chunk stands for `length` frames and the last for the rest."""
        count = len(self.latents)
        if not (count - 1) * length < len(self.times) <= count * length:
            raise ValueError(
                f"{len(self.times)} frames do not fit {count} chunks of {length}; encode the video again."
            )
        for index in range(count):
            yield ChunkLatents(index, self.latents[index], min(length, len(self.times) - index * length))


def write(path: Path, video: LatentVideo) -> None:
    """Write the file whole or not at all. Raises OSError, in one sentence, when it can't be written."""
    facts = {
        "version": VERSION,
        "model": video.model,
        "weights": video.weights,
        "size": [video.height, video.width],
        "source_size": [video.source_height, video.source_width],
        "frame_rate": str(video.frame_rate),
    }
    tensors = {**_tensors(video.latents), "times": video.times}
    if video.audio is not None:
        tensors["audio"] = torch.frombuffer(bytearray(video.audio), dtype=torch.uint8)
    data = save(tensors, metadata={KEY: json.dumps(facts)})
    try:
        _replace(path, data)
    except OSError as error:
        raise OSError(f"Could not write {path}: {error.strerror}; choose another place with -o.") from None


def check_target(path: Path) -> None:
    """Fail before the work is done, not after it, when `path` can't become a latent file."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no name for a latent file; let it end in .safetensors.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file to write.")
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {path.parent} to write {path.name} into; create it first.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"The folder {path.parent} is not writable; choose another place with -o.")


def read(path: Path) -> LatentVideo:
    """Read a latent file. Raises ValueError when it is missing, damaged, of another kind or version."""
    if not path.exists():
        raise ValueError(f"There is no file {path}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a latent file made by `regen encode`.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if facts else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no latent file ({_first_line(error)}).") from None
    if facts is None:
        raise ValueError(f"{path} holds tensors but no encoded video; give a file made by `regen encode`.")
    try:
        return _parse(path, json.loads(facts), tensors)
    except (KeyError, TypeError, ZeroDivisionError, json.JSONDecodeError):
        raise ValueError(
            f"{path} is damaged: its description is not complete; encode the video again."
        ) from None


def check_model(path: Path, video: LatentVideo, model: str, weights: str) -> None:
    """Raise ValueError unless `video` was encoded with exactly these weights, whatever their name."""
    if video.weights == weights:
        return
    if video.model == model:
        raise ValueError(
            f"{path} was encoded with other weights of {model} (hash {video.weights}) than these "
            f"(hash {weights}); give the folder of the former with --model."
        )
    raise ValueError(
        f"{path} was encoded with {video.model} (hash {video.weights}), not with {model} (hash {weights}); "
        f"pass --model {video.model}."
    )


def _parse(path: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> LatentVideo:
    if facts["version"] != VERSION:
        raise ValueError(
            f"{path} has version {facts['version']} of the latent file and this program reads version "
            f"{VERSION}; use the release of regen that wrote it."
        )
    latents, times = tensors["latents"], tensors["times"]
    try:
        (height, width), (source_height, source_width) = facts["size"], facts["source_size"]
        frame_rate = Fraction(str(facts["frame_rate"]))
    except ValueError as error:
        raise TypeError("facts of another form") from error
    if (
        latents.ndim != 5
        or not latents.is_floating_point()
        or times.ndim != 1
        or times.dtype != torch.float64
        or 0 in (len(times), len(latents))
    ):
        raise TypeError("tensors of another form")
    hybrid = "sequence" in tensors or "lengths" in tensors
    return LatentVideo(
        latents=_hybrid(latents, tensors["sequence"], tensors["lengths"]) if hybrid else latents,
        times=times,
        height=int(height),
        width=int(width),
        source_height=int(source_height),
        source_width=int(source_width),
        frame_rate=frame_rate,
        model=str(facts["model"]),
        weights=str(facts["weights"]),
        audio=tensors["audio"].numpy().tobytes() if "audio" in tensors else None,
    )


def _tensors(latents: Latents) -> dict[str, Tensor]:
    if isinstance(latents, Tensor):
        return {"latents": latents.contiguous()}
    kept = [latents[index].sequence for index in range(len(latents))]
    return {
        "latents": latents.structural.contiguous(),
        "sequence": torch.cat(kept, dim=1).contiguous(),
        "lengths": latents.lengths.contiguous(),
    }


def _hybrid(structural: Tensor, sequence: Tensor, lengths: Tensor) -> Latents:
    """Raises TypeError when the parts do not fit together."""
    fits = sequence.ndim == 2 and lengths.ndim == 2 and lengths.dtype == torch.int64
    if not fits or len(lengths) != len(structural) or sequence.dtype != structural.dtype:
        raise TypeError("1D latents of another form")
    counts = lengths.sum(1).tolist()
    wrong = (lengths < 0).any() or (lengths > sequence.shape[1]).any()
    if wrong or sequence.shape[0] != structural.shape[1] or sequence.shape[1] != sum(counts):
        raise TypeError("1D latents of another number")
    parts = zip(structural, sequence.split(counts, dim=1), lengths, strict=True)
    return batch_of([HybridLatents(*part) for part in parts])


def _replace(path: Path, data: bytes) -> None:
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
