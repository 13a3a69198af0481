"""The means of an evaluation: one row for each model, size and number of steps, from all its clips.

Means are over clips, whatever their lengths; frames and seconds are sums. A figure that is missing is None,
and `absent` says why. What is not complete, because another process is still at it, is left out.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from math import prod
from statistics import fmean
from typing import Any

import numpy as np
import torch

from regen.evaluate.benchmark.clip_list import clip_label
from regen.evaluate.benchmark.report_folder import ReportFolder, result_key
from regen.metrics.frechet import GaussianStatistics, frechet_distance

Row = dict[str, Any]
MEANS = (
    *("psnr", "psnr_pooled", "ssim", "sharpness", "seam_ratio", "temporal_mae", "ghosting_rate", "lpips"),
    *("compression_factor", "values_per_second", "latent_frames_per_frame", "frames_per_latent"),
)
UNKNOWN = "how finished reconstructions were made is not known"
REASONS = {
    "ratio": UNKNOWN,
    "compression_factor": UNKNOWN,
    "latent_frames_per_frame": UNKNOWN,
    "frames_per_latent": UNKNOWN,
    "temporal_mae": "no clip has a second frame",
    "ghosting_rate": "nothing moves in any clip",
    "lpips": "no weights were given for it (--lpips-net, --lpips-weights)",
}


def write_summary(folder: ReportFolder) -> list[Row]:
    """Write clips.jsonl and summary.json, both in an order that does not depend on who did what when.

    Answers the summary. Two runs of one evaluation differ in nothing but the seconds.
    """
    clips, settings = folder.read_json(folder.clips)["clips"], folder.read_json(folder.settings)
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in sorted(folder.rows(), key=_order):
        groups[row["model"], row["size"], row["steps"]].append(row)
    whole = [group for group in groups.values() if len(group) == len(clips)]
    lines = [json.dumps(row, allow_nan=False) for group in whole for row in group]
    folder.claims.write_text(folder.path / "clips.jsonl", "".join(f"{line}\n" for line in lines))
    fvd = _Fvd(folder, settings["fvd"])
    summary = [summarize(group, *fvd.of(group)) for group in whole]
    folder.write_json(folder.path / "summary.json", summary)
    return summary


def summarize(rows: Sequence[Row], fvd: float | None, no_fvd: str) -> Row:
    """The means of one model at one size and number of steps; `no_fvd` says why `fvd` is None."""
    first = rows[0]
    found = {
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
    seams = UNKNOWN if found["ratio"] is None else "no clip has two chunks"
    counted = UNKNOWN if found["ratio"] is None else "its results were made before it was counted"
    reasons = REASONS | {"values_per_second": counted, "seam_ratio": seams, "fvd": no_fvd}
    return found | {"absent": {name: why for name, why in reasons.items() if found[name] is None}}


class _Fvd:
    """Distances of the features that stand in a report; those of the originals are read once per size."""

    def __init__(self, folder: ReportFolder, settings: dict[str, Any] | None) -> None:
        self.folder, self.settings = folder, settings
        self._originals: dict[str, GaussianStatistics] = {}

    def of(self, rows: Sequence[Row]) -> tuple[float | None, str]:
        """The distance of the clips of `rows` from their originals, or None and why."""
        if self.settings is None:
            return None, "no network was given for it (--fvd)"
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
    """Over the clips that have the figure."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _order(row: Row) -> tuple[int, str, str, float, int, str, int, str]:
    """By ratio, name, size, steps, clip; contestants without a ratio and each clip's own size come first.

    Of the lengths of one model, as in "small@25%", the smaller come first.
    """
    sides = [0] if row["size"] == "native" else [int(side) for side in row["size"].split("x")]
    found = re.fullmatch(r"(.*)@(\d+(?:\.\d+)?)(%|dB|)", row["model"])
    name = (found[1], found[3], float(found[2])) if found else (row["model"], "", -1.0)
    return row.get("ratio") or 0, *name, prod(sides), row["size"], row["steps"], row["clip"]
