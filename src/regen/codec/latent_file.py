"""Latent files: an encoded video in one safetensors file.

Tensors: `latents` "chunks c n h w" in the precision of the model; `times` "frames" (float64, seconds); for a
video with sound, `audio` (the bytes of an audio-only MP4 file); for a model with 1D latents, `sequence` "c s"
(those of all chunks, concatenated) and `lengths` "chunks r" (their number in each region of each chunk).
Metadata: a JSON object under the key `regen_latents` with the format version, the model and a hash of its
weights, the sizes and the frame rate. The whole file is kept in memory.
"""

import json
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
from regen.console import first_line
from regen.io import parse_json, write_bytes
from regen.latents import Latents
from regen.media.reader import MAX_PIXEL_ASPECT

KEY = "regen_latents"
VERSION = 1
SUFFIX = ".safetensors"
MAX_SIDE, MAX_SECONDS = 1 << 16, 1e8  # pixels; three years


@dataclass(frozen=True)
class LatentVideo:
    """An encoded video: the latents of all chunks as a batch, and the times of the frames in seconds.

    The decoded frames have `height` x `width` pixels, which the latents cover padded to whole patches; before
    resizing they had `source_height` x `source_width`. `frame_rate` is the mean per second. `weights` is the
    hash of those that can decode the latents, `model` a name for them. `audio` is an audio-only MP4 file. A
    pixel is shown `pixel_aspect` times as wide as high.
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
    pixel_aspect: Fraction = Fraction(1)
    is_sequence: bool = False
    """Whether the latents are one sequence for the whole video, as those of diffusers, and not of chunks."""

    def chunks(self, length: int) -> Iterator[ChunkLatents]:
        """The latents chunk by chunk; a chunk holds `length` frames, the last one the rest."""
        count, frames = len(self.latents), len(self.times)
        if not (count - 1) * length < frames <= count * length:
            raise ValueError(
                f"{frames} frames do not fit {count} chunks of {length}; encode the video again."
            )
        for index in range(count):
            yield ChunkLatents(index, self.latents[index], min(length, frames - index * length))


def write(path: Path, video: LatentVideo) -> None:
    """Write a latent file atomically. Raises OSError when that fails."""
    metadata = {
        "version": VERSION,
        "model": video.model,
        "weights": video.weights,
        "size": [video.height, video.width],
        "source_size": [video.source_height, video.source_width],
        "frame_rate": str(video.frame_rate),
        "pixel_aspect": str(video.pixel_aspect),
        "is_sequence": video.is_sequence,
    }
    tensors = {**video.latents.tensors(), "times": video.times}
    if video.latents.has_sequence:
        tensors["sequence"] = video.latents.flat()
    if video.audio is not None:
        tensors["audio"] = torch.frombuffer(bytearray(video.audio), dtype=torch.uint8)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        write_bytes(path, save(tensors, metadata={KEY: json.dumps(metadata)}))
    except OSError as error:
        raise OSError(f"Can't write {path}: {first_line(error)}; choose another place with -o.") from None


def read(path: Path) -> LatentVideo:
    """Read a latent file. Raises ValueError when it is missing, damaged, or of another kind or version."""
    if not path.is_file():
        raise ValueError(f"{path} must be a latent file made by `regen encode`, but there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()} if metadata else {}  # noqa: SIM118
    except OSError as error:
        raise ValueError(f"{path} can't be read: {first_line(error)}.") from None
    except SafetensorError:
        if path.suffix != SUFFIX:
            raise ValueError(f"{path} is not a latent file; give one made by `regen encode`.") from None
        raise ValueError(f"{path} is damaged or not a latent file; encode the video again.") from None
    if metadata is None:
        raise ValueError(f"{path} has tensors but no encoded video; give a file made by `regen encode`.")
    try:
        facts = parse_json(metadata)
        version = facts["version"]
        video = _parse(facts, tensors) if version == VERSION else None
    except (KeyError, TypeError, ValueError, ArithmeticError):
        raise ValueError(f"{path} is damaged: its content does not fit; encode the video again.") from None
    if video is None:
        raise ValueError(
            f"{path} must have format version {VERSION}, got {version}; use the release that wrote it."
        )
    return video


def check_model(path: Path, video: LatentVideo, model: str, weights: str) -> None:
    """Raise ValueError unless `video` was encoded with these weights, whatever the name of the model."""
    if video.weights != weights:
        needed = video.model if video.model != model else "and the folder of the other weights"
        raise ValueError(
            f"{path} was encoded with {video.model} (hash {video.weights}), not with {model} (hash {weights})"
            f"; pass --model {needed}."
        )


def _parse(facts: dict[str, Any], tensors: dict[str, Tensor]) -> LatentVideo:
    """Assemble a video. Raises KeyError, TypeError, ValueError or ArithmeticError for anything odd."""
    times, latents = tensors["times"], _latents(tensors)
    if times.ndim != 1 or times.dtype != torch.float64 or 0 in (len(times), len(latents)):
        raise ValueError
    (height, width), (source_height, source_width) = facts["size"], facts["source_size"]
    if not times.isfinite().all() or (times.diff() < 0).any():
        raise ValueError
    sides = [int(side) for side in (height, width, source_height, source_width)]
    rate, aspect = Fraction(str(facts["frame_rate"])), Fraction(str(facts.get("pixel_aspect", 1)))
    in_range = min(sides) >= 1 and max(sides) <= MAX_SIDE and rate > 0 and times[-1] <= MAX_SECONDS
    if not in_range or not 1 <= aspect * MAX_PIXEL_ASPECT <= MAX_PIXEL_ASPECT**2:
        raise ValueError
    return LatentVideo(
        latents=latents,
        times=times,
        height=sides[0],
        width=sides[1],
        source_height=sides[2],
        source_width=sides[3],
        frame_rate=rate,
        model=str(facts["model"]),
        weights=str(facts["weights"]),
        audio=tensors["audio"].numpy().tobytes() if "audio" in tensors else None,
        pixel_aspect=aspect,
        is_sequence=facts.get("is_sequence", False) is True,
    )


def _latents(tensors: dict[str, Tensor]) -> Latents:
    grid = tensors["latents"]
    if grid.ndim != 5 or not grid.is_floating_point():
        raise ValueError
    if "sequence" not in tensors and "lengths" not in tensors:
        return Latents.of(grid)
    sequence, lengths = tensors["sequence"], tensors["lengths"]
    if sequence.ndim != 2 or lengths.ndim != 2 or lengths.dtype != torch.int64:
        raise ValueError
    (channels, count), chunks = sequence.shape, len(lengths)
    fits = (chunks, channels, sequence.dtype) == (*grid.shape[:2], grid.dtype)
    outside = (lengths < 0).any() or (lengths > count).any()  # their sum could overflow
    if not fits or outside or count != int(lengths.sum()):
        raise ValueError
    return Latents.from_flat(grid, sequence, lengths)
