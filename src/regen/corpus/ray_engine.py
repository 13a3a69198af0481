"""The export on a Ray cluster: actors embed, one for each GPU, and tasks decode for them on the CPUs.

Ray Data hands the shards out, and gives a shard to another actor when the one that had it dies; the claim on
it dies with the actor. Each actor starts the tasks that decode its shard and stream their chunks to it; Ray
repeats those that die. All else is `generate.latents`, so the bytes are the same. The data and the folder of
the latents must be reachable under one name from every machine.
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

from regen.console import first_line
from regen.corpus.clip_stream import Decoded, decode_samples
from regen.corpus.export import PATIENCE, Decode, OnProgress, finish, make
from regen.corpus.plan import Export, ExportPlan, prepare
from regen.corpus.shards import LatentManifest, is_complete
from regen.corpus.sources import Sample
from regen.pretrained.models import find_model, silence_logging
from regen.runtime import dtype_name, pick_device, pick_dtype

RUN = 8  # samples that one task decodes
DEPTH = 4  # chunks of a task that are decoded before they are asked for


@dataclass(frozen=True)
class Cluster:
    """What a Ray cluster has."""

    cpus: int
    gpus: int

    def device(self, name: str | None) -> torch.device:
        """Where to embed: the device called `name`, or the GPUs where there are some.

        Raises ValueError when the cluster has no such device.
        """
        device = torch.device("cuda" if self.gpus else "cpu") if name is None else _device(name)
        if device.type == "cuda" and not self.gpus:
            raise ValueError("The Ray cluster has no GPU; give --device cpu, or add a machine that has one.")
        return device

    def embedders(self, device: torch.device, wanted: int | None) -> int:
        """How many actors embed: as many as `wanted`, or one for each GPU, or each second core.

        Raises ValueError when no core would be left to decode.
        """
        most = self.gpus if device.type == "cuda" else self.cpus - 1
        if most < 1:
            raise ValueError(
                f"The Ray cluster has {self.cpus} CPU cores; let it have 2 or more, to embed and to decode."
            )
        if wanted is not None and not 1 <= wanted <= most:
            raise ValueError(f"The Ray cluster has room for 1 to {most} processes that embed, not {wanted}.")
        return wanted or (most if device.type == "cuda" else self.cpus // 2)


def default_dtype(device: torch.device) -> str:
    """The precision in which a cluster computes by default; its GPUs are not those of this machine."""
    return "bf16" if device.type == "cuda" else dtype_name(pick_dtype(None, device))


@contextmanager
def connected() -> Iterator[Cluster]:
    """In the block: the Ray cluster that this machine belongs to, or one that is started for the block.

    Raises ValueError when Ray is not installed or the cluster can't be reached.
    """
    ray = _ray()
    begun_here = not ray.is_initialized()
    if begun_here:
        # Ray Data starts its actors in a way of which Ray complains on standard error (ray 2.60).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"The Ray cluster can't be reached ({first_line(error)}).") from None
    try:
        found = ray.cluster_resources()
        yield Cluster(int(found.get("CPU", 0)), int(found.get("GPU", 0)))
    finally:
        if begun_here:
            ray.shutdown()


def export_latents_with_ray(
    export: Export,
    cluster: Cluster,
    device: torch.device,
    embedders: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> LatentManifest:
    """What `generate.latents.export_latents` does, on a cluster, in a block of `connected`.

    `embedders` actors embed, by default one for each GPU, or each second core of a cluster without. Raises
    ValueError in one sentence.
    """
    count, export = cluster.embedders(device, embedders), _everywhere(export)
    silence_logging()
    plan = prepare(export, partial(export.load, torch.device("cpu")))
    total = plan.count_samples_except(())
    while missing := plan.missing():
        done = before = plan.count_samples_except(missing)
        on_progress(done, total)
        for row in _results(export, missing, device, min(count, len(missing)), cluster.cpus):
            if row["failure"]:
                raise ValueError(row["failure"])
            if row["done"]:
                done += plan.corpus.shards[row["shard"]].samples
                on_progress(done, total)
        if done == before:
            time.sleep(PATIENCE)
    finish(plan)
    return plan.manifest


class Embedder:
    """An actor: makes the latents of one shard after the other. Each row names a shard.

    A row that comes back tells whether they are there, or in a sentence why not.
    """

    def __init__(self, export: Export, device: str, tasks: int) -> None:
        self._export, self._tasks = export, tasks
        self._load = cache(partial(export.load, torch.device(device)))

    @cached_property
    def _plan(self) -> ExportPlan:
        silence_logging()
        return prepare(self._export, self._load)

    @cached_property
    def _decode(self) -> Decode:
        return partial(_in_tasks, _ray().put(self._plan.corpus), self._tasks)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["shard"])
        try:
            make(self._plan, number, self._load, self._decode, lambda done: None)
        except (ValueError, OSError, MemoryError) as error:
            return {"shard": number, "done": False, "failure": str(error)}
        # Also when another made it, such as the actor that died before it could say so.
        done = is_complete(self._export.out, self._plan.corpus.shards[number].name)
        return {"shard": number, "done": done, "failure": ""}


@contextmanager
def _in_tasks(
    corpus: Any, tasks: int, plan: ExportPlan, samples: list[Sample]
) -> Iterator[Iterator[Iterator[Decoded]]]:
    """In the block: what each sample is decoded to, in their order, by up to `tasks` tasks at a time.

    `corpus` is Ray's reference to that of the plan.
    """
    ray = _ray()
    options = {"num_cpus": 1, "max_retries": -1, "num_returns": "streaming"}
    remote = ray.remote(**options, _generator_backpressure_num_objects=DEPTH)(decode_samples)
    runs = (samples[start : start + RUN] for start in range(0, len(samples), RUN))
    begun = deque[Any]()

    def streams() -> Iterator[Iterable[Any]]:
        while True:
            begun.extend(remote.remote(corpus, run, plan.view) for run in islice(runs, tasks - len(begun)))
            if not begun:
                return
            yield begun[0]
            begun.popleft()

    pieces = map(ray.get, chain.from_iterable(streams()))
    try:
        yield ((piece for _, piece in each) for _, each in groupby(pieces, key=itemgetter(0)))
    finally:
        for task in begun:
            ray.cancel(task)


def _results(
    export: Export, shards: list[int], device: torch.device, embedders: int, cpus: int
) -> Iterator[dict[str, Any]]:
    """The rows of `Embedder` as they come. Raises ValueError when Ray itself fails."""
    ray = _ray()
    from ray.data import DataContext
    from ray.exceptions import RayError

    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    on_gpu = device.type == "cuda"
    rows = ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
    free = cpus if on_gpu else cpus - embedders
    made = rows.map(
        Embedder,
        fn_constructor_args=(export, str(device), max(1, free // embedders)),
        num_gpus=1 if on_gpu else 0,
        num_cpus=0 if on_gpu else 1,
        concurrency=embedders,
    )
    try:
        yield from made.iter_rows()
    except RayError as error:
        raise ValueError(f"The work on the Ray cluster failed ({first_line(error)}).") from None


def _everywhere(export: Export) -> Export:
    """The same, with paths that do not depend on the folder in which a process works."""
    data = tuple(place if "://" in place else os.path.abspath(place) for place in export.data)
    own = os.path.abspath(export.model)
    is_path = find_model(export.model).absolute().is_relative_to(own)
    return replace(export, data=data, out=export.out.absolute(), model=own if is_path else export.model)


def _device(name: str) -> torch.device:
    """A GPU of the cluster, which this machine need not have, or a device of this machine."""
    return torch.device("cuda") if name == "cuda" else pick_device(name)


def _ray() -> Any:
    try:
        import ray.data
    except ImportError:
        raise ValueError(
            'The engine ray needs another package; install it by pip install "regen[ray]".'
        ) from None
    return ray
