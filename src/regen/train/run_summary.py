"""Summary and plots of runs, also of unfinished ones, read from their folders."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regen.train.checkpoint import list_checkpoints
from regen.train.lifecycle import affects_result, flatten
from regen.train.throughput import parse_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVALUATION = "evaluation/psnr"
STALE_SECONDS = 900.0  # without output, after which a run counts as stopped
RECENT_ROWS = 10  # whose median is the current speed
RATES = ("tokens_per_second", "clips_per_second", "tflops_per_second", "mfu", "data_wait_fraction")
COUNTS = ("skipped_updates", "damaged_samples", "slow_samples", "gone_samples", "loader_restarts")
State = Literal["finished", "ending", "running", "stopped"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")  # Okabe and Ito
INK, FAINT = "#333333", "#d9d9d9"


@dataclass(frozen=True)
class RunSummary:
    """Figures of a run; None where they are not known."""

    name: str
    folder: str
    state: State
    seconds_since_write: float | None
    step: int
    steps: int | None
    fingerprint: str | None  # of the configuration: equal for runs that compute the same
    loss: float | None
    psnr: float | None  # dB, in training; like `loss`, the last one logged
    evaluation_psnr: float | None
    best_psnr: float | None
    best_step: int | None
    tokens_per_second: float | None
    clips_per_second: float | None
    tflops_per_second: float | None
    mfu: float | None
    data_wait_fraction: float | None
    memory_gb: float | None
    skipped_updates: int
    damaged_samples: int
    slow_samples: int
    gone_samples: int
    loader_restarts: int
    checkpoints: tuple[int, ...]  # steps of the complete ones
    is_saving: bool  # or the last save was interrupted


@dataclass(frozen=True)
class Run:
    """Configuration and log of a run."""

    name: str
    folder: Path
    config: dict[str, Any]
    rows: tuple[dict[str, float], ...]
    seconds_since_write: float | None

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a metric in the log, without values that are not finite."""
        points = [(row["step"], row[name]) for row in self.rows if math.isfinite(row.get(name, math.nan))]
        return [step for step, _ in points], [value for _, value in points]

    def summary(self) -> RunSummary:
        folder = self.folder / "checkpoints"
        saved = tuple(int(path.name.removeprefix("step-")) for path in list_checkpoints(folder))
        step = int(max([row["step"] for row in self.rows] + list(saved), default=0))
        loop = self.config.get("loop")
        steps = loop.get("steps") if isinstance(loop, dict) else None
        evaluated, psnr = self.series(EVALUATION)
        best = max(zip(psnr, evaluated, strict=True), default=(None, None))
        metrics: dict[str, Any] = {name: self._last(name) for name in ("loss", "psnr", "memory_gb")}
        metrics |= {name: self._recent(name) for name in RATES}
        metrics |= {name: int(self._last(name) or 0) for name in COUNTS}
        return RunSummary(
            self.name,
            str(self.folder),
            state=self._state(step, steps),
            seconds_since_write=self.seconds_since_write,
            step=step,
            steps=steps,
            fingerprint=self.config.get("fingerprint"),
            evaluation_psnr=self._last(EVALUATION),
            best_psnr=best[0],
            best_step=None if best[1] is None else int(best[1]),
            checkpoints=saved,
            is_saving=any(folder.glob("step-*.partial")),
            **metrics,
        )

    def _state(self, step: int, steps: int | None) -> State:
        if (self.folder / "model" / "config.json").is_file():
            return "finished"
        if self.seconds_since_write is None or self.seconds_since_write > STALE_SECONDS:
            return "stopped"
        return "ending" if step == steps else "running"

    def _last(self, name: str) -> float | None:
        return next(reversed(self.series(name)[1]), None)

    def _recent(self, name: str) -> float | None:
        values = self.series(name)[1][-RECENT_ROWS:]
        return median(values) if values else None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, named by folder, or by path where names repeat. Raises as `read_run`."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def read_run(folder: Path, name: str) -> Run:
    """The run in `folder`. Raises ValueError when there is none."""
    log, config = folder / "log.jsonl", folder / "config.json"
    resolved = parse_row(config.read_text(errors="replace")) if config.is_file() else {}
    if not log.is_file() and "loop" not in resolved:
        raise ValueError(f"There is no run in {folder}; give the --out folder of regen train.")
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    rows = tuple(
        {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
        for row in map(parse_row, lines)
        if isinstance(row.get("step"), int)
    )
    written = [log, config, *folder.glob("checkpoints/*"), *folder.glob("previews/*")]
    times = [path.stat().st_mtime for path in written if path.exists()]
    return Run(name, folder, resolved, rows, max(0.0, time.time() - max(times)) if times else None)


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Configuration fields that differ between runs and affect the result, with the value of each run."""
    flat = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for config in flat for name in config if affects_result(name))
    names.pop("fingerprint", None)
    texts = {name: [json.dumps(config.get(name)).replace("null", "–") for config in flat] for name in names}
    return {name: values for name, values in texts.items() if len(set(values)) > 1}


def describe(run: RunSummary) -> dict[str, str]:
    """The summary as text, one row each."""
    best = f", best {run.best_psnr:.2f} after {run.best_step}" if run.best_step else ""
    rates = {
        "tokens/s": (run.tokens_per_second, ",.0f"),
        "clips/s": (run.clips_per_second, ".1f"),
        "TFLOP/s": (run.tflops_per_second, ".3g"),
    }
    speed = [f"{x:{form}} {unit}".replace(",", " ") for unit, (x, form) in rates.items() if x is not None]
    speed += [] if run.mfu is None else [f"MFU {100 * run.mfu:.1f} %"]
    failures = [f"{getattr(run, name)} {name.replace('_', ' ')}" for name in COUNTS if getattr(run, name)]
    saved = f"{len(run.checkpoints)}, the newest after {run.checkpoints[-1]}" if run.checkpoints else ""
    wait = "" if run.data_wait_fraction is None else f"{100 * run.data_wait_fraction:.1f} % of the time"
    rows = {
        "state": _describe_state(run),
        "updates": f"{run.step} of {run.steps or '?'}",
        "configuration": run.fingerprint or "",
        "loss": "" if run.loss is None else f"{run.loss:.4g}",
        "training PSNR": "" if run.psnr is None else f"{run.psnr:.2f} dB",
        "evaluation PSNR": "" if run.evaluation_psnr is None else f"{run.evaluation_psnr:.2f} dB{best}",
        "speed": ", ".join(speed),
        "waiting for data": wait,
        "memory": "" if run.memory_gb is None else f"{run.memory_gb:.2f} GB",
        "failures": ", ".join(failures) or "none",
        "checkpoints": saved + (", one is incomplete" if run.is_saving else ""),
    }
    return {name: text or "–" for name, text in rows.items()}


def _describe_state(run: RunSummary) -> str:
    if run.state == "finished" or run.seconds_since_write is None:
        return run.state
    units = ((1, "s", 120), (60, "min", 7200), (3600, "h", math.inf))
    size, unit = next((size, unit) for size, unit, end in units if run.seconds_since_write < end)
    names = {"stopped": "stopped or hanging", "running": "running", "ending": "saving the model"}
    return f"{names[run.state]}, last output {run.seconds_since_write / size:.0f} {unit} ago"


@dataclass(frozen=True)
class Panel:
    """A plot of the first of the `metrics` (with their units) that the most runs have logged."""

    title: str
    metrics: dict[str, str]
    is_log: bool = False
    from_zero: bool = False
    scale: float = 1.0
    points: str | None = None  # metric to draw as points


PANELS = (
    Panel("loss", {"loss": ""}, is_log=True),
    Panel("PSNR, points: evaluations", {"psnr": "dB"}, points=EVALUATION),
    Panel("gradient norm", {"gradient_norm": ""}, is_log=True),
    Panel("learning rate", {"learning_rate_factor": "fraction"}, from_zero=True),
    Panel("speed", {"tokens_per_second": "tokens/s", "clips_per_second": "clips/s"}, from_zero=True),
    Panel("waiting for data", {"data_wait_fraction": "% of the time"}, from_zero=True, scale=100.0),
)


def plot_runs(runs: Sequence[Run], path: Path) -> None:
    """Write a PNG of about 1500 x 900 pixels. Raises ValueError without matplotlib or logged values."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError:
        raise ValueError('Plots need matplotlib: pip install "regen[plots]".') from None
    panels = [
        panel
        for panel in PANELS
        if any(len(_curve(run, name, panel)[0]) for run in runs for name in (*panel.metrics, panel.points))
    ]
    if not panels:
        raise ValueError("Nothing has been logged yet; plot the run after its first updates.")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 0.8 + 4 * rows), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    for index, panel in enumerate(panels):
        _draw(figure.add_subplot(rows, columns, index + 1), panel, runs)
    lines = [Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=2.5) for i in range(len(runs))]
    names = [f"{run.name}: {describe(run.summary())['updates']} updates" for run in runs]
    columns = min(4, len(runs))
    figure.legend(lines, names, loc="outside upper center", ncols=columns, fontsize=12, frameon=False)
    figure.savefig(path, format="png")


