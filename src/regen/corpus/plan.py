"""The plan of an export: settings, input, and the manifest that records both."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from regen.codec.rate_control import FixedLength, check_lengths, parse_length
from regen.console import first_line
from regen.corpus.shards import MANIFEST, InputShard, LatentManifest, is_complete
from regen.corpus.sources import Corpus, FrameSpec
from regen.io import write_text
from regen.locks import Claims
from regen.media.pixels import Size
from regen.pretrained.models import Autoencoder, load, weights_hash
from regen.runtime import DTYPES
from regen.tiling import LATENT_STRIDE, Tile

LoadModel = Callable[[], Autoencoder]


@dataclass(frozen=True)
class ExportSettings:
    """Settings that all latents of a folder share; see `FrameSpec` for `size`, `fps` and `frames`.

    `dtype` is the precision of the model and `latent_dtype` that of the latents, names of
    `regen.runtime.DTYPES`. `batch` chunks are encoded together, in tiles of at most `tile` pixels. A folder
    of files is split into shards of `files_per_shard`. `num_latents` is the number of 1D latents of every
    chunk ("320", or a share such as "25%") for One-DVA; by default the motion decides.
    """

    dtype: str
    size: Size | None = None
    fps: Fraction | None = None
    frames: int | None = None
    latent_dtype: str = "bf16"
    batch: int = 8
    tile: Tile | None = None
    files_per_shard: int = 64
    num_latents: str | None = None

    def __post_init__(self) -> None:
        for name in (self.dtype, self.latent_dtype):
            if name not in DTYPES:
                raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}.")
        if self.size is not None and (self.size.height % LATENT_STRIDE or self.size.width % LATENT_STRIDE):
            raise ValueError(f"The sides of --size must be multiples of {LATENT_STRIDE}, got {self.size}.")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"--fps must be > 0, got {self.fps}.")
        for name in ("frames", "batch", "files_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{_flag(name)} must be at least 1, got {value}.")
        if self.num_latents is not None:
            parse_length(self.num_latents)

    @property
    def length(self) -> FixedLength | None:
        """`num_latents`, parsed."""
        return None if self.num_latents is None else parse_length(self.num_latents)

    def recorded(self) -> dict[str, Any]:
        """The settings in the manifest; `num_latents` only if given."""
        found = asdict(self) | {
            "size": self.size and str(self.size),
            "fps": self.fps and str(self.fps),
            "tile": self.tile and f"{self.tile.height}x{self.tile.width}",
        }
        if self.num_latents is None:
            del found["num_latents"]
        return found

    def arguments(self) -> list[str]:
        """The settings as command-line options."""
        options = [(_flag(name), str(value)) for name, value in self.recorded().items() if value is not None]
        return [word for option in options for word in option]


@dataclass(frozen=True)
class ExportRequest:
    """Latents of `data` by the model called `model`, for the folder `out`."""

    model: str
    data: tuple[str, ...]
    out: Path
    settings: ExportSettings

    def load(self, device: torch.device) -> Autoencoder:
        return load(self.model, device, DTYPES[self.settings.dtype])


@dataclass(frozen=True)
class ExportPlan:
    """An export whose manifest is written; picklable, for other processes."""

    request: ExportRequest
    corpus: Corpus
    manifest: LatentManifest

    @property
    def claims(self) -> Claims:
        return Claims(self.request.out / ".work")

    @property
    def frame_spec(self) -> FrameSpec:
        settings, manifest = self.request.settings, self.manifest
        ratio = manifest.spatial_compression_ratio
        return FrameSpec(settings.size, settings.fps, settings.frames, manifest.chunk_frames, ratio)

    def missing(self) -> list[int]:
        """Indices of the missing shards."""
        out = self.request.out
        return [number for number, shard in enumerate(self.corpus.shards) if not is_complete(out, shard.name)]

    def count_samples(self, without: Iterable[int] = ()) -> int:
        """Number of samples in all shards but these."""
        shards = self.corpus.shards
        return sum(shard.samples for shard in shards) - sum(shards[number].samples for number in without)


def prepare(request: ExportRequest, load_model: LoadModel) -> ExportPlan:
    """Write the manifest, or check it; `load_model` is called only if there is none.

    Raises ValueError for data, model or settings that differ from those of the folder.
    """
    settings, out = request.settings, request.out
    corpus, weights = Corpus(request.data, settings.files_per_shard), weights_hash(request.model)
    if settings.length is not None and not (out / MANIFEST).is_file():
        check_lengths(load_model(), settings.length)
    claims = Claims(out / ".work")
    try:
        claims.open()
    except OSError as error:
        raise ValueError(f"--out must be writable, got {out} ({first_line(error)}).") from None
    with claims.alone():
        if not (out / MANIFEST).is_file():
            write_text(out / MANIFEST, _new_manifest(request, corpus, weights, load_model()).text())
        manifest = LatentManifest.read(out)
    _check_settings(manifest, request, weights)
    _check_data(manifest.shards, corpus.shards, out)
    return ExportPlan(request, corpus, manifest)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _new_manifest(request: ExportRequest, corpus: Corpus, weights: str, model: Autoencoder) -> LatentManifest:
    return LatentManifest(
        model=request.model,
        model_class=type(model).__name__,
        weights=weights,
        latent_channels=model.latent_channels,
        temporal_compression_ratio=model.temporal_compression_ratio,
        spatial_compression_ratio=model.spatial_compression_ratio,
        chunk_frames=model.chunk_frames,
        latents_mean=model.latents_mean.tolist(),
        latents_std=model.latents_std.tolist(),
        settings=request.settings.recorded(),
        arguments=["--model", request.model, "--data", *request.data, *request.settings.arguments()],
        classes=corpus.classes,
        shards=corpus.shards,
    )


def _check_settings(manifest: LatentManifest, request: ExportRequest, weights: str) -> None:
    before = manifest.settings | {"model": f"{manifest.model} (hash {manifest.weights})"}
    now = request.settings.recorded() | {"model": f"{request.model} (hash {weights})"}
    if manifest.weights == weights:  # under whatever name
        now["model"] = before["model"]
    differences = [
        f"{name} was {before.get(name)} and is now {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(
            f"The latents in {request.out} have other settings ({'; '.join(differences)}); give the same, or "
            "another --out."
        )


def _check_data(before: list[InputShard], now: list[InputShard], out: Path) -> None:
    known, found = ({shard.name: shard for shard in shards} for shards in (before, now))
    for name in sorted(known.keys() | found.keys()):
        if name in known and name in found and known[name].digest == found[name].digest:
            continue
        change = "is missing" if name not in found else "has changed" if name in known else "is new"
        source = (found.get(name) or known[name]).source
        raise ValueError(
            f"{source} {change} since the latents in {out} were begun; undo it, or give another --out."
        )
