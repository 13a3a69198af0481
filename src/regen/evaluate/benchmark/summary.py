"""Summary of a benchmark: means per model, size and steps, and their table.

Means are over clips, whatever their lengths; frames and seconds are sums. A missing value is None, and
`absent` has the reason. Groups that another process has not completed yet are left out.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from rich.table import Table
from rich.text import Text

from regen.console import print_table
from regen.evaluate.benchmark.clip_list import clip_label
from regen.evaluate.benchmark.measure import ReportFolder, result_key, write_finite_json
from regen.io import read_json, write_text
from regen.metrics.frechet import GaussianStatistics, frechet_distance

Row = dict[str, Any]
MEANS = (
    *("psnr", "psnr_pooled", "ssim", "sharpness", "seam_ratio", "temporal_mae", "ghosting_rate", "lpips"),
    *("compression_factor", "values_per_second", "latent_frames_per_frame", "frames_per_latent"),
)
PRECOMPUTED = "unknown for precomputed reconstructions"
REASONS = {
    "ratio": PRECOMPUTED,
    "compression_factor": PRECOMPUTED,
    "values_per_second": PRECOMPUTED,
    "latent_frames_per_frame": PRECOMPUTED,
    "frames_per_latent": PRECOMPUTED,
    "temporal_mae": "no clip has a second frame",
    "ghosting_rate": "nothing moves in any clip",
    "lpips": "needs --lpips-net and --lpips-weights",
}


def write_summary(folder: ReportFolder) -> list[Row]:
    """Write clips.jsonl and summary.json, in an order that depends on the results alone; return the summary.

    Two runs of one benchmark differ only in their seconds.
    """
    clips, settings = read_json(folder.clips)["clips"], read_json(folder.settings)
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in sorted(folder.rows(), key=_order):
        groups[row["model"], row["size"], row["steps"]].append(row)
    complete = [group for group in groups.values() if len(group) == len(clips)]
    lines = [json.dumps(row, allow_nan=False) for group in complete for row in group]
    write_text(folder.path / "clips.jsonl", "".join(f"{line}\n" for line in lines))
    fvd = _Fvd(folder, settings["fvd"])
    summary = [summarize(group, *fvd.compute(group)) for group in complete]
    write_finite_json(folder.path / "summary.json", summary)
    return summary


def summarize(rows: Sequence[Row], fvd: float | None, no_fvd: str) -> Row:
    """Means of one model at one size and number of steps; `no_fvd` is the reason if `fvd` is None."""
    first = rows[0]
    summary = {
        "model": first["model"],
        "ratio": first.get("ratio"),
        "size": first["size"],
        "steps": first["steps"],
        "clips": len(rows),
        "frames": sum(row["frames"] for row in rows),
        **{name: _mean([row.get(name) for row in rows]) for name in MEANS},
        "seam_clips": sum(row.get("seam_ratio") is not None for row in rows),
        "fvd": fvd,
        "encode_seconds": sum(row["encode_seconds"] for row in rows),
        "decode_seconds": sum(row["decode_seconds"] for row in rows),
    }
    seams = PRECOMPUTED if summary["ratio"] is None else "no clip has two chunks"
    reasons = REASONS | {"seam_ratio": seams, "fvd": no_fvd}
    return summary | {"absent": {name: why for name, why in reasons.items() if summary[name] is None}}


class _Fvd:
    """Fréchet distances of the features in a report; those of the originals are read once per size."""

    def __init__(self, folder: ReportFolder, settings: dict[str, Any] | None) -> None:
        self.folder, self.settings = folder, settings
        self._originals: dict[str, GaussianStatistics] = {}

    def compute(self, rows: Sequence[Row]) -> tuple[float | None, str]:
        """Distance of the clips of `rows` from their originals, or None and the reason."""
        if self.settings is None:
            return None, "needs --fvd"
        size = rows[0]["size"]
        if size not in self._originals:
            self._originals[size] = self._statistics([row | {"model": None} for row in rows])
        if self._originals[size].count < 2:
            return None, f"there are fewer than two clips of {self.settings['frames']} frames"
        return frechet_distance(self._originals[size], self._statistics(rows)), ""

    def _statistics(self, rows: Sequence[Row]) -> GaussianStatistics:
        keys = [result_key(row["model"], row["size"], row["steps"], clip_label(row["clip"])) for row in rows]
        parts = [torch.from_numpy(np.load(self.folder.features(key))) for key in keys]
        statistics = GaussianStatistics(parts[0].shape[1])
        for part in parts:
            statistics.update(part)
        return statistics


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over the clips that have a value."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _order(row: Row) -> tuple[int, str, str, float, int, str, int, str]:
    """By ratio, name, size, steps, clip; without a ratio and at native size first.

    Lengths of one model, as in "small@25%", are sorted by number.
    """
    sides = [0] if row["size"] == "native" else [int(side) for side in row["size"].split("x")]
    match = re.fullmatch(r"(.*)@(\d+(?:\.\d+)?)(%|dB|)", row["model"])
    name = (match[1], match[3], float(match[2])) if match else (row["model"], "", -1.0)
    return row.get("ratio") or 0, *name, prod(sides), row["size"], row["steps"], row["clip"]


@dataclass(frozen=True)
class Column:
    """A column of the table: heading, name in the summary, digits, and which value is best."""

    heading: str
    name: str
    digits: int
    best: Literal["high", "low", "one"] | None = None

    def cost(self, value: float) -> float:
        """The lower, the better."""
        return {"high": -value, "low": value, "one": abs(value - 1)}[self.best or "low"]


COLUMNS = (
    Column("ratio", "ratio", 0),
    Column("compression", "compression_factor", 1),
    Column("PSNR", "psnr", 2, "high"),
    Column("SSIM", "ssim", 4, "high"),
    Column("LPIPS", "lpips", 4, "low"),
    Column("FVD", "fvd", 2, "low"),
    Column("sharpness", "sharpness", 3, "one"),
    Column("seams", "seam_ratio", 3, "one"),
    Column("temporal MAE", "temporal_mae", 3, "low"),
    Column("ghosting", "ghosting_rate", 3, "low"),
)


def show_summary(summary: Sequence[Row], report: Path, as_json: bool) -> None:
    """Print the table with the best values of each size in bold, or the summary as one line of JSON."""
    if as_json:
        print(json.dumps(summary, allow_nan=False))
        return
    columns = [column for column in COLUMNS if any(row[column.name] is not None for row in summary)]
    table = Table("model", "size", "steps", *(column.heading for column in columns), "frames/s", box=None)
    rows = []
    for row in summary:
        same_size = [other for other in summary if other["size"] == row["size"]]
        cells = [_cell(row, column, same_size) for column in columns]
        rows.append([row["model"], row["size"], str(row["steps"]), *cells, _speed(row)])
    print_table(table, rows)
    print(f"{summary[0]['clips']} clips; the page is {report / 'index.html'}.")


def _cell(row: Row, column: Column, rows: Sequence[Row]) -> str | Text:
    value = row[column.name]
    if value is None:
        return "-"
    text = f"{value:.{column.digits}f}"
    if column.best is None or len(rows) < 2:
        return text
    lowest = min(column.cost(other[column.name]) for other in rows if other[column.name] is not None)
    return Text(text, "bold") if column.cost(value) == lowest else text


def _speed(row: Row) -> str:
    """Frames that are encoded and decoded per second."""
    seconds = row["encode_seconds"] + row["decode_seconds"]
    return f"{row['frames'] / seconds:.1f}" if seconds else "-"
