"""The training loop (spec A7, A8): all that is random comes from (seed, step, sample); resuming is exact."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from torch import nn
from torch.utils.data import Dataset

from regen.runtime import pick_dtype
from regen.train.dataloader import BatchKey, BatchLoader
from regen.train.distributed import DistributedContext, parallelize
from regen.train.gradient import AuxiliaryLoss, Batch, Gradient
from regen.train.lifecycle import Evaluate, RunLifecycle
from regen.train.log import MetricAverager
from regen.train.optimizer import OptimizerConfig, build_optimizers, learning_rate_factor, set_learning_rate
from regen.train.state import Ema, TrainState
from regen.train.throughput import ThroughputMeter

SKIPS_IN_A_ROW = 20  # updates left out one after another before a run gives up


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, what to keep of it, and what to tell."""

    steps: int
    seed: int = 0
    ema_decay: float = 0.9999
    save_every_minutes: float = 10.0
    """Time between checkpoints; 0 saves after every update."""
    eval_every: int = 1000
    """Updates between evaluations; there is always one at the end."""
    log_every: int = 20
    keep_last: int = 2
    """How many checkpoints to keep, the newest ones."""
    mixed_precision: str | None = None
    """Precision of the products: bf16 or fp32; None takes bf16 where the hardware has it."""
    num_workers: int = 2
    """Processes that load data, for each process that trains; 0 loads in this one."""
    loader_timeout: float = 600.0
    """Longest wait for a batch; then the processes that load data are started anew."""
    gradient_accumulation_steps: int = 1
    """Parts in which each process works on its share of a batch: less memory, the same result."""
    fsdp: bool = False
    """With several processes, share parameters, gradients and optimizer among them (FSDP2) in place of a
    copy in each (DDP): less memory, more traffic."""
    activation_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do with an update whose loss or gradient is no number: stop the run, or leave that update out.
    Its batch is kept in either case."""

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "log_every", "keep_last", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; give 0 or more.")
        if self.mixed_precision == "fp16":
            raise ValueError("Training in fp16 loses small gradients; use bf16 or fp32.")


class Checkpointable(Protocol):
    """A model that can compute its activations twice."""

    def enable_gradient_checkpointing(self) -> None: ...


def train(
    model: nn.Module,
    batches: Dataset[Batch],
    config: LoopConfig,
    optimizer_config: OptimizerConfig,
    out: Path,
    world: DistributedContext,
    evaluate: Evaluate | None,
    resolved_config: dict[str, Any],
    resume: bool = True,
    further: AuxiliaryLoss | None = None,
) -> TrainState:
    """Train `model` and return the state after `config.steps` updates.

    `batches[step, part, parts]` is a part of the batch of an update, a dictionary of tensors that depends on
    nothing else; its `clip` is "b 3 t h w" in [-1, 1], `rows` says which samples of the whole batch it has
    and `batch_size` how many that has. The processes of `world` share each batch and end with the same
    weights. The folder `out` receives config.json (`resolved_config`, which JSON can hold), log.jsonl and
    checkpoints/; a run found there goes on from its newest checkpoint as if it had never stopped: bit for bit
    on the CPU with as many threads and processes as before, else up to the order of sums.
    `evaluate(averaged_model, step, leave)` returns numbers for the log, or None because `leave()` was true.
    `further` is handed to the model's `loss`; what it learns is part of the checkpoints.

    Raises Interrupted after SIGINT, SIGTERM or SIGUSR1 to any of the processes, when all is saved; ValueError
    when the run in `out` has another configuration (or is there at all while `resume` is False), its newest
    checkpoint is damaged or none can be written, or the training diverges.
    """
    dtype = pick_dtype(config.mixed_precision, world.device)
    model.to(world.device).train()
    if config.activation_checkpointing:
        cast(Checkpointable, model).enable_gradient_checkpointing()
    meter, average = ThroughputMeter(model, world.device, world.size), copy.deepcopy(model)
    parallel = parallelize(model, average, world, config.fsdp, dtype)
    optimizers = build_optimizers(model, optimizer_config)
    state = TrainState(model, Ema(model, average, config.ema_decay), optimizers, further)
    gradient = Gradient(parallel, state, world, dtype, config.seed, optimizer_config.max_grad_norm, further)
    watch = RunLifecycle(
        state,
        out,
        world,
        resolved_config,
        evaluate,
        config.steps,
        config.keep_last,
        config.save_every_minutes,
    )
    is_continued = watch.open(resume)
    keys = keys_of(state.step, config, world)
    with (
        watch as log,
        BatchLoader(batches, keys, config.num_workers, world.device, config.loader_timeout) as loader,
    ):
        if is_continued and state.step < config.steps:
            log.print(f"Continuing the run in {out} after step {state.step}.")
        elif is_continued:
            log.print(f"The run in {out} is finished: {state.step} of {config.steps} steps are done.")
        if is_continued:
            watch.evaluate_if_missed(config.eval_every)
        window, loaded, concat_chunks = MetricAverager(), iter(loader), 0
        meter.restart_clock()
        while state.step < config.steps:
            rows = []
            for index in range(config.gradient_accumulation_steps):
                waited = loader.waited
                batch = next(loaded)
                rows.append(gradient.add(batch, is_last=index == config.gradient_accumulation_steps - 1))
                meter.add(batch, loader.waited - waited)
            norm, is_finite = gradient.finish()
            factor = learning_rate_factor(state.step, config.steps, optimizer_config)
            is_finite, save = watch.sync_flags(is_finite)
            if is_finite:
                set_learning_rate(state.optimizers, factor)
                gradient.apply()
                for row in rows:
                    window.add(row | {"gradient_norm": norm})
                concat_chunks = 0
            else:
                concat_chunks += 1
                watch.handle_nonfinite(
                    gradient, skip=config.on_nonfinite == "skip" and concat_chunks < SKIPS_IN_A_ROW
                )
            log.advance(state.step)
            leaving = watch.stop_signal > 0 or state.step == config.steps
            if (leaving or state.step % config.log_every == 0) and window.counts:
                counts = {"learning_rate_factor": factor, "skipped_updates": state.skipped} | loader.counts
                log.log_training(state.step, world.all_reduce_mean(window.means()) | meter.report() | counts)
                window.reset()
            if leaving or save:
                watch.save()
                meter.restart_clock()
            watch.leave_if_asked()
            if state.step == config.steps or state.step % config.eval_every == 0:
                watch.evaluate()
                meter.restart_clock()
    return state


def keys_of(step: int, config: LoopConfig, world: DistributedContext) -> list[BatchKey]:
    """The parts of the batches from update `step` on that this process works on, in their order."""
    parts = world.size * config.gradient_accumulation_steps
    mine = range(
        world.rank * config.gradient_accumulation_steps, (world.rank + 1) * config.gradient_accumulation_steps
    )
    return [(update, part, parts) for update in range(step, config.steps) for part in mine]
