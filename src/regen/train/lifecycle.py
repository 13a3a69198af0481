"""What surrounds the updates of a run: checkpoints, signals, evaluations, and giving up."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regen.train.checkpoint import Checkpoints, read_info
from regen.train.distributed import DistributedContext
from regen.train.gradient import Gradient
from regen.train.log import RunLog
from regen.train.signals import Interrupted, StopSignals
from regen.train.state import TrainState, open_run

ShouldStop = Callable[[], bool]
# (averaged model, step, whether to leave at once) -> numbers for the log; None when it left.
Evaluate = Callable[[nn.Module, int, ShouldStop], dict[str, float] | None]


class RunLifecycle:
    """The run in the folder `out`: opens it, goes on from its newest checkpoint, and keeps it safe.

    Every decision is one of all processes: a signal to one of them is one to all.
    """

    def __init__(
        self,
        state: TrainState,
        out: Path,
        world: DistributedContext,
        resolved_config: dict[str, Any],
        evaluate: Evaluate | None,
        steps: int,
        keep: int,
        save_every_minutes: float,
    ) -> None:
        self.state, self.out, self.world, self.evaluator = state, out, world, evaluate
        self.resolved_config, self.steps, self.save_every_minutes = resolved_config, steps, save_every_minutes
        self.checkpoints = Checkpoints(out / "checkpoints", keep, world)
        self.stop = StopSignals()
        self.closing = ExitStack()
        self.stop_signal = 0  # the signal on which all processes leave
        self.last_save = time.monotonic()

    def open(self, resume: bool) -> bool:
        """Prepare the folder and load the newest checkpoint, if there is one, which is the answer."""
        newest = self.checkpoints.latest()
        saved = None if newest is None else read_info(newest).config
        open_run(self.out, self.resolved_config, saved, resume, write=self.world.is_main)
        if newest is not None:
            self.checkpoints.load(newest, self.state)
        return newest is not None

    def __enter__(self) -> RunLog:
        self.closing.enter_context(self.checkpoints)
        self.log = RunLog(self.out, self.state.step, self.steps, silent=not self.world.is_main)
        self.closing.enter_context(self.log)
        self.closing.enter_context(self.stop)
        return self.log

    def __exit__(self, *error: Any) -> None:
        self.closing.__exit__(*error)

    def sync_flags(self, is_finite: bool) -> tuple[bool, bool]:
        """Whether the update is one of numbers in all processes, and whether it is time to save.

        Raises ValueError when a checkpoint could not be written.
        """
        due = self.world.is_main and time.monotonic() - self.last_save >= 60 * self.save_every_minutes
        self.stop_signal, bad, failed, save = self.world.all_reduce_max(
            self.stop.number, not is_finite, self.checkpoints.failed, due
        )
        if failed:
            self.checkpoints.wait()
            raise ValueError("Another process of this training could not write its part of a checkpoint.")
        return not bad, bool(save)

    def save(self) -> None:
        """Begin to write a checkpoint."""
        self.checkpoints.save(self.state, self.resolved_config)
        self.last_save = time.monotonic()

    def leave_if_asked(self) -> None:
        """Raises Interrupted after a signal, when all is saved."""
        if self.stop_signal and self.state.step < self.steps:
            self.save_and_exit()

    def save_and_exit(self) -> None:
        """Save and raise Interrupted."""
        self.save()
        self.checkpoints.wait()
        raise Interrupted(self.state.step, self.stop_signal)

    def evaluate(self) -> None:
        """Evaluate; a signal ends that, too."""
        if self.evaluator is None:
            return
        with torch.no_grad():
            values = self.evaluator(self.state.ema.model, self.state.step, self._must_leave)
        if values is None:
            self.save_and_exit()
        else:
            self.log.log_evaluation(self.state.step, values)

    def evaluate_if_missed(self, eval_every: int) -> None:
        """Make up for the evaluation that the run was stopped in."""
        due = self.state.step == self.steps or self.state.step % eval_every == 0
        if due and not self.world.broadcast(self.log.has_evaluation):
            self.evaluate()

    def handle_nonfinite(self, gradient: Gradient, skip: bool) -> None:
        """Keep the batch of an update that is no number; then leave it out, or raise ValueError."""
        path = gradient.keep(self.out / "rejected")
        gradient.discard()
        number = self.state.step + 1
        if skip:
            self.state.step, self.state.skipped = number, self.state.skipped + 1
            self.log.print(f"Update {number} is left out: its loss or gradient is no number ({path}).")
            return
        self.save()
        self.checkpoints.wait()
        raise ValueError(
            f"Training diverged: the loss or gradient of update {number} is no number (its batch: {path}); "
            "start anew with a lower learning rate or a longer warm-up, or go on without such updates by "
            "--loop.on-nonfinite skip."
        )

    def _must_leave(self) -> bool:
        self.stop_signal = self.world.all_reduce_max(self.stop.number)[0]
        return self.stop_signal > 0
