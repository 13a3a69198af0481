"""What takes part in an evaluation: a model, or a folder of finished reconstructions of the same clips."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import Embedder
from regen.codec.rate_control import FixedLength, Lengths, TargetPsnr, parse_length
from regen.codec.report import Compression, LatentCounter, clip_compression, model_compression
from regen.codec.sessions import SOLVERS, DecodeOptions
from regen.embedders.hybrid import HybridAutoencoder
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen import AutoencoderRegen
from regen.evaluate.benchmark.clip_list import Clip, clip_label, hash_file
from regen.evaluate.benchmark.report_folder import ORIGINAL, folder_name
from regen.evaluate.diffusers_models import load_embedder
from regen.evaluate.diffusers_models.base import DiffusersAdapter
from regen.evaluate.diffusers_models.classes import LTX2DiffusionAdapter
from regen.evaluate.quality import FramePairs, reconstruct_pairs
from regen.media.reader import VideoReader, find_media
from regen.metrics.cost import Stopwatch
from regen.pretrained.models import BUNDLED, CHECKPOINTS, weights_hash

Frames = Iterable[UInt8[Tensor, "h w 3"]]
LengthSpec = FixedLength | TargetPsnr


@dataclass(frozen=True)
class SystemSpec:
    """A contestant by its name: a model, or finished reconstructions where there is a `folder`.

    `model` is what loads it, where that is not the name. `lengths`: how many 1D latents it keeps, where it is
    not to find that by itself.
    """

    name: str
    folder: Path | None = None
    model: str | None = None
    lengths: LengthSpec | None = None

    @classmethod
    def parse(cls, text: str) -> "SystemSpec":
        """A model by what a user calls it, or NAME=FOLDER; with @LENGTH behind it one that keeps so much.

        Of a local folder only its own name is told, not where it lies. Raises ValueError, one sentence, when
        what stands behind the @ is no length.
        """
        model, lengths = _split_length(text)
        end = "" if lengths is None else f"@{_length_name(lengths)}"
        name, equals, folder = model.partition("=")
        if equals and name and Path(folder).is_dir():
            return cls(name + end, model=folder, lengths=lengths)
        path = Path(model)
        if not path.is_dir():
            return cls(model + end, model=model, lengths=lengths)
        path = path.resolve()
        own = path.parent.name if path.name == "model" else path.name
        return cls(own + end, model=model, lengths=lengths)

    def __post_init__(self) -> None:
        if self.label == ORIGINAL or not self.label.strip("."):
            raise ValueError(f"A report can't have a model called {self.name!r}; give another name or path.")
        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(f"There is no folder {self.folder} of reconstructions; check --reconstructions.")

    @property
    def label(self) -> str:
        """The name of its folders in the report."""
        return folder_name(self.name)


class CodingStats:
    """What a reconstruction takes: seconds inside a model, and numbers in its latents."""

    def __init__(self) -> None:
        self.encoding, self.decoding, self.latents = Stopwatch(), Stopwatch(), LatentCounter()


@runtime_checkable
class System(Protocol):
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

    def pairs(
        self, clip: Clip, frames: Frames, options: DecodeOptions, meters: CodingStats
    ) -> Iterator[FramePairs]:
        """The `frames` of a clip with their reconstructions, in order, any number at a time."""
        ...

    def check(self, clip: Clip, height: int, width: int) -> None:
        """Raises ValueError when it can't answer the clip at this size in pixels as it was asked to."""
        ...

    def compression(self, clip: Clip, height: int, width: int, latents: LatentCounter) -> dict[str, Any]:
        """How much smaller the latents of a clip are than its frames; nothing where nobody knows.

        These are the fields of `regen.codec.report.Compression`, `values_per_second` (numbers in all
        latents, for each second of the video), and the `lengths` of the chunks where they have 1D latents.
        """
        ...


