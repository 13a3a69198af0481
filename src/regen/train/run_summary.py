"""What a run in a folder has done so far, read from what it writes; it may go on meanwhile."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from regen.train.checkpoint import list_checkpoints
from regen.train.state import affects_result, flatten

Row = dict[str, float]
State = Literal["finished", "ending", "running", "stopped"]

EVALUATION = "evaluation/psnr"
STALE_SECONDS = 900.0  # after which a run that says nothing is taken for stopped
RECENT = 10  # rows of which speeds are the median


@dataclass(frozen=True)
class RunSummary:
    """A run in figures; None where nothing is known. As one line of JSON they are for other programs."""

    name: str
    folder: str
    state: State
    seconds_since_write: float | None
    """Since the run has written anything."""
    step: int
    steps: int | None
    fingerprint: str | None
    """Of the configuration: equal for runs that compute the same."""
    loss: float | None
    psnr: float | None
    """In dB, of the training, like `loss` as it was told last."""
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
    checkpoints: tuple[int, ...]
    """Updates after which those were written that are there."""
    is_saving: bool
    """Another one is being written, or the rest of one that was interrupted is there."""


@dataclass(frozen=True)
class Run:
    """A run as its folder shows it."""

    name: str
    folder: Path
    config: dict[str, Any]
    rows: tuple[Row, ...]
    seconds_since_write: float | None

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Updates, and what the log has under `name` for them; without what is no number."""
        points = [(row["step"], row[name]) for row in self.rows if math.isfinite(row.get(name, math.nan))]
        return [step for step, _ in points], [value for _, value in points]

    def summary(self) -> RunSummary:
        """The run in figures."""
        saved = tuple(int(path.name.removeprefix("step-")) for path in list_checkpoints(self._checkpoints))
        step = int(max([row["step"] for row in self.rows] + list(saved), default=0))
        steps = self.config.get("loop", {}).get("steps")
        evaluated, psnr = self.series(EVALUATION)
        best = max(zip(psnr, evaluated, strict=True), default=(None, None))
        return RunSummary(
            self.name,
            str(self.folder),
            state=self._state(step, steps),
            seconds_since_write=self.seconds_since_write,
            step=step,
            steps=steps,
            fingerprint=self.config.get("fingerprint"),
            loss=self._last("loss"),
            psnr=self._last("psnr"),
            evaluation_psnr=self._last(EVALUATION),
            best_psnr=best[0],
            best_step=None if best[1] is None else int(best[1]),
            tokens_per_second=self._recent("tokens_per_second"),
            clips_per_second=self._recent("clips_per_second"),
            tflops_per_second=self._recent("tflops_per_second"),
            mfu=self._recent("mfu"),
            data_wait_fraction=self._recent("data_wait_fraction"),
            memory_gb=self._last("memory_gb"),
            skipped_updates=self._count("skipped_updates"),
            damaged_samples=self._count("damaged_samples"),
            slow_samples=self._count("slow_samples"),
            gone_samples=self._count("gone_samples"),
            loader_restarts=self._count("loader_restarts"),
            checkpoints=saved,
            is_saving=any(self._checkpoints.glob("step-*.partial")),
        )

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _state(self, step: int, steps: int | None) -> State:
        if (self.folder / "model" / "config.json").is_file():
            return "finished"
        if self.seconds_since_write is None or self.seconds_since_write > STALE_SECONDS:
            return "stopped"
        return "ending" if step == steps else "running"

    def _last(self, name: str) -> float | None:
        return next(reversed(self.series(name)[1]), None)

    def _count(self, name: str) -> int:
        return int(self._last(name) or 0)

    def _recent(self, name: str) -> float | None:
        values = self.series(name)[1][-RECENT:]
        return median(values) if values else None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, each under a name of its own.

    Raises ValueError when a folder has no run in it.
    """
    names = [folder.resolve().name for folder in folders]
    clear = len(set(names)) == len(names)
    return [
        read_run(folder, name if clear else str(folder)) for folder, name in zip(folders, names, strict=True)
    ]


def read_run(folder: Path, name: str) -> Run:
    """The run in `folder`. Raises ValueError when there is none."""
    log, config = folder / "log.jsonl", folder / "config.json"
    resolved = _object(config.read_text(errors="replace")) if config.is_file() else {}
    if not log.is_file() and "loop" not in resolved:
        raise ValueError(f"There is no run in {folder}; give a folder that was OUT of regen train.")
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    rows = tuple(_numbers(row) for row in map(_object, lines) if isinstance(row.get("step"), int))
    written = [log, config, *folder.glob("checkpoints/*"), *folder.glob("previews/*")]
    times = [path.stat().st_mtime for path in written if path.exists()]
    return Run(name, folder, resolved, rows, max(0.0, time.time() - max(times)) if times else None)


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The fields in which the configurations of runs differ, with the value of each run."""
    flat = [flatten(run.config) for run in runs]
    names = dict.fromkeys(
        name for one in flat for name in one if affects_result(name) and name != "fingerprint"
    )
    values = {name: [_text(one.get(name)) for one in flat] for name in names}
    return {name: texts for name, texts in values.items() if len(set(texts)) > 1}


