"""The latents of a whole corpus: what is missing is claimed, made, and given its name.

Any number of processes, on machines that share the folder, may do this at once; each shard is made by one of
them, and a later call does what is missing. The same shard gives the same bytes whoever makes it: its batches
depend on it alone, and on the CPU a process computes on one thread.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache, partial

import torch

from regen.corpus.clip_stream import Decoded, Skipped, decoded, prefetch_streams
from regen.corpus.embedding import Embedding
from regen.corpus.plan import Export, ExportPlan, LoadModel, prepare
from regen.corpus.shards import LatentManifest, LatentShardWriter, is_complete
from regen.corpus.sources import Sample
from regen.embedders.hybrid import HybridAutoencoder
from regen.pretrained.models import Autoencoder, silence_logging
from regen.runtime import DTYPES, one_thread
from regen.workers import run_workers, worker_device

PATIENCE = 0.5  # seconds between two looks at what other processes are doing
MOST_DECODERS = 16  # threads; further ones hold more memory than they bring
OnProgress = Callable[[int, int], None]  # samples done; samples in all
# What decodes the samples of a shard, in their order, side by side: in threads, or elsewhere.
Decode = Callable[[ExportPlan, list[Sample]], AbstractContextManager[Iterable[Iterable[Decoded]]]]


def export_latents(
    export: Export,
    device: torch.device,
    processes: int = 1,
    on_progress: OnProgress = lambda done, total: None,
) -> LatentManifest:
    """Make what is missing of the latents, and return when all of them are there.

    With more than one process they are started here and share the work; `device` "cuda" is then all GPUs in
    turn. Other calls for the same folder, in other processes, share it as well. Samples that are damaged are
    left out and noted. Raises ValueError, OSError or MemoryError in one sentence; what was done until then is
    kept, and the same call goes on from there.
    """
    if processes < 1:
        raise ValueError(f"{processes} processes do nothing; give 1 or more.")
    silence_logging()
    load_once = cache(partial(export.load, device))
    plan = prepare(export, load_once)
    if processes == 1 or not plan.missing():
        work(plan, load_once, decoders(1), on_progress)
    else:
        total = plan.count_samples_except(())
        run_workers(
            partial(_work, plan, device, decoders(processes)),
            processes,
            lambda: on_progress(plan.count_samples_except(plan.missing()), total),
        )
    finish(plan)
    return plan.manifest


def work(plan: ExportPlan, load_model: LoadModel, decode: Decode, on_progress: OnProgress) -> None:
    """Make what is missing, beside other processes, and return when all of it is there."""
    total = plan.count_samples_except(())
    while missing := plan.missing():
        done = before = plan.count_samples_except(missing)
        for number in missing:
            if make(plan, number, load_model, decode, partial(_tell, on_progress, done, total)):
                done += plan.corpus.shards[number].samples
        if done == before:
            time.sleep(PATIENCE)
    on_progress(total, total)


def make(
    plan: ExportPlan, number: int, load_model: LoadModel, decode: Decode, on_sample: Callable[[int], object]
) -> bool:
    """Make shard `number`; False when another process does, or has done.

    Raises OSError, in one sentence, when it can't be written.
    """
    out, name = plan.export.out, plan.corpus.shards[number].name
    samples = plan.corpus.samples(number)
    try:
        with plan.claims.claim(name) as place:
            if place is None or is_complete(out, name):
                return False
            model, keys = load_model(), [sample.key for sample in samples]
            hybrid = isinstance(model, HybridAutoencoder)
            with one_thread(), LatentShardWriter(place, name, keys, hybrid) as writer:
                _embed(plan, samples, model, decode, writer, on_sample)
            writer.publish(out)
    except OSError as error:
        raise OSError(
            f"The latents can't be written to {out} ({error.strerror or error}); mend that and run the same "
            "command again, which keeps what is done."
        ) from None
    return True


def _tell(on_progress: OnProgress, before: int, total: int, done: int) -> None:
    on_progress(before + done, total)


def finish(plan: ExportPlan) -> None:
    """Tidy up what processes have left that were killed."""
    with plan.claims.alone():
        plan.claims.tidy()


def decoders(processes: int) -> Decode:
    """Decoding in threads, as many as this machine has cores for each of `processes`."""
    width = min(MOST_DECODERS, max(1, (os.cpu_count() or 1) // processes))
    return partial(_in_threads, width)


def _in_threads(
    width: int, plan: ExportPlan, samples: list[Sample]
) -> AbstractContextManager[Iterable[Iterable[Decoded]]]:
    return prefetch_streams((decoded(plan.corpus, sample, plan.view) for sample in samples), width)


def _embed(
    plan: ExportPlan,
    samples: list[Sample],
    model: Autoencoder,
    decode: Decode,
    writer: LatentShardWriter,
    on_sample: Callable[[int], object],
) -> None:
    settings = plan.export.settings
    dtype, length = DTYPES[settings.store], settings.kept
    embedding = Embedding(model, batch=settings.batch, tile=settings.tile, dtype=dtype, length=length)
    with decode(plan, samples) as streams:
        results = embedding.run(zip(samples, streams, strict=True))
        for done, (sample, result) in enumerate(results, 1):
            if isinstance(result, Skipped):
                writer.leave_out(sample.key, result.reason)
            else:
                writer.add(result.facts, result.latents)
            on_sample(done)


def _work(plan: ExportPlan, device: torch.device, decode: Decode, number: int) -> None:
    silence_logging()
    load_once = cache(partial(plan.export.load, worker_device(number, device)))
    work(plan, load_once, decode, lambda done, total: None)
