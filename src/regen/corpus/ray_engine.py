"""The export on a Ray cluster.

Actors embed, one per GPU, and tasks decode for them on the CPUs. Ray Data distributes the shards, and gives a
shard to another actor when its actor dies, as its claim ends with it. Each actor starts the tasks that decode
its shard and stream the chunks to it; Ray repeats tasks that die. Everything else is `regen.corpus.export`,
so the bytes are the same. The data and the folder of the latents must have the same path on every machine.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any

import torch

from regen.console import OnProgress, first_line
from regen.corpus.export import POLL_SECONDS, Decode, ExportPlan, ExportRequest, export_shard, prepare
from regen.corpus.shards import LatentManifest, is_complete
from regen.corpus.sources import Corpus, CorpusSample, Decoded, FrameSpec, decode_sample
from regen.pretrained.listing import find_model
from regen.pretrained.models import silence_logging
from regen.runtime import dtype_name, pick_device, pick_dtype

SAMPLES_PER_TASK = 8
PREFETCH_CHUNKS = 4  # of each decoding task


@dataclass(frozen=True)
class Cluster:
    """Resources of a Ray cluster."""

    cpus: int
    gpus: int

    def device(self, name: str | None) -> torch.device:
        """The device that embeds, by default a GPU if any. Raises ValueError for "cuda" without GPUs."""
        if name is None:
            device = torch.device("cuda" if self.gpus else "cpu")
        else:
            device = torch.device("cuda") if name == "cuda" else pick_device(name)
        if device.type == "cuda" and not self.gpus:
            raise ValueError("The Ray cluster has no GPU; give --device cpu, or add a machine with one.")
        return device

    def embedders(self, device: torch.device, requested: int | None) -> int:
        """Actors that embed: one per GPU or second core. Raises ValueError if no core is left to decode."""
        maximum = self.gpus if device.type == "cuda" else self.cpus - 1
        if maximum < 1:
            raise ValueError(f"The Ray cluster must have 2 CPU cores or more, got {self.cpus}.")
        if requested is not None and not 1 <= requested <= maximum:
            raise ValueError(f"--processes must be 1 to {maximum} on this Ray cluster, got {requested}.")
        return requested or (maximum if device.type == "cuda" else self.cpus // 2)


def default_dtype(device: torch.device) -> str:
    """Default precision on a cluster, whose GPUs are not those of this machine."""
    return "bf16" if device.type == "cuda" else dtype_name(pick_dtype(None, device))


@contextmanager
def connected() -> Iterator[Cluster]:
    """The Ray cluster of this machine, or one for the block. Raises ValueError without Ray or connection."""
    ray = _ray()
    started_here = not ray.is_initialized()
    if started_here:
        # Ray complains on standard error about the way Ray Data starts its actors (ray 2.60).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"The Ray cluster can't be reached ({first_line(error)}).") from None
    try:
        found = ray.cluster_resources()
        yield Cluster(int(found.get("CPU", 0)), int(found.get("GPU", 0)))
    finally:
        if started_here:
            ray.shutdown()


def export_latents_with_ray(
    request: ExportRequest,
    cluster: Cluster,
    device: torch.device,
    embedders: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> LatentManifest:
    """`export_latents` on a cluster, inside `connected`, with `embedders` actors. Raises ValueError."""
    count, request = cluster.embedders(device, embedders), _absolute_paths(request)
    silence_logging()
    plan = prepare(request, partial(request.load, torch.device("cpu")))
    total = plan.count_samples()
    while missing := plan.missing():
        done = before = plan.count_samples(without=missing)
        on_progress(done, total)
        for row in _run_actors(request, missing, device, min(count, len(missing)), cluster.cpus):
            if row["failure"]:
                raise ValueError(row["failure"])
            if row["done"]:
                done += plan.corpus.shards[row["shard"]].samples
                on_progress(done, total)
        if done == before:
            time.sleep(POLL_SECONDS)
    plan.finish()
    return plan.manifest


class EmbeddingActor:
    """An actor that makes the shards named in its rows, and returns whether they are complete or why not."""

    def __init__(self, request: ExportRequest, device: str, tasks: int) -> None:
        self._request, self._tasks = request, tasks
        self._load = cache(partial(request.load, torch.device(device)))

    @cached_property
    def _plan(self) -> ExportPlan:
        silence_logging()
        return prepare(self._request, self._load)

    @cached_property
    def _decode(self) -> Decode:
        return partial(_decode_in_tasks, _ray().put(self._plan.corpus), self._tasks)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["shard"])
        try:
            export_shard(self._plan, number, self._load, self._decode)
        except (ValueError, OSError, MemoryError) as error:
            return {"shard": number, "done": False, "failure": str(error)}
        # Also when another actor made it and died before it could report.
        done = is_complete(self._request.out, self._plan.corpus.shards[number].name)
        return {"shard": number, "done": done, "failure": ""}


def decode_samples(
    corpus: Corpus, samples: Iterable[CorpusSample], spec: FrameSpec
) -> Iterator[tuple[int, Decoded]]:
    """The chunks of several samples, one sample after the other, with the sample's number."""
    for sample in samples:
        for item in decode_sample(corpus, sample, spec):
            yield sample.number, item


