"""A folder with three short clips, tiny models, and evaluations of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_media import long_onedva, make_video, tiny_regen

from regen.embedders.linear import AutoencoderLinear
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.evaluate.benchmark.benchmark import Benchmark, run_benchmark
from regen.evaluate.benchmark.measure import MetricConfig
from regen.evaluate.benchmark.report import Row
from regen.evaluate.benchmark.systems import SystemSpec
from regen.media.pixels import Size
from regen.metrics.features import RandomConvolutions

CPU = torch.device("cpu")
SIZE = Size(24, 32)
SECONDS = ("encode_seconds", "decode_seconds")


def make_clips(folder: Path) -> Path:
    """Clips of 7, 6 and 3 frames and of two sizes; one is in a folder inside."""
    (folder / "more").mkdir(parents=True)
    make_video(folder / "a.mp4", 7, 32, 40)
    make_video(folder / "b.mkv", 6, 24, 48)
    make_video(folder / "more" / "a.mp4", 3, 32, 40)
    return folder


def make_models(folder: Path) -> tuple[str, str]:
    """A REGEN and a linear embedder, both random."""
    torch.manual_seed(0)
    tiny_regen().save_pretrained(folder / "tiny")
    AutoencoderLinear(4, 4).save_pretrained(folder / "linear")
    return str(folder / "tiny"), str(folder / "linear")


def tiny_one_dva() -> AutoencoderOneDVA:
    """Random weights. A chunk of 24 x 32 pixels has 4 x 20 structural numbers, and up to 4 x 20 others."""
    return long_onedva(std=0.15)


def make_benchmark(models: Sequence[str], data: Path, report: Path, **changes: Any) -> Benchmark:
    """An evaluation in fp32 at one small size, with features of random convolutions."""
    options = {
        "systems": tuple(map(SystemSpec, models)),
        "sizes": (SIZE,),
        "steps": (1, 2),
        "metrics": MetricConfig(fvd=RandomConvolutions(frames=4, size=16)),
    }
    return Benchmark(data=data, report=report, dtype="fp32", **options | changes)


def run(benchmark: Benchmark, processes: int = 1) -> list[Row]:
    return run_benchmark(benchmark, CPU, processes)


def results(report: Path) -> dict[str, int]:
    """When each result was written, by its name."""
    files = (report / "results").rglob("*.json")
    return {file.relative_to(report / "results").as_posix(): file.stat().st_mtime_ns for file in files}


def timeless(report: Path) -> tuple[list[Row], list[Row]]:
    """The summary and the rows of the clips without their seconds, and with about their memory."""
    summary = json.loads((report / "summary.json").read_text())
    rows = [json.loads(line) for line in (report / "clips.jsonl").read_text().splitlines()]
    for row in (*summary, *rows):
        for name in SECONDS:
            del row[name]
        for name in row.keys() & {"decode_bytes", "decode_megabytes"}:
            if row[name] is not None:  # checks of types hold tensors for longer in the process of the tests
                row[name] = float(f"{row[name]:.2g}")
    return summary, rows
