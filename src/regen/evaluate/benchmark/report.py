"""The report of a benchmark: its means, their table, and a page of videos.

Means are over clips, whatever their lengths; frames and seconds are sums. A missing value is None, and
`absent` has the reason. Groups that another process has not completed yet are left out.

The page is one HTML file with table, plots and synchronised players (see `evaluate.html`).
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from regen.console import print_table
from regen.evaluate.benchmark.clip_list import clip_label
from regen.evaluate.benchmark.drift import drift_table, mean_drift, show_drift
from regen.evaluate.benchmark.measure import ReportFolder, result_key, write_finite_json
from regen.evaluate.html import render_page
from regen.io import read_json, write_text
from regen.metrics.efficientnet import frechet_distances
from regen.metrics.frechet import GaussianStatistics, frechet_distance

Row = dict[str, Any]  # one clip through one system, or the means of a system
SCRIPTS = ("shared.js", "page.js", "table.js", "plots.js", "players.js")
COMPRESSION = (
    *("compression_factor", "nominal_compression_factor", "values_per_second"),
    *("latent_frames_per_frame", "frames_per_latent"),
)
MEANS = (
    *("psnr", "psnr_pooled", "ssim", "sharpness", "seam_ratio", "border_ratio", "temporal_mae"),
    *("ghosting_rate", "lpips", "feature_distance"),
    *COMPRESSION,
)
PRECOMPUTED = "unknown for precomputed reconstructions"
REASONS = {
    **dict.fromkeys(("ratio", *COMPRESSION, "decode_megabytes"), PRECOMPUTED),
    "border_ratio": "no clip has a second patch",
    "temporal_mae": "no clip has a second frame",
    "ghosting_rate": "nothing moves in any clip",
    "lpips": "needs --lpips-net and --lpips-weights",
    **dict.fromkeys(("feature_distance", "frechet_frames", "frechet_differences"), "needs --perceptual"),
}


def write_summary(folder: ReportFolder) -> list[Row]:
    """Write clips.jsonl and summary.json, whose order depends on the results alone; return the summary."""
    settings, failed = read_json(folder.settings), folder.failed()
    clips = [clip for clip in read_json(folder.clips)["clips"] if clip["name"] not in failed]
    if not clips:
        raise ValueError(
            f"Not a single clip of {folder.path} could be measured: {next(iter(failed.values()))}"
        )
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in sorted(folder.rows(), key=_order):
        if row["clip"] not in failed:
            groups[row["model"], row["size"], row["steps"]].append(row)
    complete = [group for group in groups.values() if len(group) == len(clips)]
    lines = [json.dumps(row, allow_nan=False) for group in complete for row in group]
    write_text(folder.path / "clips.jsonl", "".join(f"{line}\n" for line in lines))
    summary = [
        summarize(group, *_fvd(folder, settings["fvd"], group), _frechet(folder, group)) for group in complete
    ]
    write_finite_json(folder.path / "summary.json", summary)
    return summary


def summarize(
    rows: Sequence[Row], fvd: float | None, no_fvd: str, frechet: tuple[float | None, float | None]
) -> Row:
    """Means of one model at one size and number of steps; `no_fvd` is the reason if `fvd` is None.

    `frechet`: distances of frames and of frame differences.
    """
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
        "frechet_frames": frechet[0],
        "frechet_differences": frechet[1],
        "encode_seconds": sum(row["encode_seconds"] for row in rows),
        "decode_seconds": sum(row["decode_seconds"] for row in rows),
        "decode_megabytes": _megabytes([row.get("decode_bytes") for row in rows]),
    }
    if (drift := mean_drift(rows)) is not None:
        summary["drift"] = drift
    seams = PRECOMPUTED if summary["ratio"] is None else "no clip has two chunks"
    reasons = REASONS | {"seam_ratio": seams, "fvd": no_fvd}
    if frechet[0] is not None:
        reasons["frechet_differences"] = REASONS["temporal_mae"]
    return summary | {"absent": {name: why for name, why in reasons.items() if summary[name] is None}}


def _fvd(
    folder: ReportFolder, settings: dict[str, Any] | None, rows: Sequence[Row]
) -> tuple[float | None, str]:
    """Fréchet distance of the clips of `rows` from their originals, or None and the reason."""
    if settings is None:
        return None, "needs --fvd"
    originals, others = (
        GaussianStatistics.of([_features(folder, row | changes) for row in rows])
        for changes in ({"model": None}, {})
    )
    if originals.count < 2:
        return None, f"there are fewer than two clips of {settings['frames']} frames"
    return frechet_distance(originals, others), ""


def _frechet(folder: ReportFolder, rows: Sequence[Row]) -> tuple[float | None, float | None]:
    """Fréchet distances of frames and of frame differences; None without --perceptual."""
    keys = [_key(row) for row in rows if row.get("feature_distance") is not None]
    return frechet_distances([torch.from_numpy(np.load(folder.statistics(key))) for key in keys])


def _features(folder: ReportFolder, row: Row) -> Tensor:
    return torch.from_numpy(np.load(folder.features(_key(row))))


def _key(row: Row) -> str:
    return result_key(row["model"], row["size"], row["steps"], clip_label(row["clip"]))


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean over the clips that have a value."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _megabytes(sizes: Sequence[int | None]) -> float | None:
    """The largest of the known sizes, in units of 10^6 bytes."""
    return max((size / 1e6 for size in sizes if size is not None), default=None)


def _order(row: Row) -> tuple[int, str, str, float, int, str, int, str]:
    """By ratio, name (NAME@25% by number), size, steps, clip; without ratio and at native size first."""
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
    Column("features", "feature_distance", 4, "low"),
    Column("FD frames", "frechet_frames", 2, "low"),
    Column("FD differences", "frechet_differences", 2, "low"),
    Column("sharpness", "sharpness", 3, "one"),
    Column("seams", "seam_ratio", 3, "one"),
    Column("borders", "border_ratio", 3, "one"),
    Column("temporal MAE", "temporal_mae", 3, "low"),
    Column("ghosting", "ghosting_rate", 3, "low"),
    Column("memory, MB", "decode_megabytes", 1, "low"),
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
        seconds = row["encode_seconds"] + row["decode_seconds"]
        speed = f"{row['frames'] / seconds:.1f}" if seconds else "-"
        rows.append([row["model"], row["size"], str(row["steps"]), *cells, speed])
    print_table(table, rows)
    show_drift(summary)
    skipped = len(ReportFolder(report).skipped())
    note = f", {skipped} file{'s' * (skipped > 1)} skipped (unreadable)" if skipped else ""
    print(f"{summary[0]['clips']} clips{note}; the page is {report / 'index.html'}.")


def _cell(row: Row, column: Column, rows: Sequence[Row]) -> str | Text:
    value = row[column.name]
    if value is None:
        return "-"
    text = f"{value:.{column.digits}f}"
    if column.best is None or len(rows) < 2:
        return text
    lowest = min(column.cost(other[column.name]) for other in rows if other[column.name] is not None)
    return Text(text, "bold") if column.cost(value) == lowest else text


def write_report(folder: Path, limit_mb: float = 60.0) -> Path:
    """Write `folder/index.html` from the results in `folder`, and return its path.

    The page embeds at most `limit_mb` megabytes of videos, counted in base64, of the clips with the lowest
    mean PSNR; the other clips have numbers only.
    """
    failed = ReportFolder(folder).failed()
    data: dict[str, Any] = {
        "summary": read_json(folder / "summary.json"),
        "clips": [c for c in read_json(folder / "clips.json")["clips"] if c["name"] not in failed],
        "settings": read_json(folder / "settings.json"),
        "rows": [json.loads(line) for line in (folder / "clips.jsonl").read_text("utf-8").splitlines()],
        "limit_mb": limit_mb,
    }
    data["originals"], videos = _embed(folder, _clip_groups(data["rows"]), int(limit_mb * 1e6))
    models = list(dict.fromkeys(row["model"] for row in data["summary"]))
    title = ", ".join(models) if len(models) <= 3 else f"{len(models)} models"
    drift = drift_table(data["summary"])
    page = render_page("index.html", f"Reconstruction: {title}", data, videos, SCRIPTS, drift)
    path = folder / "index.html"
    write_text(path, page)
    return path


def video_path(folder: Path, size: str, clip: str, model: str | None = None, steps: int = 0) -> Path:
    """Path of a video: the reconstruction by `model` in `steps`, or the original."""
    return folder / "videos" / f"{result_key(model, size, steps, clip_label(clip))}.mp4"


def _clip_groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by size and clip: that with the lowest PSNR of each size, then the second lowest, and so on."""
    by_clip: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_clip[row["size"], row["clip"]].append(row)
    by_size: dict[str, list[list[Row]]] = defaultdict(list)
    for group in sorted(by_clip.values(), key=lambda group: fmean(row["psnr"] for row in group)):
        by_size[group[0]["size"]].append(group)
    return [group for turn in zip_longest(*by_size.values()) for group in turn if group is not None]


def _embed(folder: Path, groups: Sequence[Sequence[Row]], budget: int) -> tuple[list[Row], list[bytes]]:
    """Embed the videos of the groups that fit into `budget` characters; set `video`, its number, in the rows.

    Returns a row for the original of each group, and the videos.
    """
    originals: list[Row] = []
    videos: list[bytes] = []
    for group in groups:
        original: Row = {name: group[0][name] for name in ("size", "clip")}
        paths = [video_path(folder, **original)]
        paths += [video_path(folder, model=row["model"], steps=row["steps"], **original) for row in group]
        pairs = [pair for pair in zip((original, *group), paths, strict=True) if pair[1].is_file()]
        characters = sum(-(-path.stat().st_size // 3) * 4 for _, path in pairs)
        original["left_out"] = characters > budget
        originals.append(original)
        if original["left_out"]:
            continue
        budget -= characters
        for row, path in pairs:
            row["video"] = len(videos)
            videos.append(path.read_bytes())
    return originals, videos
