"""What the commands show: a progress bar while they work, then a table."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

OnProgress = Callable[[int, int | None], None]
"""(done, total, None while unknown)."""


@contextmanager
def progress_bar(verb: str) -> Iterator[OnProgress]:
    """A bar on standard error, gone when the work is done; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(verb, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_table(table: Table, rows: Sequence[tuple[str, ...]]) -> None:
    for row in rows:
        table.add_row(*row)
    console = Console()
    if console.is_terminal:
        console.print(table)
    else:  # a file or a pipe: no line is cut or folded
        Console(width=10_000).print(table)
