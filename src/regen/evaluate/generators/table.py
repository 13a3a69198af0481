"""The result of an evaluation for people: two tables."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from regen.evaluate.generators.evaluation import PICTURE, RESULT, GeneratorEvaluation
from regen.evaluate.generators.scores import Agreement, VideoDistance


def show_evaluation(result: GeneratorEvaluation, out: Path, as_json: bool) -> None:
    """On standard output: tables that also name the files written, or one line of JSON."""
    if as_json:
        print(json.dumps(result.as_json()))
        return
    height, width = result.size
    options = result.sampling
    lines: list[str | Table] = [
        f"{result.videos} videos of {result.frames} frames, {height}x{width}, from {result.model} in "
        f"{options.steps} steps with guidance {options.guidance_scale:g}; {result.real_videos} real ones"
    ]
    if result.agreement is not None:
        lines.append(agreement_table(result.agreement))
    if result.distances:
        lines.append(distance_table(result.distances))
    lines.append(f"written: {out / RESULT}, {out / PICTURE}")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=10_000)  # a pipe: no line is cut or folded
    for line in lines:
        console.print(line, highlight=False)


def agreement_table(agreement: Agreement) -> Table:
    """The share of videos that show what was said, attribute by attribute."""
    table = Table(
        "as said",
        f"generated ({agreement.generated_videos})",
        f"reconstructed ({agreement.real_videos})",
        f"real ({agreement.real_videos})",
        "chance",
        box=None,
    )
    for one in agreement.attributes:
        shares = one.generated, one.reconstructed, one.real, one.chance
        table.add_row(one.name, *("-" if share is None else f"{100 * share:.1f} %" for share in shares))
    return table


def distance_table(distances: tuple[VideoDistance, ...]) -> Table:
    """The distances from the real videos, each with the numbers of clips on both sides."""
    table = Table(
        "Fréchet video distance", "generated", "reconstructed", "half for half: generated", "real", box=None
    )
    for one in distances:
        name = one.extractor.partition(",")[0]
        table.add_row(
            f"{name}, clips of {one.frames} frames",
            f"{one.generated:.2f} ({one.generated_clips}/{one.real_clips})",
            f"{one.reconstructed:.2f} ({one.reconstructed_clips}/{one.real_clips})",
            f"{one.generated_at_floor:.2f} ({one.floor_clips}/{one.floor_clips})",
            f"{one.floor:.2f} ({one.floor_clips}/{one.floor_clips})",
        )
    return table