def _curve(run: Run, metric: str | None, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric as they are drawn; empty for None."""
    steps, values = (np.array(numbers, dtype=float) for numbers in run.series(metric or ""))
    shown = values > 0 if panel.is_log else np.ones(len(values), dtype=bool)
    return steps[shown], panel.scale * values[shown]


def choose_metric(runs: Sequence[Run], panel: Panel) -> str:
    """The metric of a panel that most runs have logged."""
    return max(panel.metrics, key=lambda name: sum(bool(run.series(name)[0]) for run in runs))


def smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a twentieth of the values, over fewer near the ends."""
    index = np.arange(len(values))
    radius = np.minimum(len(values) // 40, np.minimum(index, index[::-1]))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[index + radius + 1] - sums[index - radius]) / (2 * radius + 1)


def _draw(axes: "Axes", panel: Panel, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    metric = choose_metric(runs, panel)
    for index, run in enumerate(runs):
        colour = COLOURS[index % len(COLOURS)]
        steps, values = _curve(run, metric, panel)
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), color=colour, linewidth=2.2)
        steps, values = _curve(run, panel.points, panel)
        axes.plot(steps, values, "o:", color=colour, markeredgecolor="white", markersize=7)
    axes.set_xlim(left=0)
    if panel.is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.set_title(panel.title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlabel("updates", color=INK)
    axes.set_ylabel(panel.metrics[metric], color=INK)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
