"""Drift: what becomes of a clip that is encoded and decoded again and again.

Every round codes what the one before decoded, in 8 bits, with the same seed. PSNR (dB) is against the
original, `colour` the mean of red, green and blue minus those of the original (8-bit levels), `seam_ratio` as
in a clip's quality.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from html import escape
from statistics import fmean
from typing import Any

import torch
from jaxtyping import UInt8
from rich.table import Table
from torch import Tensor

from regen.codec.sessions import DecodeOptions
from regen.console import print_table
from regen.evaluate.benchmark.measure import FittedClip
from regen.evaluate.benchmark.systems import ModelSystem
from regen.evaluate.quality import CodingStats
from regen.metrics.psnr_ssim import Psnr
from regen.metrics.seams import SeamRatio

Round = dict[str, Any]  # round, psnr, colour, seam_ratio


class DriftMetrics:
    """Metrics of one round, against the original."""

    def __init__(self, chunk_frames: int) -> None:
        self.psnr, self.seams, self.frames = Psnr(), SeamRatio(chunk_frames), 0
        self.colour = torch.zeros(3, dtype=torch.float64)

    def update(self, originals: UInt8[Tensor, "t h w 3"], decoded: UInt8[Tensor, "t h w 3"]) -> None:
        self.psnr.update(originals, decoded)
        self.seams.update(originals, decoded)
        self.colour += (decoded.double() - originals.double()).mean((1, 2)).sum(0)
        self.frames += len(decoded)

    def result(self, number: int) -> Round:
        colour = (self.colour / self.frames).tolist()
        psnr, seams = self.psnr.compute(), self.seams.compute()
        return {"round": number, "psnr": psnr, "colour": colour, "seam_ratio": seams}


def measure_drift(
    system: ModelSystem, fitted: FittedClip, options: DecodeOptions, rounds: int
) -> list[Round]:
    """The metrics of each round. Only some chunks of each round are in memory."""
    originals: list[deque[Tensor]] = [deque() for _ in range(rounds)]
    metrics = [DriftMetrics(system.model.chunk_frames) for _ in range(rounds)]

    def noted(frames: Iterator[Tensor]) -> Iterator[Tensor]:
        for frame in frames:
            for queue in originals:
                queue.append(frame)
            yield frame

    def coded(number: int, frames: Iterator[Tensor]) -> Iterator[Tensor]:
        for _, decoded in system.reconstruct(fitted.clip, frames, options, CodingStats()):
            metrics[number].update(torch.stack([originals[number].popleft() for _ in decoded]), decoded)
            yield from decoded

    with fitted.open() as reader:
        frames = noted(fitted.frames(reader))
        for number in range(rounds):
            frames = coded(number, frames)
        for _ in frames:
            pass
    return [metric.result(number) for number, metric in enumerate(metrics, 1)]


def mean_drift(rows: Sequence[dict[str, Any]]) -> list[Round] | None:
    """The means of the clips by round; None where no clip was coded again."""
    by_round: dict[int, list[Round]] = defaultdict(list)
    for row in rows:
        for one in row.get("drift") or ():
            by_round[one["round"]].append(one)
    means = []
    for number, parts in sorted(by_round.items()):
        seams = [one["seam_ratio"] for one in parts if one["seam_ratio"] is not None]
        colours = zip(*(one["colour"] for one in parts), strict=True)
        means.append(
            {
                "round": number,
                "psnr": fmean(one["psnr"] for one in parts),
                "colour": [fmean(values) for values in colours],
                "seam_ratio": fmean(seams) if seams else None,
            }
        )
    return means or None


HEADINGS = ("model", "size", "steps", "round", "PSNR", "red", "green", "blue", "seams")


def drift_rows(summary: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The table of the drift of all models under HEADINGS."""
    return [
        [
            *(row["model"], row["size"], str(row["steps"]), str(one["round"]), f"{one['psnr']:.2f}"),
            *(f"{value:+.2f}" for value in one["colour"]),
            "-" if one["seam_ratio"] is None else f"{one['seam_ratio']:.3f}",
        ]
        for row in summary
        for one in row.get("drift") or ()
    ]


def drift_table(summary: Sequence[dict[str, Any]]) -> str:
    """The section of the page in HTML; empty where no drift was measured."""
    if not (rows := drift_rows(summary)):
        return ""
    cells = ["".join(f"<th>{name}</th>" for name in HEADINGS)]
    cells += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    table = "".join(f"<tr>{row}</tr>" for row in cells)
    text = (
        "Each round codes what the one before decoded. Colours: mean change from the original, 8-bit levels."
    )
    return f'<section id="drift"><h2>Coded again and again</h2><p>{text}</p><table>{table}</table></section>'


def show_drift(summary: Sequence[dict[str, Any]]) -> None:
    """Print the table of the drift, if any was measured."""
    if rows := drift_rows(summary):
        print_table(Table(*HEADINGS, box=None, title="Coded again and again"), rows)
