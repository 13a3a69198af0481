"""Systems of a benchmark: models, and folders of precomputed reconstructions."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.rate_control import FixedLength, Lengths, TargetPsnr, parse_length
from regen.codec.report import Compression, LatentCounter, clip_compression, model_compression
from regen.codec.sessions import SOLVERS, DecodeOptions
from regen.data.video_sets import VideoSet, find_media, media_sha256
from regen.embedders.diffusers_adapter import DiffusersAdapter
from regen.embedders.hybrid import HybridAutoencoder
from regen.embedders.interface import Embedder
from regen.evaluate.benchmark.clip_list import Clip, clip_label
from regen.evaluate.quality import CodingStats, FramePairs, decode_bytes, reconstruct_pairs
from regen.media.reader import VideoReader
from regen.names import model_folders
from regen.pretrained.models import load_embedder, weights_hash

Frames = Iterable[UInt8[Tensor, "h w 3"]]
LengthSpec = FixedLength | TargetPsnr
ORIGINAL = "original"  # stands for a model in the names of files about the originals


def folder_name(model: str) -> str:
    """Name of a model's folders in a report."""
    return model.replace("/", "--")


@dataclass(frozen=True)
class SystemSpec:
    """A system by name: a model, or precomputed reconstructions when there is a `folder`.

    `model` loads it, when that differs from the name. `lengths`: number of 1D latents, None for that which
    the model chooses.
    """

    name: str
    folder: Path | None = None
    model: str | None = None
    lengths: LengthSpec | None = None

    @classmethod
    def parse(cls, text: str) -> "SystemSpec":
        """NAME, FOLDER (named without its parents) or NAME=FOLDER, plus @LENGTH. Raises ValueError."""
        model, lengths = _split_length(text)
        suffix = "" if lengths is None else f"@{_length_name(lengths)}"
        name, equals, folder = model.partition("=")
        if equals and name and Path(folder).is_dir():
            return cls(name + suffix, model=folder, lengths=lengths)
        path = Path(model)
        if not path.is_dir():
            return cls(model + suffix, model=model, lengths=lengths)
        path = path.resolve()
        run = path.parent if path.name == "model" else path
        return cls(run.name + suffix, model=model, lengths=lengths)

    def __post_init__(self) -> None:
        if self.label == ORIGINAL or not self.label.strip("."):
            raise ValueError(f"A model can't be named {self.name!r}; give it another name with NAME=FOLDER.")
        if self.folder is not None and not VideoSet.parse(self.folder).folder.is_dir():
            raise ValueError(f"--reconstructions needs a folder, got {self.folder}.")

    @property
    def label(self) -> str:
        """Name of its folders in the report."""
        return folder_name(self.name)


class ModelSystem:
    """A model that encodes and decodes. Raises ValueError for `lengths` of a model without 1D latents."""

    def __init__(self, name: str, model: Embedder, lengths: LengthSpec | None = None) -> None:
        if lengths is not None and not isinstance(model, HybridAutoencoder):
            raise ValueError(f"@{_length_name(lengths)} needs a One-DVA model, got {name}.")
        self.model, self.lengths = model, lengths
        self.chunk_frames: int | None = model.chunk_frames
        self.takes_steps = model.denoises
        self._weights = _weights_of(name, model)
        self._compression: dict[tuple[int, int], Compression] = {}
        self._decode_bytes: dict[tuple[int, int, int, DecodeOptions], int] = {}

    def weights(self, clip: Clip) -> str:
        """Hash of what determines the reconstruction of a clip."""
        return self._weights

    def reconstruct(
        self, clip: Clip, frames: Frames, options: DecodeOptions, stats: CodingStats
    ) -> Iterator[FramePairs]:
        """The `frames` of a clip with their reconstructions, in order, any number at a time."""
        lengths: Lengths | None = self.lengths
        if isinstance(lengths, TargetPsnr):
            solver, noise = SOLVERS[options.solver], options.noise
            lengths = replace(lengths, steps=options.steps, seed=options.seed, solver=solver, noise=noise)
        return reconstruct_pairs(self.model, frames, options, stats, lengths)

    def check(self, clip: Clip, height: int, width: int) -> None:
        """Raises ValueError when the clip can't be coded at this size in pixels."""
        if not isinstance(self.model, HybridAutoencoder) or not isinstance(self.lengths, FixedLength):
            return
        longest = sum(self.model.budgets(self.model.chunk_frames, height, width))
        if clip.frames > 1 and (self.lengths.count or 0) > longest:
            raise ValueError(
                f"A chunk of {clip.name} at {height}x{width} has at most {longest} 1D latents, got "
                f"@{self.lengths.count}; give fewer or a fraction such as @25%."
            )

    def compression(self, clip: Clip, height: int, width: int, latents: LatentCounter) -> dict[str, Any]:
        """Compression of a clip; empty when unknown.

        The fields of `regen.codec.report.Compression`, `values_per_second` (latent values per second of
        video), and the `lengths` of the chunks for models with 1D latents.
        """
        per_second = {"values_per_second": latents.values * float(clip.rate) / clip.frames}
        if isinstance(self.model, HybridAutoencoder):
            result = clip_compression(self.model, latents, clip.frames, height, width)
            return asdict(result) | per_second | {"lengths": latents.lengths}
        if (height, width) not in self._compression:
            self._compression[height, width] = model_compression(self.model, height, width)
        return asdict(self._compression[height, width]) | per_second

    def decode_bytes(self, clip: Clip, height: int, width: int, options: DecodeOptions) -> int | None:
        """Most bytes of tensors besides the weights while a chunk is decoded; None when unknown."""
        key = min(clip.frames, self.model.chunk_frames), height, width, replace(options, seed=0, batch=1)
        if key not in self._decode_bytes:
            self._decode_bytes[key] = decode_bytes(self.model, *key)
        return self._decode_bytes[key]


