"""Export of a corpus as latents.

Any number of processes, on machines that share the folder, may run it at once: each shard is claimed, made
and published by one of them, and a later call makes what is missing. A shard has the same bytes whoever makes
it: its batches depend on it alone, and the CPU computes on one thread.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from regen.codec.rate_control import FixedLength, check_lengths, parse_length
from regen.console import OnProgress, first_line
from regen.corpus.embedding import Embedding
from regen.corpus.shards import MANIFEST, LatentManifest, LatentShardWriter, is_complete
from regen.corpus.sources import (
    Corpus,
    CorpusSample,
    Decoded,
    FrameSpec,
    Skipped,
    decode_sample,
    prefetch_streams,
)
from regen.curate.options import check_minimums, flag_name
from regen.embedders.diffusers_adapter import DiffusersAdapter
from regen.embedders.frozen_encoder import describe, networks_of
from regen.embedders.hybrid import HybridAutoencoder
from regen.embedders.regen_decoder import RegenDecoder
from regen.io import write_text
from regen.locks import Claims
from regen.media.pixels import Size
from regen.pretrained.models import Autoencoder, load_embedder, silence_logging, weights_hash
from regen.runtime import DTYPES, one_thread
from regen.tiling import LATENT_STRIDE, Tile
from regen.workers import run_workers, worker_device

POLL_SECONDS = 0.5  # between two checks of shards that other processes make
MAX_DECODERS = 16  # threads; more take memory and bring nothing
LoadModel = Callable[[], Autoencoder | DiffusersAdapter]


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
        check_minimums(self, frames=1, batch=1, files_per_shard=1)
        _ = self.length  # raises ValueError

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
        given = {name: value for name, value in self.recorded().items() if value is not None}
        return [word for name, value in given.items() for word in (flag_name(name), str(value))]


@dataclass(frozen=True)
class ExportRequest:
    """Latents of `data` by the model called `model`, for the folder `out`."""

    model: str
    data: tuple[str, ...]
    out: Path
    settings: ExportSettings

    def load(self, device: torch.device) -> Autoencoder | DiffusersAdapter:
        return load_embedder(self.model, device, DTYPES[self.settings.dtype])


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

    def finish(self) -> None:
        """Remove what killed processes left behind."""
        with self.claims.alone():
            self.claims.tidy()


Decode = Callable[[ExportPlan, list[CorpusSample]], AbstractContextManager[Iterable[Iterable[Decoded]]]]
"""Decodes the samples of a shard concurrently, in their order: in threads, or elsewhere."""


def export_latents(
    request: ExportRequest,
    device: torch.device,
    processes: int = 1,
    on_progress: OnProgress = lambda done, total: None,
) -> LatentManifest:
    """Make the missing latents; return when all are complete.

    Several processes are started here and share the shards, on all GPUs in turn for `device` "cuda"; other
    calls for the same folder share them too. Unreadable samples are skipped and listed. Raises ValueError,
    OSError or MemoryError; finished shards stay, and the same call continues.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}.")
    silence_logging()
    load_once, decode = cache(partial(request.load, device)), thread_decoder(processes)
    plan = prepare(request, load_once)
    if processes == 1 or not plan.missing():
        export_missing(plan, load_once, decode, on_progress)
    else:
        total = plan.count_samples()
        run_workers(
            partial(_work, plan, device, decode),
            processes,
            lambda: on_progress(plan.count_samples(without=plan.missing()), total),
        )
    plan.finish()
    return plan.manifest


def prepare(request: ExportRequest, load_model: LoadModel) -> ExportPlan:
    """Write the manifest by `load_model`, or check the one there. Raises ValueError for other settings."""
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
    manifest.check_settings(out, settings.recorded(), request.model, weights)
    manifest.check_data(out, corpus.shards)
    return ExportPlan(request, corpus, manifest)


def export_missing(plan: ExportPlan, load_model: LoadModel, decode: Decode, on_progress: OnProgress) -> None:
    """Make the missing shards, together with other processes; return when all are complete."""
    total = plan.count_samples()
    while missing := plan.missing():
        done = before = plan.count_samples(without=missing)
        for number in missing:
            on_sample = partial(_add_progress, on_progress, done, total)
            if export_shard(plan, number, load_model, decode, on_sample):
                done += plan.corpus.shards[number].samples
        if done == before:
            time.sleep(POLL_SECONDS)
    on_progress(total, total)


def _add_progress(on_progress: OnProgress, before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def export_shard(
    plan: ExportPlan,
    number: int,
    load_model: LoadModel,
    decode: Decode,
    on_progress: Callable[[int], object] = lambda samples: None,
) -> bool:
    """Make shard `number`; False when another process does or did. Raises OSError if it can't be written."""
    out, name = plan.request.out, plan.corpus.shards[number].name
    samples, settings = plan.corpus.samples(number), plan.request.settings
    try:
        with plan.claims.claim(name) as folder:
            if folder is None or is_complete(out, name):
                return False
            model, keys = load_model(), [sample.key for sample in samples]
            dtype = DTYPES[settings.latent_dtype]
            embedding = Embedding(model, settings.batch, settings.tile, dtype, settings.length)
            has_sequence = isinstance(model, HybridAutoencoder)
            with (
                one_thread(),
                LatentShardWriter(folder, name, keys, has_sequence) as writer,
                decode(plan, samples) as streams,
            ):
                for done, (sample, result) in enumerate(embedding.run(zip(samples, streams, strict=True)), 1):
                    if isinstance(result, Skipped):
                        writer.skip(sample.key, result.reason)
                    else:
                        writer.add(*result)
                    on_progress(done)
            writer.publish(out)
    except OSError as error:
        raise OSError(
            f"The latents can't be written to {out} ({first_line(error)}); run the same command again to "
            "continue."
        ) from None
    return True


def thread_decoder(processes: int) -> Decode:
    """Decoding in as many threads as there are cores for each of `processes`."""
    return partial(_decode_in_threads, min(MAX_DECODERS, max(1, (os.cpu_count() or 1) // processes)))


def _decode_in_threads(
    threads: int, plan: ExportPlan, samples: list[CorpusSample]
) -> AbstractContextManager[Iterable[Iterable[Decoded]]]:
    return prefetch_streams(
        (decode_sample(plan.corpus, sample, plan.frame_spec) for sample in samples), threads
    )


def _work(plan: ExportPlan, device: torch.device, decode: Decode, number: int) -> None:
    silence_logging()
    load_once = cache(partial(plan.request.load, worker_device(number, device)))
    export_missing(plan, load_once, decode, lambda done, total: None)


def _new_manifest(
    request: ExportRequest, corpus: Corpus, weights: str, model: Autoencoder | DiffusersAdapter
) -> LatentManifest:
    return LatentManifest(
        model=request.model,
        model_class=type(networks_of(model)[0]).__name__,
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
        latent_space=asdict(
            model.space if isinstance(model, RegenDecoder) else describe(model, request.model)
        ),
    )
