"""The training loop: forward, backward, clipping, step and weight averaging.

All randomness derives from (seed, step, sample), so that a resumed run equals an uninterrupted one.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import Dataset
from tyro.conf import arg

from regen.losses.auxiliary import AuxiliaryLosses
from regen.runtime import generator_for, pick_dtype
from regen.train.checkpoint import Ema, TrainState
from regen.train.dataloader import Batch, BatchLoader
from regen.train.distributed import (
    DistributedContext,
    LossFunction,
    Trainable,
    compile_blocks,
    full_tensor,
    parallelize,
)
from regen.train.lifecycle import Evaluate, RunLifecycle
from regen.train.optimizer import OptimizerConfig, build_optimizers, learning_rate_factor, set_learning_rate
from regen.train.throughput import MetricAverager, ThroughputMeter
from regen.train.tracking import TrackerName

MAX_SKIPS_IN_A_ROW = 20  # after which a run stops
# No sample has a negative index, so the noise of the loss never repeats the numbers that drew the data.
LOSS_STREAM = -1
CPU_KEYS = frozenset(  # of a batch: read by the host
    {"rows", "batch_size", "least", "replaced", "progress", "margin"}
)


@dataclass(frozen=True)
class LoopConfig:
    """Length of the training, checkpoints, evaluations, precision and parallelism."""

    steps: int
    seed: int = 0
    ema_decay: float = 0.9999
    save_every_minutes: float = 10.0
    """Time between checkpoints; 0 saves after every update."""
    eval_every: int = 1000
    """Updates between evaluations; the last update is always evaluated."""
    log_every: int = 20
    keep_last: int = 2
    """Number of checkpoints to keep."""
    mixed_precision: str | None = None
    """Autocast precision: bf16 or fp32; None selects bf16 where the hardware supports it."""
    num_workers: int = 2
    """Data loading processes per training process; 0 loads in the training process."""
    loader_timeout: float = 600.0
    """Seconds to wait for a batch before the data loading processes are restarted."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per update in each process: less memory, the same result."""
    fsdp: bool = False
    """Shard parameters, gradients and optimizer state over the processes (FSDP2) instead of replicating them
    (DDP): less memory, more communication."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    compile: bool = False
    """Compile the blocks by torch.compile: minutes at the start, faster updates afterwards."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when the loss or the gradient is not finite: stop the run or skip the update. The batch is
    saved in either case."""
    track: Annotated[TrackerName | None, arg(prefix_name=False)] = None
    """Where metrics and previews go besides log.jsonl: tensorboard, wandb, trackio or none. By default
    TensorBoard where it is installed."""

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "log_every", "keep_last", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}.")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {self.num_workers}.")
        if self.mixed_precision == "fp16":
            raise ValueError("mixed_precision must be bf16 or fp32, got fp16, which loses small gradients.")


def train(
    model: nn.Module,
    batches: Dataset[Batch],
    config: LoopConfig,
    optimizer_config: OptimizerConfig,
    out: Path,
    context: DistributedContext,
    evaluate: Evaluate | None,
    resolved_config: dict[str, Any],
    resume: bool = True,
    auxiliary: AuxiliaryLosses | None = None,
) -> TrainState:
    """Train `model` and return the state after `config.steps` updates.

    `batches[step, part, parts]` is a part of the batch of an update: a dictionary of tensors with `clip`
    (b 3 t h w in [-1, 1]), the indices `rows` of its samples in the whole batch, and `batch_size` of that.
    The processes of `context` share each batch and end with the same weights. `out` receives config.json
    (`resolved_config`), log.jsonl and checkpoints/; a run found there resumes from its newest checkpoint, bit
    for bit on the CPU with as many threads and processes as before, else up to the order of sums.
    `evaluate(ema_model, step, should_stop)` returns metrics, or None once `should_stop()` is true. The state
    of `auxiliary`, which is passed to the model's `loss`, is part of the checkpoints.

    Raises Interrupted after SIGINT, SIGTERM or SIGUSR1 to any of the processes, with the state saved;
    ValueError when the run in `out` has other settings (or exists while `resume` is False), its
    newest checkpoint is damaged or none can be written, or the training diverges.
    """
    device, dtype = context.device, pick_dtype(config.mixed_precision, context.device)
    model.to(device).train()
    if config.activation_checkpointing:
        cast(Trainable, model).enable_gradient_checkpointing()
    meter, average = ThroughputMeter(model, device, context.size), copy.deepcopy(model)
    if config.compile:
        compile_blocks(model)
    loss_function, no_sync = parallelize(model, average, context, config.fsdp, dtype)
    optimizers = build_optimizers(model, optimizer_config)
    state = TrainState(model, Ema(model, average, config.ema_decay), optimizers, auxiliary)
    with (
        RunLifecycle(state, out, context, resolved_config, evaluate, config, resume) as lifecycle,
        load_batches(batches, state.step, config, context) as loader,
    ):
        lifecycle.evaluate_if_missed()
        averager, iterator, skips_in_a_row = MetricAverager(), iter(loader), 0
        meter.restart_clock()
        while state.step < config.steps:
            # Forward and backward over the micro-batches.
            micro_batches, logs, total_loss = [], [], torch.zeros((), device=device)
            for index in range(config.gradient_accumulation_steps):
                waited, is_last = loader.waited, index == config.gradient_accumulation_steps - 1
                batch = next(iterator)
                meter.add(batch, loader.waited - waited)
                with nullcontext() if is_last else no_sync():
                    loss, values = forward(
                        loss_function, batch, auxiliary, device, dtype, config.seed, state.step
                    )
                    # Processes average their gradients, so each part counts `size` times its share.
                    (loss * (context.size * len(batch["rows"]) / int(batch["batch_size"]))).backward()
                micro_batches.append(batch)
                logs.append(values)
                total_loss += loss.detach().float()

            # Clipping; a non-finite update must not reach the weights.
            grad_norm = clip_grad_norm_(model.parameters(), optimizer_config.max_grad_norm, foreach=True)
            grad_norm = full_tensor(grad_norm)
            is_finite, save_due = lifecycle.sync_flags(bool(total_loss.isfinite() & grad_norm.isfinite()))

            # Optimizer step and moving average.
            factor = learning_rate_factor(state.step, config.steps, optimizer_config)
            if is_finite:
                set_learning_rate(optimizers, factor)
                for optimizer in optimizers:
                    optimizer.step()
                if auxiliary is not None:
                    auxiliary.update(context.average_tensors)
                state.step += 1
                state.ema.update(state.step)
                for values in logs:
                    averager.add(values | {"gradient_norm": grad_norm})
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            if auxiliary is not None:
                auxiliary.discard()
            skips_in_a_row = 0 if is_finite else skips_in_a_row + 1
            if not is_finite:
                skip = config.on_nonfinite == "skip" and skips_in_a_row < MAX_SKIPS_IN_A_ROW
                lifecycle.on_nonfinite(micro_batches, skip)

            # Log, checkpoint, stop, evaluate.
            lifecycle.log.advance(state.step)
            is_ending = lifecycle.stop_signal > 0 or state.step == config.steps
            if (is_ending or state.step % config.log_every == 0) and averager.counts:
                counts = {"learning_rate_factor": factor, "skipped_updates": state.skipped} | loader.counts
                means = context.all_reduce_mean(averager.means())
                lifecycle.log.log_training(state.step, means | meter.report() | counts)
                averager = MetricAverager()
            if is_ending or save_due:
                lifecycle.save()
                meter.restart_clock()
            lifecycle.exit_if_signalled()
            if state.step == config.steps or state.step % config.eval_every == 0:
                lifecycle.evaluate()
                meter.restart_clock()
    return state


def forward(
    loss_function: LossFunction,
    batch: Batch,
    auxiliary: AuxiliaryLosses | None,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    step: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss of a micro-batch, and its logs; noise follows from (seed, step, row in the whole batch)."""
    generators = [
        generator_for(seed, LOSS_STREAM, step, row, device=device) for row in batch["rows"].tolist()
    ]
    inputs = to_device(batch, device)
    arguments = (inputs, generators) if auxiliary is None else (inputs, generators, auxiliary)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        loss, logs = loss_function(*arguments)
    return loss, {**logs, "loss": loss.detach()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The tensors of a batch on `device`, except those that the host reads."""
    return {
        name: value if name in CPU_KEYS else value.to(device, non_blocking=True)
        for name, value in batch.items()
    }


def load_batches(
    batches: Dataset[Batch], step: int, config: LoopConfig, context: DistributedContext
) -> BatchLoader:
    """The parts of the batches from update `step` on that this process works on, in order."""
    count = config.gradient_accumulation_steps
    parts, own = context.size * count, range(context.rank * count, (context.rank + 1) * count)
    keys = [(update, part, parts) for update in range(step, config.steps) for part in own]
    return BatchLoader(batches, keys, config.num_workers, context.device, config.loader_timeout)