class PrecomputedSystem:
    """Reconstructions, with the clips' names and measured sizes. Raises ValueError without one."""

    chunk_frames = None
    takes_steps = False

    def __init__(self, folder: Path, clips: Iterable[Clip], max_frames: int | None) -> None:
        self.max_frames = max_frames
        root = VideoSet.parse(folder).root
        paths = {clip_label(path.relative_to(root).as_posix()): path for path in find_media([folder])}
        self._paths: dict[str, Path] = {}
        for clip in clips:
            if clip.label not in paths:
                raise ValueError(f"{folder} has no reconstruction of {clip.name}.")
            self._paths[clip.name] = paths[clip.label]

    def weights(self, clip: Clip) -> str:
        return media_sha256(self._paths[clip.name])

    def reconstruct(
        self, clip: Clip, frames: Frames, options: DecodeOptions, stats: CodingStats
    ) -> Iterator[FramePairs]:
        """Raises ValueError when the number or the size of the frames differs."""
        path, count = self._paths[clip.name], 0
        with VideoReader(path) as reader:
            others = (frame.image for frame in islice(reader, self.max_frames))
            for original, other in zip_longest(frames, others):
                count += other is not None
                if original is None or other is None:
                    continue
                if other.shape != original.shape:
                    sides = [f"{shape[0]}x{shape[1]}" for shape in (other.shape, original.shape)]
                    raise ValueError(f"{path} must be {sides[1]} (height x width), got {sides[0]}.")
                yield original[None], other[None]
        if count != clip.frames:
            raise ValueError(f"{path} must have {clip.frames} frames like {clip.name}, got {count}.")

    def check(self, clip: Clip, height: int, width: int) -> None:
        """Sizes are checked when the frames are read."""

    def compression(self, clip: Clip, height: int, width: int, latents: LatentCounter) -> dict[str, Any]:
        return {}

    def decode_bytes(self, clip: Clip, height: int, width: int, options: DecodeOptions) -> int | None:
        return None


System = ModelSystem | PrecomputedSystem


def load_system(
    spec: SystemSpec, clips: Iterable[Clip], max_frames: int | None, device: torch.device, dtype: torch.dtype
) -> System:
    """Load a system. Raises ValueError when it does not exist."""
    if spec.folder is None:
        model = spec.model or spec.name
        return ModelSystem(model, load_embedder(model, device, dtype), spec.lengths)
    return PrecomputedSystem(spec.folder, clips, max_frames)


def _split_length(text: str) -> tuple[str, LengthSpec | None]:
    """Split "MODEL@LENGTH"; an @ in the name of an existing folder belongs to the model."""
    names = {text, text.partition("=")[2] or text}
    if any((parent / name).is_dir() for parent in (Path(), *model_folders()) for name in names):
        return text, None
    model, at, length = text.rpartition("@")
    if not (model and at) or "/" in length or "=" in length:
        return text, None
    decibels = length.lower().removesuffix("db")
    try:
        return model, parse_length(length) if decibels == length.lower() else TargetPsnr(float(decibels))
    except ValueError:
        raise ValueError(f"{model}@LENGTH must be as @320, @25% or @30dB, got {length!r}.") from None


def _length_name(lengths: LengthSpec) -> str:
    """Canonical text: "320", "25%" or "30dB"."""
    if isinstance(lengths, TargetPsnr):
        return f"{lengths.decibels:.10g}dB"
    return str(lengths.count) if lengths.share is None else f"{100 * lengths.share:.10g}%"


def _weights_of(name: str, model: Embedder) -> str:
    """Hash of 16 digits; for a model of diffusers over the weights as they were loaded."""
    if not isinstance(model, DiffusersAdapter):
        return weights_hash(name)
    digest = hashlib.blake2b(digest_size=8)
    weights = [pair for network in model.networks for pair in sorted(network.state_dict().items())]
    for tensor, values in weights:
        digest.update(f"{tensor} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
