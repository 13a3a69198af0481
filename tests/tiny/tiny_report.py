"""A report folder as `regen evaluate` writes it, with made-up metrics and small videos."""

import json
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from tiny_media import make_video

from regen.evaluate.benchmark.report import video_path

FRAMES, RATE = 50, Fraction(25)
Run = tuple[str, str, int, float]  # model, size, steps, mean PSNR
RUNS: tuple[Run, ...] = (
    ("tiny-4x", "48x64", 1, 31.0),
    ("tiny-4x", "48x64", 4, 30.5),
    ("tiny-8x", "48x64", 1, 28.0),
    ("lab/other", "48x64", 1, 33.0),
)
LENGTHS: tuple[Run, ...] = (
    ("dva-4x", "48x64", 1, 32.5),
    ("dva-4x@0%", "48x64", 1, 28.0),
    ("dva-4x@50%", "48x64", 1, 31.0),
    ("dva-4x@100%", "48x64", 1, 33.0),
    ("dva-4x@30dB", "48x64", 1, 30.0),
    ("dva-4x@32dB", "48x64", 1, 32.0),
    ("other@25%", "48x64", 1, 29.0),
    ("tiny-4x", "48x64", 1, 31.5),
    ("tiny-8x", "48x64", 1, 29.5),
)
CLIPS = ("easy.mp4", "hard.mp4", "middle.mp4")
HARDNESS = {"easy.mp4": 3.0, "hard.mp4": -3.0}  # dB above the mean
ABSENT = {"lpips": "no weights were given", "fvd": "three clips are too few"}


def make_report_folder(
    folder: Path, runs: Sequence[Run] = RUNS, clips: Sequence[str] = CLIPS, frames: int = FRAMES
) -> Path:
    """Write the four files and the videos; no videos for `frames` of 0."""
    rows = [_row(run, clip) for run in runs for clip in clips]
    listed = [
        {"name": clip, "sha256": "0f" * 32, "frames": FRAMES, "height": 48, "width": 64} for clip in clips
    ]
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps([_means(run, rows) for run in runs]))
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "clips.json").write_text(json.dumps({"clips": listed}))
    (folder / "settings.json").write_text(json.dumps({"device": "cpu", "steps": [1, 4]}))
    if frames:
        for run in runs:
            for clip in clips:
                _video(video_path(folder, run[1], clip), frames)
                _video(video_path(folder, run[1], clip, run[0], run[2]), frames)
    return folder


def ratio_of(model: str) -> int:
    return 8 if model.endswith("8x") else 4


def compression_factor(model: str) -> float:
    """Less for "one@50%" than for "one@0%"."""
    found = re.search(r"@(\d+)", model)
    return 13.5 * ratio_of(model) / (1 + (int(found[1]) / 100 if found else 0))


def _video(path: Path, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        make_video(path, frames, height=48, width=64, rate=RATE)


def _row(run: Run, clip: str) -> dict[str, Any]:
    model, size, steps, psnr = run
    psnr += HARDNESS.get(clip, 0.0)
    return {
        "model": model,
        "ratio": ratio_of(model),
        "compression_factor": compression_factor(model),
        "nominal_compression_factor": 0.8 * compression_factor(model),
        "size": size,
        "steps": steps,
        "seed": 0,
        "clip": clip,
        "sha256": "0f" * 32,
        "frames": FRAMES,
        "psnr": psnr,
        "psnr_pooled": psnr - 0.2,
        "ssim": psnr / 40,
        "sharpness": 0.9,
        "seam_ratio": None if model == "lab/other" else 1.1,
        "temporal_mae": 40 - psnr,
        "border_ratio": 1.2,
        "ghosting_rate": 0.1,
        "lpips": None,
        "encode_seconds": 2.0,
        "decode_seconds": 4.0 * steps,
        "decode_bytes": 25_000_000,
    }


def _means(run: Run, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    model, size, steps, _ = run
    mine = [row for row in rows if (row["model"], row["size"], row["steps"]) == (model, size, steps)]
    metrics = ("psnr", "psnr_pooled", "ssim", "sharpness", "temporal_mae", "ghosting_rate")
    means = {name: sum(row[name] for row in mine) / len(mine) for name in metrics}
    counts = {"clips": len(mine), "frames": FRAMES * len(mine)}
    one = {name: value for name, value in mine[0].items() if name not in ("seed", "clip", "sha256")}
    others = {"fvd": None, "frames_per_latent": one["ratio"] / 2, "decode_megabytes": 25.0}
    return one | means | counts | others | {"absent": ABSENT}