def describe(facts: RunSummary) -> dict[str, str]:
    """The figures in words, for a person."""
    best = f", best {facts.best_psnr:.2f} after {facts.best_step}" if facts.best_step else ""
    rates = {
        "tokens/s": (facts.tokens_per_second, ",.0f"),
        "clips/s": (facts.clips_per_second, ".1f"),
        "TFLOP/s": (facts.tflops_per_second, ".3g"),
    }
    speed = [
        f"{value:{digits}} {unit}".replace(",", " ")
        for unit, (value, digits) in rates.items()
        if value is not None
    ]
    speed += [] if facts.mfu is None else [f"MFU {100 * facts.mfu:.1f} %"]
    trouble = {
        "updates left out": facts.skipped_updates,
        "damaged samples": facts.damaged_samples,
        "slow samples": facts.slow_samples,
        "samples gone": facts.gone_samples,
        "restarts of loading": facts.loader_restarts,
    }
    saved = f"{len(facts.checkpoints)}, the newest after {facts.checkpoints[-1]}" if facts.checkpoints else ""
    words = {
        "state": _state_in_words(facts),
        "updates": f"{facts.step} of {facts.steps or '?'}",
        "configuration": facts.fingerprint or "",
        "loss": "" if facts.loss is None else f"{facts.loss:.4g}",
        "training PSNR": "" if facts.psnr is None else f"{facts.psnr:.2f} dB",
        "evaluation PSNR": "" if facts.evaluation_psnr is None else f"{facts.evaluation_psnr:.2f} dB{best}",
        "speed": ", ".join(speed),
        "waiting for data": ""
        if facts.data_wait_fraction is None
        else f"{100 * facts.data_wait_fraction:.1f} % of the time",
        "memory": "" if facts.memory_gb is None else f"{facts.memory_gb:.2f} GB",
        "trouble": ", ".join(f"{count} {name}" for name, count in trouble.items() if count) or "none",
        "checkpoints": saved + (", one is not whole yet" if facts.is_saving else ""),
    }
    return {name: text or "–" for name, text in words.items()}


def _state_in_words(facts: RunSummary) -> str:
    if facts.state == "finished" or facts.seconds_since_write is None:
        return facts.state
    quiet = facts.seconds_since_write
    ago = (
        f"{quiet:.0f} s"
        if quiet < 120
        else f"{quiet / 60:.0f} min"
        if quiet < 7200
        else f"{quiet / 3600:.0f} h"
    )
    if facts.state == "stopped":
        return f"stopped, or stuck: nothing for {ago}"
    return f"{'running' if facts.state == 'running' else 'making the model'}, heard of {ago} ago"


def _object(text: str) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else, such as half a line."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _numbers(row: dict[str, Any]) -> Row:
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}


def _text(value: object) -> str:
    return "–" if value is None else json.dumps(value)
