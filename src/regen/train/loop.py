"""The training loop (spec A7, A8): all that is random comes from (seed, step), so that resuming is exact."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset

from regen.runtime import generator_for, pick_dtype
from regen.train.log import RunLog, Window
from regen.train.optimizer import OptimizerConfig, build_optimizers, learning_rate_factor, set_learning_rate
from regen.train.state import Ema, Stateful, TrainState, open_run, save_checkpoint

Batch = dict[str, Tensor]
Evaluate = Callable[[nn.Module, int], dict[str, float]]

# No sample has a negative index, so the noise of the loss never repeats the numbers that drew the data.
LOSS_STREAM = -1
# What a loading process has left after SIGTERM: longer than a step and a checkpoint take.
WORKER_SECONDS = 600


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
    keep: int = 2
    """How many checkpoints to keep, the newest ones."""
    dtype: str | None = None
    """Precision of the products: bf16 or fp32; None takes bf16 where the hardware has it."""
    workers: int = 2
    """Processes that load data; 0 loads in this one."""
    activation_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, about a third slower."""

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; give 0 or more.")
        if self.dtype == "fp16":
            raise ValueError("Training in fp16 loses small gradients; use bf16 or fp32.")


class Trainable(Protocol):
    """What the loop asks of a model besides being an `nn.Module`."""

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]: ...

    def enable_gradient_checkpointing(self) -> None: ...


@runtime_checkable
class FurtherLoss(Stateful, Protocol):
    """(target, reconstruction) -> a loss besides the model's own, and what to log of it."""

    def __call__(self, target: Tensor, reconstruction: Tensor, /) -> tuple[Tensor, dict[str, Tensor]]: ...


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run, and its state is saved. `exit_code` is 128 + the number of the signal."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"Stopped and saved after step {step}; the same command continues from there.")
        self.exit_code = 128 + number


def train(
    model: nn.Module,
    batches: Dataset[Batch],
    config: LoopConfig,
    optimizer_config: OptimizerConfig,
    out: Path,
    device: torch.device,
    evaluate: Evaluate | None,
    resolved_config: dict[str, Any],
    resume: bool = True,
    further: FurtherLoss | None = None,
) -> TrainState:
    """Train `model` on `batches[0]`, `batches[1]`, ... and return the state after `config.steps` updates.

    `batches[step]` is a dictionary of tensors that depends on nothing but `step`; its `clip` is "b 3 t h w"
    in [-1, 1]. The folder `out` receives config.json (`resolved_config`, which JSON can hold), log.jsonl and
    checkpoints/; a run found there goes on from its newest checkpoint as if it had never stopped: bit for bit
    on the CPU with as many threads as before, on a GPU up to kernels that sum in no fixed order.
    `evaluate(averaged_model, step)` returns numbers for the log. `further` is handed to the model's `loss`;
    what it learns is part of the checkpoints.

    Raises Interrupted after SIGINT or SIGTERM, when all is saved; ValueError when the run in `out` has
    another configuration (or is there at all while `resume` is False), its newest checkpoint is damaged or
    none can be written, or the training diverges.
    """
    dtype = pick_dtype(config.dtype, device)
    model.to(device).train()
    if config.activation_checkpointing:
        cast(Trainable, model).enable_gradient_checkpointing()
    state = TrainState(
        model, Ema(model, config.ema_decay), build_optimizers(model, optimizer_config), further=further
    )
    saved = open_run(out, resolved_config, resume)
    if saved is not None:
        state.load_state_dict(saved)
    loss_function: Callable[..., tuple[Tensor, dict[str, Tensor]]] = cast(Trainable, model).loss
    if further is not None:
        loss_function = partial(loss_function, further=further)

    with (
        RunLog(out, state.step, config.steps) as log,
        StopSignals() as stop,
        closing(load_batches(batches, state.step, config, device)) as loaded,
    ):
        if state.step >= config.steps:
            log.say(f"The run in {out} is finished: {state.step} of {config.steps} steps are done.")
            return state
        if saved is not None:
            log.say(f"Continuing the run in {out} after step {state.step}.")
        window, last_save = Window(), time.monotonic()
        for batch in loaded:
            batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            generator = generator_for(config.seed, LOSS_STREAM, state.step, device=device)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss, logs = loss_function(batch, generator)
            loss.backward()
            norm = clip_grad_norm_(model.parameters(), optimizer_config.clip_norm, foreach=True)
            factor = learning_rate_factor(state.step, config.steps, optimizer_config)
            set_learning_rate(state.optimizers, factor)
            for optimizer in state.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            state.step += 1
            state.ema.update(state.step)
            window.add({**logs, "loss": loss.detach(), "gradient_norm": norm}, batch["clip"].shape[0])
            log.advance(state.step)

            leaving = stop.number is not None or state.step == config.steps
            report = leaving or state.step % config.log_every == 0
            save = leaving or time.monotonic() - last_save >= 60 * config.save_every_minutes
            if report or save:
                means = require_finite(window.means(), state)
            if report:
                speed = {"clips_per_second": window.clips_per_second(), "learning_rate_factor": factor}
                log.train_row(state.step, means | speed)
                window.reset()
            if save:
                save_checkpoint(out / "checkpoints", state, resolved_config, config.keep)
                last_save = time.monotonic()
                window.restart_clock()
            if stop.number is not None and state.step < config.steps:
                raise Interrupted(state.step, stop.number)
            if evaluate is not None and (leaving or state.step % config.eval_every == 0):
                with torch.no_grad():
                    log.evaluation_row(state.step, evaluate(state.ema.model, state.step))
                window.restart_clock()
    return state


def load_batches(
    batches: Dataset[Batch], step: int, config: LoopConfig, device: torch.device
) -> Generator[Batch, None, None]:
    """`batches[step]`, `batches[step + 1]`, ... in order, loaded ahead by worker processes until closed."""
    loader = DataLoader(
        ErrorsAsText(batches),
        batch_size=None,
        sampler=range(step, config.steps),
        num_workers=config.workers,
        prefetch_factor=2 if config.workers else None,
        worker_init_fn=outlive_stop_signals,
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        if isinstance(batch, str):
            raise ValueError(batch)
        yield batch


class ErrorsAsText(Dataset[Batch | str]):
    """Batches whose ValueErrors are returned as their sentence; a worker would send a whole traceback."""

    def __init__(self, batches: Dataset[Batch]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | str:
        try:
            return self.batches[step]
        except ValueError as error:
            return str(error)


def outlive_stop_signals(worker: int) -> None:
    """A signal to the whole group of processes leaves the workers at work while the loop saves and leaves.

    They don't ignore SIGTERM for good, because Python ends and awaits them with it when it exits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_SECONDS))


def require_finite(means: dict[str, float], state: TrainState) -> dict[str, float]:
    """Return `means`, or raise ValueError when the loss, the gradient or a weight is no number any more."""
    weights = torch.stack(torch._foreach_norm(list(state.model.parameters()))).sum().item()
    for name, value in (("loss", means["loss"]), ("gradient", means["gradient_norm"]), ("weights", weights)):
        if not math.isfinite(value):
            raise ValueError(
                f"Training diverged: the {name} became {value} by step {state.step} (the last checkpoint is "
                "from before); start anew with a lower learning rate or a longer warm-up."
            )
    return means


class StopSignals:
    """While open, SIGINT and SIGTERM set `number` for the loop to see; a second one ends all at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self.handle)
        return self

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        # A signal may arrive inside any other write or import: only the system call is safe here.
        os.write(2, b"\nStopping after this step; a second signal leaves at once, without saving.\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
