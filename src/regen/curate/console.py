"""What `regen shards` shows to people: a bar while it works, then a table and a sentence."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from regen.curate.filters import REASONS
from regen.curate.indexing import IndexResult
from regen.curate.report import BuildResult
from regen.curate.workers import OnPhase

VERBS = {
    "look": "looking at files",
    "write": "writing shards",
    "report": "making the report",
    "list": "listing shards",
}
NAMED = 5  # of what is left out
SIZES = 12  # lines


@contextmanager
def phase_bar() -> Iterator[OnPhase]:
    """A bar on standard error, gone when the work is done; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        phases: list[str] = []

        def show(phase: str, done: int, total: int) -> None:
            if phases[-1:] != [phase]:  # each has its own time to go
                phases.append(phase)
                progress.reset(task, description=VERBS[phase], total=total or None)
            progress.update(task, completed=done, total=total or None)

        yield show


def print_result(outcome: BuildResult) -> None:
    """How many were kept and dropped, and where to look."""
    figures = outcome.as_json()
    rows = [(f"dropped: {REASONS[reason]}", f"{count:,}") for reason, count in figures["reasons"].items()]
    kept = (
        f"{figures['hours']:.2f} hours, {_megabytes(figures['bytes'])}, {_count(figures['shards'], 'shard')}"
    )
    _print([("files", f"{figures['files']:,}"), *rows, ("samples", f"{figures['samples']:,}: {kept}")])
    if "cuts" in figures["reasons"]:
        print("To keep the shots of videos with cuts, build with --cuts split and another --out.")
    print(f"Pictures of what was dropped and why are in {outcome.page}.")


def print_index_result(indexed: IndexResult, address: str) -> None:
    """How many samples there are, and what was left out."""
    for name, reason in indexed.left_out[:NAMED]:
        print(f"left out: {name}: {reason}")
    if len(indexed.left_out) > NAMED:
        print(f"and {len(indexed.left_out) - NAMED:,} more")
    shards = _count(indexed.shards, "shard")
    print(f"The index of {address} has {_count(indexed.samples, 'sample')} in {shards}.")


def print_overview(figures: dict[str, Any]) -> None:
    """What a set of shards holds."""
    facts = [
        ("samples", f"{figures['samples']:,}, in {_count(figures['shards'], 'shard')}"),
        ("size", _megabytes(figures["bytes"])),
    ]
    if figures["videos"]:
        low, middle, high = figures["seconds"]
        span = f"{low:.1f} to {high:.1f} s, half of them below {middle:.1f} s"
        facts.append(("videos", f"{figures['videos']:,}: {figures['hours']:.2f} hours; {span}"))
    if figures["images"]:
        facts.append(("images", f"{figures['images']:,}"))
    facts.append(("captions", f"{figures['captions']:,}"))
    facts.append(("classes", f"{figures['classes']:,}, of {figures['labelled']:,} samples"))
    most = max(count for *_, count in figures["sizes"])
    for width, height, count in figures["sizes"][:SIZES]:
        facts.append(
            (f"{width} x {height}", f"{count:,}".rjust(len(f"{most:,}")) + " " + "█" * -(-30 * count // most))
        )
    rest = sum(count for *_, count in figures["sizes"][SIZES:])
    if rest:
        facts.append(("other sizes", f"{rest:,}"))
    _print(facts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _print(rows: Sequence[tuple[str, str]]) -> None:
    table = Table("", "", show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=10_000)).print(table)  # in a file no line is folded
