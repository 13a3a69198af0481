"""Training on one GPU: speed and memory of a step, collectives, checkpoints, a resumable run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from train_speed import SameBatch

from regen.data.tasks import TaskConfig
from regen.recipes import RECIPES
from regen.recipes.plan import Hardware, plan
from regen.runtime import generator_for, pick_dtype
from regen.train.checkpoint import list_checkpoints, load_ema
from regen.train.distributed import DistributedContext, LossModule, shard
from regen.train.loop import train
from regen.train.recipe import Recipe, build_model
from regen.train.throughput import parse_row

Figures = dict[str, Any]
GPUS = 32  # of the paper
NEVER = 1e9
WAYS: dict[str, dict[str, Any]] = {
    "checkpointed activations": {"activation_checkpointing": True},
    "compiled": {"activation_checkpointing": True, "compile": True},
    "activations kept": {"activation_checkpointing": False},
}
SAVING_SECONDS = 35.0  # a last checkpoint and the model
SHARD = "15MB"  # of the model that a run leaves


class _EnoughError(Exception):
    """What is to be measured has been."""


def one_device_share(name: str, is_dry: bool, depth: int | None = None) -> Recipe:
    """A recipe with the clips of one of its GPUs and reconstruction alone; `depth`: of the decoder."""
    recipe = RECIPES[name]
    stage = recipe.data.stages[-1]
    clips = 2 if is_dry else stage.video_batch_size // GPUS
    return replace(
        recipe,
        model=recipe.model if depth is None else replace(recipe.model, depth=depth),
        data=replace(recipe.data, stages=(replace(stage, video_batch_size=clips, image_batch_size=clips),)),
        tasks=TaskConfig(image_share=0.0, warmup_fraction=1.0),
        loop=replace(
            recipe.loop, fsdp=False, num_workers=0, steps=10**6, eval_every=2 if is_dry else 4,
            log_every=2 if is_dry else 4, save_every_minutes=NEVER, track="none",
            activation_checkpointing=recipe.loop.activation_checkpointing and not is_dry,
        ),
    )  # fmt: skip


def planned_memory(recipe: Recipe) -> Figures:
    """The memory of a step by `regen plan`, in GB."""
    whole = plan(recipe, Hardware(gpus=1, memory=141_000_000_000, gpu="H200"))
    return {"memory_gb": whole.phases[0].bytes / 1e9, "tflop": whole.tflop}


def run_until(recipe: Recipe, folder: Path, device: torch.device, rounds: int, seconds: float = 0.0) -> None:
    """Train on one batch for `seconds`, and until it has been logged `rounds` times."""
    with torch.device(device):
        model = build_model(recipe.model)
    batches = SameBatch(recipe.model.temporal_compression_ratio, recipe.data.stages[0], recipe.loop.steps)
    begin = time.monotonic()
    calls: list[None] = []

    def stop(*_: object) -> dict[str, float]:
        calls.append(None)
        if len(calls) >= rounds and time.monotonic() - begin >= seconds:
            raise _EnoughError
        return {}

    try:
        train(model, batches, recipe.loop, recipe.optimizer, folder, DistributedContext(device), stop, {})
    except _EnoughError:
        return


def rows_of(folder: Path) -> list[Figures]:
    """The logged rows of a run, of training alone; none before it has begun."""
    path = folder / "log.jsonl"
    rows = map(parse_row, path.read_text().splitlines() if path.is_file() else [])
    return [row for row in rows if "clips_per_second" in row]


def measure(recipe: Recipe, folder: Path, device: torch.device) -> Figures:
    """Tokens per second, FLOPs, their share of the peak and memory of the updates after the first ones."""
    run_until(recipe, folder, device, rounds=2)
    row = rows_of(folder)[-1]
    names = ("tokens_per_second", "clips_per_second", "tflops_per_second", "mfu", "memory_gb")
    return {name: row[name] for name in names if name in row}


def collectives(scratch: Path, device: torch.device) -> Iterator[tuple[str, Figures]]:
    """NCCL, or gloo, among one process: results, rates, and a loss under DDP and FSDP2 as without."""
    meeting = (scratch / f"store-{os.getpid()}").absolute().as_uri()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1, timeout=timedelta(minutes=2))
    try:
        yield "collectives", rates(device)
        context = DistributedContext(device, 0, 1, dist.new_group(backend="gloo"))
        yield "parallel", losses(context)
    finally:
        dist.destroy_process_group()


def rates(device: torch.device) -> Figures:
    """GB per second of each collective; ValueError where one changes what it should not."""
    count = 1 << (28 if device.type == "cuda" else 18)
    x, out = torch.ones(count, device=device), torch.zeros(count, device=device)
    works = {
        "all_reduce": lambda: dist.all_reduce(x),
        "broadcast": lambda: dist.broadcast(x, 0),
        "all_gather": lambda: dist.all_gather_into_tensor(out, x),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(out, x),
    }
    found: Figures = {}
    for name, work in works.items():
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        before = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found[f"{name}_gb_per_second"] = 4e-9 * count / (time.perf_counter() - before)
    if not bool((x == 1).all() and (out == 1).all()):
        raise ValueError("The collectives of one process must leave its numbers as they are.")
    return found


def losses(context: DistributedContext) -> Figures:
    """The loss of a toy alone, under DDP, and under FSDP2, with the norms of their gradients."""
    recipe, device = one_device_share("toy", is_dry=True), context.device
    stage = recipe.data.stages[0]
    batch = {
        name: value.to(device)
        for name, value in SameBatch(recipe.model.temporal_compression_ratio, stage, 1).batch.items()
        if name in ("clip", "target", "times")
    }
    found: Figures = {}
    for way in ("alone", "ddp", "fsdp2"):
        torch.manual_seed(0)
        model = build_model(recipe.model).to(device).train()
        if way == "fsdp2":
            shard(model, context, pick_dtype("fp32", device))
        function: Callable[..., Any] = model.loss  # after `shard`, which wraps it
        if way == "ddp":
            ids = [device] if device.type == "cuda" else None
            function = DistributedDataParallel(LossModule(model), device_ids=ids)
        loss, _ = function(batch, [generator_for(0, row) for row in range(stage.video_batch_size)])
        loss.backward()
        found[f"{way}_loss"] = float(loss.detach())
    if max(abs(found[f"{way}_loss"] / found["alone_loss"] - 1) for way in ("ddp", "fsdp2")) > 1e-3:
        raise ValueError(f"The losses must be equal, got {found}.")
    return found


def seconds_stolen(recipe: Recipe, scratch: Path, device: torch.device, seconds: float) -> Figures:
    """How much longer updates take while checkpoints are written, for each checkpoint."""
    every = replace(recipe, loop=replace(recipe.loop, log_every=1, eval_every=1, keep_last=9))
    often = replace(every, loop=replace(every.loop, save_every_minutes=seconds / 2.5 / 60))
    durations = {}
    for name, one in (("quiet", every), ("saving", often)):
        folder = scratch / f"checkpoints-{name}"
        run_until(one, folder, device, rounds=4, seconds=seconds)
        clock = [row["seconds"] for row in rows_of(folder)]
        durations[name] = [after - before for before, after in pairwise(clock[1:])]
    step, saved = median(durations["quiet"]), list_checkpoints(scratch / "checkpoints-saving" / "checkpoints")
    extra = sum(durations["saving"]) - step * len(durations["saving"])
    size = sum(file.stat().st_size for file in saved[0].iterdir()) if saved else 0
    return {
        "seconds_per_update": step,
        "checkpoints": len(saved),
        "checkpoint_gb": size / 1e9,
        "seconds_stolen_each": extra / max(1, len(saved)),
        "longest_update": max(durations["saving"], default=0.0),
    }


def train_until(
    recipe: str, data: Path, run: Path, model: Path, device: torch.device, seconds: float, is_dry: bool
) -> Iterator[tuple[str, Figures]]:
    """Train a recipe for `seconds`, stop it with its state saved, and leave its averaged model in bf16.

    A dry run is stopped after its first update.
    """
    end = time.monotonic() + max(5.0, seconds - SAVING_SECONDS)
    workers = str(max(0, min(14, (os.cpu_count() or 1) - 2)))
    command = [
        sys.executable, "-m", "regen", "train", recipe, "--data", str(data), "--out", str(run),
        "--device", device.type, "--loop.num-workers", workers, "--loop.save-every-minutes", "1",
        "--track", "none", *["--loop.log-every", "1"] * is_dry,
    ]  # fmt: skip
    process = subprocess.Popen(command)
    while process.poll() is None and time.monotonic() < end and not (is_dry and rows_of(run)):
        time.sleep(0.5)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait()
    if process.returncode not in (0, 128 + signal.SIGTERM):
        raise ValueError(f"regen train must end with status 0 or 143, got {process.returncode}; see above.")
    rows = rows_of(run)
    yield "training", {"exit_status": process.returncode, **(rows[-1] if rows else {})}
    checkpoints = list_checkpoints(run / "checkpoints")
    if checkpoints:
        trained = build_model(RECIPES[recipe].model)
        trained.load_state_dict(load_ema(checkpoints[-1]))
        trained.to(torch.bfloat16).save_pretrained(model, max_shard_size=SHARD)
        info = json.loads((checkpoints[-1] / "checkpoint.json").read_text())
        yield "model", {"folder": str(model), "step": info["step"]}
