"""What `regen evaluate` shows to people: a bar while it works, then the table of all models."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from regen.evaluate.benchmark.benchmark import OnJob
from regen.evaluate.benchmark.summary import Row


@dataclass(frozen=True)
class Column:
    """A figure: its head, its name in the summary, its digits, and how far a value is from the best one."""

    head: str
    name: str
    digits: int
    regret: Callable[[float], float] | None = None


def _high(value: float) -> float:
    return -value


def _low(value: float) -> float:
    return value


def _near_one(value: float) -> float:
    return abs(value - 1)


COLUMNS = (
    Column("ratio", "ratio", 0),
    Column("compression", "compression_factor", 1),
    Column("PSNR", "psnr", 2, _high),
    Column("SSIM", "ssim", 4, _high),
    Column("LPIPS", "lpips", 4, _low),
    Column("FVD", "fvd", 2, _low),
    Column("sharpness", "sharpness", 3, _near_one),
    Column("seams", "seam_ratio", 3, _near_one),
    Column("difference error", "temporal_mae", 3, _low),
    Column("blended", "ghosting_rate", 3, _low),
)


@contextmanager
def result_bar() -> Iterator[OnJob]:
    """A bar on standard error, gone when the work is done; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluate", total=None)
        yield lambda done, total, what: progress.update(
            task, completed=done, total=total or None, description=what
        )


def show_summary(summary: Sequence[Row], report: Path, as_json: bool) -> None:
    """The table on standard output, the best of each size in bold; or the summary as one line of JSON."""
    if as_json:
        print(json.dumps(summary, allow_nan=False))
        return
    shown = [column for column in COLUMNS if any(row[column.name] is not None for row in summary)]
    table = Table("model", "size", "steps", *(column.head for column in shown), "frames/s", box=None)
    for row in summary:
        same_size = [other for other in summary if other["size"] == row["size"]]
        cells = [_cell(row, column, same_size) for column in shown]
        table.add_row(row["model"], row["size"], str(row["steps"]), *cells, _speed(row))
    console = Console()
    (console if console.is_terminal else Console(width=10_000)).print(table)  # in a file no line is folded
    print(f"{summary[0]['clips']} clips; the page is {report / 'index.html'}.")


def _cell(row: Row, column: Column, rivals: Sequence[Row]) -> str:
    value = row[column.name]
    if value is None:
        return "-"
    text = f"{value:.{column.digits}f}"
    if column.regret is None or len(rivals) < 2:
        return text
    least = min(column.regret(other[column.name]) for other in rivals if other[column.name] is not None)
    return f"[bold]{text}[/bold]" if column.regret(value) == least else text


def _speed(row: Row) -> str:
    """Frames that are encoded and decoded again in a second."""
    seconds = row["encode_seconds"] + row["decode_seconds"]
    return f"{row['frames'] / seconds:.1f}" if seconds else "-"