@contextmanager
def _decode_in_tasks(
    corpus: Any, tasks: int, plan: ExportPlan, samples: list[CorpusSample]
) -> Iterator[Iterator[Iterator[Decoded]]]:
    """In the block: decoded samples in order, by up to `tasks` tasks; `corpus` is Ray's reference."""
    ray = _ray()
    options = {"num_cpus": 1, "max_retries": -1, "num_returns": "streaming"}
    remote = ray.remote(**options, _generator_backpressure_num_objects=PREFETCH_CHUNKS)(decode_samples)
    starts = range(0, len(samples), SAMPLES_PER_TASK)
    parts = (samples[start : start + SAMPLES_PER_TASK] for start in starts)
    begun = deque[Any]()

    def streams() -> Iterator[Iterable[Any]]:
        while True:
            for part in islice(parts, tasks - len(begun)):
                begun.append(remote.remote(corpus, part, plan.frame_spec))
            if not begun:
                return
            yield begun[0]
            begun.popleft()

    items = map(ray.get, chain.from_iterable(streams()))
    try:
        yield ((item for _, item in each) for _, each in groupby(items, key=itemgetter(0)))
    finally:
        for task in begun:
            ray.cancel(task)


def _run_actors(
    request: ExportRequest, shards: list[int], device: torch.device, embedders: int, cpus: int
) -> Iterator[dict[str, Any]]:
    """The rows of `EmbeddingActor` as they come. Raises ValueError when Ray itself fails."""
    ray = _ray()
    from ray.data import DataContext
    from ray.exceptions import RayError

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    on_gpu = device.type == "cuda"
    rows = ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
    free = cpus if on_gpu else cpus - embedders
    results = rows.map(
        EmbeddingActor,
        fn_constructor_args=(request, str(device), max(1, free // embedders)),
        num_gpus=1 if on_gpu else 0,
        num_cpus=0 if on_gpu else 1,
        concurrency=embedders,
    )
    try:
        yield from results.iter_rows()
    except RayError as error:
        raise ValueError(f"The work on the Ray cluster failed ({first_line(error)}).") from None


def _absolute_paths(request: ExportRequest) -> ExportRequest:
    """The same request, independent of a process's working directory."""
    data = tuple(place if "://" in place else os.path.abspath(place) for place in request.data)
    folder = os.path.abspath(request.model)
    is_path = find_model(request.model).absolute().is_relative_to(folder)
    model = folder if is_path else request.model
    return replace(request, data=data, out=request.out.absolute(), model=model)


def _ray() -> Any:
    try:
        import ray.data
    except ImportError:
        raise ValueError('--engine ray needs Ray; install it by pip install "regen[ray]".') from None
    return ray
