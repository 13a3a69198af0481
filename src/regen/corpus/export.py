"""The export of a corpus as latents.

Any number of processes, on machines that share the folder, may run it at once: each shard is claimed, made
and published by one of them, and a later call makes what is missing. A shard has the same bytes whoever makes
it: its batches depend on it alone, and the CPU computes on one thread.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache, partial

import torch

from regen.console import OnProgress, first_line
from regen.corpus.embedding import Embedding
from regen.corpus.plan import ExportPlan, ExportRequest, LoadModel, prepare
from regen.corpus.shards import LatentManifest, LatentShardWriter, is_complete
from regen.corpus.sources import CorpusSample, Decoded, Skipped, decode_sample, prefetch_streams
from regen.embedders.hybrid import HybridAutoencoder
from regen.pretrained.models import Autoencoder, silence_logging
from regen.runtime import DTYPES, one_thread
from regen.workers import run_workers, worker_device

POLL_SECONDS = 0.5  # between two checks of shards that other processes make
MAX_DECODERS = 16  # threads; more take memory and bring nothing
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
    load_once = cache(partial(request.load, device))
    plan = prepare(request, load_once)
    if processes == 1 or not plan.missing():
        export_missing(plan, load_once, thread_decoder(1), on_progress)
    else:
        total = plan.count_samples()
        run_workers(
            partial(_work, plan, device, thread_decoder(processes)),
            processes,
            lambda: on_progress(plan.count_samples(without=plan.missing()), total),
        )
    finish(plan)
    return plan.manifest


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
    """Make shard `number`; False when another process makes or made it. Raises OSError if it can't be "
    "written."""
    out, name = plan.request.out, plan.corpus.shards[number].name
    samples = plan.corpus.samples(number)
    try:
        with plan.claims.claim(name) as folder:
            if folder is None or is_complete(out, name):
                return False
            model, keys = load_model(), [sample.key for sample in samples]
            has_sequence = isinstance(model, HybridAutoencoder)
            with one_thread(), LatentShardWriter(folder, name, keys, has_sequence) as writer:
                _embed(plan, samples, model, decode, writer, on_progress)
            writer.publish(out)
    except OSError as error:
        raise OSError(
            f"The latents can't be written to {out} ({first_line(error)}); run the same command again to "
            "continue."
        ) from None
    return True


def finish(plan: ExportPlan) -> None:
    """Remove what killed processes left behind."""
    with plan.claims.alone():
        plan.claims.tidy()


def thread_decoder(processes: int) -> Decode:
    """Decoding in as many threads as there are cores for each of `processes`."""
    return partial(_decode_in_threads, min(MAX_DECODERS, max(1, (os.cpu_count() or 1) // processes)))


def _decode_in_threads(
    threads: int, plan: ExportPlan, samples: list[CorpusSample]
) -> AbstractContextManager[Iterable[Iterable[Decoded]]]:
    return prefetch_streams(
        (decode_sample(plan.corpus, sample, plan.frame_spec) for sample in samples), threads
    )


def _embed(
    plan: ExportPlan,
    samples: list[CorpusSample],
    model: Autoencoder,
    decode: Decode,
    writer: LatentShardWriter,
    on_progress: Callable[[int], object],
) -> None:
    settings = plan.request.settings
    embedding = Embedding(
        model,
        batch=settings.batch,
        tile=settings.tile,
        dtype=DTYPES[settings.latent_dtype],
        length=settings.length,
    )
    with decode(plan, samples) as streams:
        for done, (sample, result) in enumerate(embedding.run(zip(samples, streams, strict=True)), 1):
            if isinstance(result, Skipped):
                writer.skip(sample.key, result.reason)
            else:
                writer.add(result.info, result.latents)
            on_progress(done)


def _work(plan: ExportPlan, device: torch.device, decode: Decode, number: int) -> None:
    silence_logging()
    load_once = cache(partial(plan.request.load, worker_device(number, device)))
    export_missing(plan, load_once, decode, lambda done, total: None)
