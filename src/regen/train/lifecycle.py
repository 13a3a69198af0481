"""Lifecycle of a run: folder, checkpoints, signals, evaluations, non-finite updates."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regen.console import STOP_SIGNALS, Interrupted
from regen.io import check_settings, write_json
from regen.train.checkpoint import Checkpoints, TrainState, read_info
from regen.train.distributed import DistributedContext
from regen.train.throughput import RunLog

if TYPE_CHECKING:
    from regen.train.loop import LoopConfig

ShouldStop = Callable[[], bool]
Evaluate = Callable[[nn.Module, int, ShouldStop], dict[str, float] | None]
"""(EMA model, step, should_stop) -> metrics for the log; None when it stopped early."""

# Fields that do not affect what is computed: logging and saving, file locations, how a batch is split over
# processes and micro-batches, and the reactions to failures.
NEUTRAL_FIELDS = frozenset(
    {"log_every", "eval_every", "save_every_minutes", "keep_last", "num_workers", "num_val_clips"}
    | {"gradient_accumulation_steps", "fsdp", "compile", "on_nonfinite", "decode_timeout", "loader_timeout"}
    | {"perceptual_file", "track", "recipe", "version"}
)


class RunLifecycle:
    """The run in the folder `out`: opens or resumes it, saves it, and decides when to stop.

    A context manager, which loads the newest checkpoint into `state`, if there is one. All decisions are
    collective: a signal to one acts on all.
    """

    def __init__(
        self,
        state: TrainState,
        out: Path,
        context: DistributedContext,
        resolved_config: dict[str, Any],
        evaluator: Evaluate | None,
        config: "LoopConfig",
        resume: bool,
    ) -> None:
        self.state, self.out, self.context, self.evaluator = state, out, context, evaluator
        self.resolved_config, self.config, self.resume = resolved_config, config, resume
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep_last, context)
        self.closing = ExitStack()
        self.stop_signal = 0  # number of the signal on which all processes stop
        self.last_save = time.monotonic()

    def __enter__(self) -> "RunLifecycle":
        path = self.checkpoints.latest()
        self.is_resumed = path is not None
        saved = None if path is None else read_info(path).config
        open_run(self.out, self.resolved_config, saved, self.resume, write=self.context.is_main)
        if path is not None:
            self.checkpoints.load(path, self.state)
        step, steps = self.state.step, self.config.steps
        self.closing.enter_context(self.checkpoints)
        is_main, track = self.context.is_main, self.config.track
        self.log = self.closing.enter_context(RunLog(self.out, step, steps, is_main, track))
        self.signals = self.closing.enter_context(stop_signals())  # at most one
        if self.is_resumed and step < steps:
            self.log.print(f"Resuming the run in {self.out} after step {step}.")
        elif self.is_resumed:
            self.log.print(f"The run in {self.out} is finished: {step} of {steps} steps are done.")
        return self

    def __exit__(self, *error: Any) -> None:
        self.closing.__exit__(*error)

    def sync_flags(self, is_finite: bool) -> tuple[bool, bool]:
        """Whether the update is finite everywhere, and a save due. Raises ValueError if one has failed."""
        elapsed = time.monotonic() - self.last_save
        due = self.context.is_main and elapsed >= 60 * self.config.save_every_minutes
        self.stop_signal, nonfinite, failed, save = self.context.all_reduce_max(
            sum(self.signals), not is_finite, self.checkpoints.failed, due
        )
        if failed:
            self.checkpoints.wait()
            raise ValueError("Another process of this training could not write its part of a checkpoint.")
        return not nonfinite, bool(save)

    def save(self) -> None:
        self.checkpoints.save(self.state, self.resolved_config)
        self.last_save = time.monotonic()

    def exit_if_signalled(self) -> None:
        """Raise Interrupted after a signal, with the state saved."""
        if self.stop_signal and self.state.step < self.config.steps:
            self.save_and_exit()

    def save_and_exit(self) -> None:
        self.save()
        self.checkpoints.wait()
        raise Interrupted(
            f"Stopped and saved after step {self.state.step}; the same command resumes from there.",
            self.stop_signal,
        )

    def evaluate(self) -> None:
        """Evaluate the EMA model and log the metrics; a signal stops that, too."""
        if self.evaluator is None:
            return
        with torch.no_grad():
            values = self.evaluator(self.state.ema.model, self.state.step, self._should_stop)
        if values is None:
            self.save_and_exit()
        else:
            self.log.log_evaluation(self.state.step, values)

    def evaluate_if_missed(self) -> None:
        """Repeat the evaluation that the run was stopped in."""
        due = self.state.step == self.config.steps or self.state.step % self.config.eval_every == 0
        if self.is_resumed and due and not self.context.broadcast(self.log.has_evaluation):
            self.evaluate()

    def on_nonfinite(self, batches: Sequence[dict[str, Tensor]], skip: bool) -> None:
        """Save the batch of a non-finite update for inspection; then skip the update or raise ValueError."""
        number, folder = self.state.step + 1, self.out / "rejected"
        path = folder / f"step-{number:08d}-{self.context.rank}.pt"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"step": self.state.step, "seed": self.config.seed, "batches": list(batches)}, path)
        if skip:
            self.state.step, self.state.skipped = number, self.state.skipped + 1
            self.log.print(f"Update {number} is skipped: its loss or gradient is not finite ({path}).")
            return
        self.save()
        self.checkpoints.wait()
        raise ValueError(
            f"Training diverged: the loss or gradient of update {number} is not finite (its batch: {path}); "
            "use a lower learning rate or a longer warm-up, or skip such updates by --loop.on-nonfinite skip."
        )

    def _should_stop(self) -> bool:
        self.stop_signal = self.context.all_reduce_max(sum(self.signals))[0]
        return self.stop_signal > 0


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that gets the first SIGINT, SIGTERM or SIGUSR1; a SIGINT after it raises KeyboardInterrupt.

    Batch systems may repeat SIGTERM and SIGUSR1, so only the first one counts.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not received:
            received.append(number)
            # A signal may arrive inside any write or import: only the system call is safe here.
            os.write(2, b"\nStopping after this step; press Ctrl-C again to quit at once, without saving.\n")

    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS} if is_main else {}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def open_run(
    out: Path, resolved_config: dict[str, Any], saved: dict[str, Any] | None, resume: bool, write: bool = True
) -> None:
    """Check the run folder, and write config.json there if `write`; `saved` is the checkpoint's config.

    Raises ValueError when a run exists and `resume` is False, or when it computes something else.
    """
    path = out / "config.json"
    if (saved is not None or path.exists()) and not resume:
        raise ValueError(f"There is already a run in {out}; choose another folder, or resume that run.")
    if saved is not None:
        before, now = map(_what_is_computed, (saved, json.loads(json.dumps(resolved_config))))
        check_settings(
            f"The run in {out}", before, now, "resume it with the same, or start in another folder"
        )
    if not write:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, resolved_config | {"fingerprint": fingerprint(resolved_config)})
    except OSError as error:
        raise ValueError(f"{out} must be writable ({error.strerror}); choose another folder.") from None


def run_identity(name: str | None) -> dict[str, Any]:
    """Name of the recipe and version of this package, stored in config.json."""
    return {"recipe": name, "version": version("regen")}


def fingerprint(config: dict[str, Any]) -> str:
    """16 hexadecimal digits of a configuration: equal for runs that compute the same."""
    text = json.dumps(_what_is_computed(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _what_is_computed(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flatten(config).items() if affects_result(name)}


def affects_result(name: str) -> bool:
    """Whether the field with this dotted name affects what is computed."""
    return NEUTRAL_FIELDS.isdisjoint(name.split("."))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