class ModelSystem:
    """A model that encodes and decodes.

    Raises ValueError when `lengths` are given to a model whose latents have one length.
    """

    def __init__(self, name: str, model: Embedder, lengths: LengthSpec | None = None) -> None:
        if lengths is not None and not isinstance(model, HybridAutoencoder):
            raise ValueError(
                f"The latents of {name} have one length; leave @{_length_name(lengths)} away, or give a "
                "One-DVA model."
            )
        self.model, self.lengths = model, lengths
        self.ratio, self.chunk_frames = model.temporal_compression_ratio, model.chunk_frames
        self.takes_steps = isinstance(model, AutoencoderRegen | AutoencoderOneDVA | LTX2DiffusionAdapter)
        self._weights = _weights_of(name, model)
        self._compression: dict[tuple[int, int], Compression] = {}

    def weights(self, clip: Clip) -> str:
        return self._weights

    def pairs(
        self, clip: Clip, frames: Frames, options: DecodeOptions, meters: CodingStats
    ) -> Iterator[FramePairs]:
        lengths: Lengths | None = self.lengths
        if isinstance(lengths, TargetPsnr):
            lengths = replace(lengths, steps=options.steps, seed=options.seed, solver=SOLVERS[options.solver])
        watches = meters.encoding, meters.decoding
        return reconstruct_pairs(self.model, frames, options, *watches, meters.latents, lengths)

    def check(self, clip: Clip, height: int, width: int) -> None:
        if not isinstance(self.model, HybridAutoencoder) or not isinstance(self.lengths, FixedLength):
            return
        most = sum(self.model.budgets(self.model.chunk_frames, height, width))
        if clip.frames > 1 and (self.lengths.count or 0) > most:
            raise ValueError(
                f"A chunk of {clip.name} at {height}x{width} has 0 to {most} 1D latents, not "
                f"{self.lengths.count}; give a smaller number behind the @, or a share such as @25%."
            )

    def compression(self, clip: Clip, height: int, width: int, latents: LatentCounter) -> dict[str, Any]:
        per_second = {"values_per_second": latents.values * float(clip.rate) / clip.frames}
        if isinstance(self.model, HybridAutoencoder):
            forms = clip_compression(self.model, latents, clip.frames, height, width)
            return asdict(forms) | per_second | {"lengths": latents.lengths}
        if (height, width) not in self._compression:
            self._compression[height, width] = model_compression(self.model, height, width)
        return asdict(self._compression[height, width]) | per_second


class PrecomputedSystem:
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

    def pairs(
        self, clip: Clip, frames: Frames, options: DecodeOptions, meters: CodingStats
    ) -> Iterator[FramePairs]:
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

    def check(self, clip: Clip, height: int, width: int) -> None:
        """The frames themselves are compared when they are read."""

    def compression(self, clip: Clip, height: int, width: int, latents: LatentCounter) -> dict[str, Any]:
        return {}


def load_system(
    entry: SystemSpec, clips: Iterable[Clip], max_frames: int | None, device: torch.device, dtype: torch.dtype
) -> System:
    """Make ready what an entry stands for; ValueError, one sentence, when it is not there."""
    if entry.folder is None:
        model = entry.model or entry.name
        return ModelSystem(model, load_embedder(model, device, dtype), entry.lengths)
    return PrecomputedSystem(entry.folder, clips, max_frames)


def _split_length(text: str) -> tuple[str, LengthSpec | None]:
    """The name of a model, and the length behind its last @; an @ in the name of a folder is no such."""
    whole = text.partition("=")[2] or text
    if any((place / name).is_dir() for place in (Path(), BUNDLED, CHECKPOINTS) for name in {text, whole}):
        return text, None
    model, at, length = text.rpartition("@")
    if not (model and at) or "/" in length or "=" in length:
        return text, None
    decibels = length.lower().removesuffix("db")
    try:
        return model, parse_length(length) if decibels == length.lower() else TargetPsnr(float(decibels))
    except ValueError:
        raise ValueError(
            f"There is no length {length!r} for {model}; give a number such as @320, a share such as @25%, "
            "or a PSNR such as @30dB."
        ) from None


def _length_name(lengths: LengthSpec) -> str:
    """The text that stands for it, always the same: "320", "25%" or "30dB"."""
    if isinstance(lengths, TargetPsnr):
        return f"{lengths.decibels:.10g}dB"
    return str(lengths.count) if lengths.share is None else f"{100 * lengths.share:.10g}%"


def _weights_of(name: str, model: Embedder) -> str:
    """16 digits: of a peer over its weights as they were loaded, in their precision."""
    if not isinstance(model, DiffusersAdapter):
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
