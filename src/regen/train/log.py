"""What a run tells: a progress bar or plain lines on stderr, log.jsonl, TensorBoard when it is installed."""

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

PLAIN_SECONDS = 30.0


class MetricAverager:
    """Means since the last report, summed on the device so that no step waits for it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the values of one pass: detached tensors of one number each."""
        for name, value in values.items():
            value = value.float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Mean of every value (one wait for the device)."""
        totals = torch.stack(list(self.sums.values())).tolist()
        return {name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)}


class RunLog:
    """The log of the run in folder `out`, from update `step` to update `steps`. A context manager.

    `silent`: tells and writes nothing, for all processes but one. `has_evaluation`: whether there is one of
    update `step`.
    """

    def __init__(
        self, out: Path, step: int, steps: int, silent: bool = False, plain_seconds: float = PLAIN_SECONDS
    ) -> None:
        self.first_step, self.steps = step, steps
        self.started = time.perf_counter()
        self.plain_seconds = plain_seconds
        self.last_plain = float("-inf")
        self.console = Console(stderr=True, quiet=silent)
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[report]}"),
            console=self.console,
            refresh_per_second=2,
            disable=silent or not self.console.is_terminal,
        )
        self.task = self.progress.add_task("training", total=steps, completed=step, report="")
        path = Path(os.devnull) if silent else out / "log.jsonl"
        rows = [] if silent else drop_rows_after(path, step)
        self.has_evaluation = any(row["step"] == step and "evaluation/psnr" in row for row in rows)
        self.file = path.open("a")
        self.tensorboard = None if silent else open_tensorboard(out, step)

    def __enter__(self) -> "RunLog":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.file.close()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def advance(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    def log_training(self, step: int, values: dict[str, float]) -> None:
        """Report the means over the last steps: loss, psnr, clips_per_second and what else the model logs."""
        self.write(step, values)
        report = f"{describe(values)} · {self.time_left(step)} left"
        self.progress.update(self.task, completed=step, report=report)
        now = time.perf_counter()
        if self.progress.disable and (now - self.last_plain >= self.plain_seconds or step == self.steps):
            self.last_plain = now
            self.print(f"step {step}/{self.steps} · {report}")

    def log_evaluation(self, step: int, values: dict[str, float]) -> None:
        """Report an evaluation; its names get the prefix `evaluation/`."""
        self.write(step, {f"evaluation/{name}": value for name, value in values.items()})
        numbers = " · ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.print(f"evaluation after step {step}: {numbers}")

    def print(self, text: str) -> None:
        """One line on stderr, above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        print(json.dumps({"step": step, **values}), file=self.file, flush=True)
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, step)

    def time_left(self, step: int) -> str:
        seconds_per_step = (time.perf_counter() - self.started) / max(1, step - self.first_step)
        return str(timedelta(seconds=round(seconds_per_step * (self.steps - step))))


def describe(values: dict[str, float]) -> str:
    """The numbers that a person watches, in words."""
    parts = [f"loss {values['loss']:.4f}"]
    if "psnr" in values:
        parts.append(f"PSNR {values['psnr']:.2f} dB")
    return " · ".join([*parts, f"{values['clips_per_second']:.1f} clips/s"])


def drop_rows_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove the rows past `step`, and a half-written last one, so that a resumed run tells each once.

    Returns those that stay.
    """
    if not path.exists():
        return []
    rows, kept = [], []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            rows.append(row)
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
    return rows


def open_tensorboard(out: Path, step: int) -> Any:
    """A TensorBoard writer for the folder `out`/tensorboard, or None when TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(out / "tensorboard", purge_step=step + 1)
