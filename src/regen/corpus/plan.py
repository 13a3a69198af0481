"""What an export of latents is to make: the settings, the input, and the manifest that holds both down."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from regen.codec.rate_control import FixedLength, check_lengths, parse_length
from regen.corpus.clip_stream import FrameView
from regen.corpus.shards import MANIFEST, InputShard, LatentManifest, is_complete
from regen.corpus.sources import Corpus
from regen.io import write_text
from regen.locks import Claims
from regen.media.sizes import Size
from regen.pretrained.models import Autoencoder, load, weights_hash
from regen.runtime import DTYPES
from regen.tiling import LATENT_STRIDE, Tile

LoadModel = Callable[[], Autoencoder]


@dataclass(frozen=True)
class ExportSettings:
    """What must be the same for all latents of a folder; see `FrameView` for `size`, `fps` and `frames`.

    `dtype` is the precision in which the model computes and `store` that of the latents, both names of
    `regen.runtime.DTYPES`. `batch` chunks go through the model together, in tiles of at most `tile` pixels.
    A folder of the input is taken in shards of `group` files. `length` is that of the 1D latents of every
    chunk, a number such as "320" or a share such as "25%", for a model that has such (One-DVA); None: what
    its motion asks for.
    """

    dtype: str
    size: Size | None = None
    fps: Fraction | None = None
    frames: int | None = None
    store: str = "bf16"
    batch: int = 8
    tile: Tile | None = None
    group: int = 64
    length: str | None = None

    def __post_init__(self) -> None:
        for name in (self.dtype, self.store):
            if name not in DTYPES:
                raise ValueError(f"There is no dtype called {name!r}; use one of {', '.join(DTYPES)}.")
        if self.size is not None and (self.size.height % LATENT_STRIDE or self.size.width % LATENT_STRIDE):
            raise ValueError(
                f"The sides of {self.size} are no multiples of {LATENT_STRIDE}, the pixels of one latent; "
                "give a --size whose sides are."
            )
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"A frame rate is positive, not {self.fps}; give --fps 24 or leave it away.")
        for option, value in (("--frames", self.frames), ("--batch", self.batch), ("--group", self.group)):
            if value is not None and value < 1:
                raise ValueError(f"{value} are none; give {option} 1 or more.")
        if self.length is not None:
            parse_length(self.length)  # it tells of one that is none

    @property
    def kept(self) -> FixedLength | None:
        """`length`, read."""
        return None if self.length is None else parse_length(self.length)

    def recorded(self) -> dict[str, Any]:
        """The settings as the manifest has them; a length only where there is one."""
        texts = {"size": self.size and str(self.size), "fps": self.fps and str(self.fps)}
        found = asdict(self) | texts | {"tile": self.tile and f"{self.tile.height}x{self.tile.width}"}
        if self.length is None:
            del found["length"]
        return found

    def arguments(self) -> list[str]:
        """The settings as options of the command."""
        found = [(f"--{name}", str(value)) for name, value in self.recorded().items() if value is not None]
        return [word for option in found for word in option]


@dataclass(frozen=True)
class Export:
    """What is asked for: the latents that the model called `model` gives for `data`, in the folder `out`."""

    model: str
    data: tuple[str, ...]
    out: Path
    settings: ExportSettings

    def load(self, device: torch.device) -> Autoencoder:
        return load(self.model, device, DTYPES[self.settings.dtype])


@dataclass(frozen=True)
class ExportPlan:
    """An export whose manifest is written; it can be handed to other processes."""

    export: Export
    corpus: Corpus
    manifest: LatentManifest

    @property
    def claims(self) -> Claims:
        return Claims(self.export.out / ".work")

    @property
    def view(self) -> FrameView:
        settings, manifest = self.export.settings, self.manifest
        ratio = manifest.spatial_compression_ratio
        return FrameView(settings.size, settings.fps, settings.frames, manifest.chunk_frames, ratio)

    def missing(self) -> list[int]:
        """The numbers of the shards that are not there."""
        out = self.export.out
        return [number for number, shard in enumerate(self.corpus.shards) if not is_complete(out, shard.name)]

    def count_samples_except(self, missing: Iterable[int]) -> int:
        """How many samples there are in all shards but these."""
        shards = self.corpus.shards
        return sum(shard.samples for shard in shards) - sum(shards[number].samples for number in missing)


def prepare(export: Export, load_model: LoadModel) -> ExportPlan:
    """Write the manifest, or check that it is the same as before; `load_model` is called if there is none.

    Raises ValueError, one sentence, when the data, the model or the settings are not those of the folder.
    """
    corpus, weights = Corpus(export.data, export.settings.group), weights_hash(export.model)
    if export.settings.length is not None and not (export.out / MANIFEST).is_file():
        check_lengths(load_model(), export.settings.kept)
    claims = Claims(export.out / ".work")
    try:
        claims.open()
    except OSError as error:
        raise ValueError(
            f"The latents can't be kept in {export.out} ({error.strerror}); give another --out."
        ) from None
    with claims.alone():
        if not (export.out / MANIFEST).is_file():
            manifest = _manifest(export, corpus, weights, load_model())
            write_text(export.out / MANIFEST, manifest.text())
        manifest = LatentManifest.read(export.out)
    _check_settings(manifest, export, weights)
    _check_data(manifest.shards, corpus.shards, export.out)
    return ExportPlan(export, corpus, manifest)


def _manifest(export: Export, corpus: Corpus, weights: str, model: Autoencoder) -> LatentManifest:
    return LatentManifest(
        model=export.model,
        model_class=type(model).__name__,
        weights=weights,
        latent_channels=model.latent_channels,
        temporal_compression_ratio=model.temporal_compression_ratio,
        spatial_compression_ratio=model.spatial_compression_ratio,
        chunk_frames=model.chunk_frames,
        latents_mean=model.latents_mean.tolist(),
        latents_std=model.latents_std.tolist(),
        settings=export.settings.recorded(),
        arguments=["--model", export.model, "--data", *export.data, *export.settings.arguments()],
        classes=corpus.classes,
        shards=corpus.shards,
    )


def _check_settings(manifest: LatentManifest, export: Export, weights: str) -> None:
    before = manifest.settings | {"model": f"{manifest.model} (hash {manifest.weights})"}
    now = export.settings.recorded() | {"model": f"{export.model} (hash {weights})"}
    if manifest.weights == weights:  # whatever it is called
        now["model"] = before["model"]
    differences = [
        f"{name} was {before.get(name)} and is now {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(
            f"The latents in {export.out} were begun with other settings ({'; '.join(differences)}); "
            "give the same ones, or another --out."
        )


def _check_data(before: list[InputShard], now: list[InputShard], out: Path) -> None:
    known, found = ({shard.name: shard for shard in shards} for shards in (before, now))
    for name in sorted(known.keys() | found.keys()):
        if name in known and name in found and known[name].digest == found[name].digest:
            continue
        what = "is missing" if name not in found else "has changed" if name in known else "is new"
        raise ValueError(
            f"{(found.get(name) or known[name]).source} {what} since the latents in {out} were begun; "
            "undo that, or give another --out."
        )
