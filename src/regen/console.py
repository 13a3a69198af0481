"""Progress bars, tables, warnings and interruptions of the commands."""

import errno
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if name in signal.__dict__
)
"""Signals from users, batch systems and clouds to save and stop; Windows has no SIGUSR1."""
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "see to its permissions, or choose another place"),
    errno.EROFS: "choose another place",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk or the network has failed, so try again or choose another place",
}
"""What to do about errors of the system that nothing else has explained."""
OnProgress = Callable[[int, int | None], None]
"""Called with the number of items done, and of all items (None while unknown)."""
ProgressBar = Callable[..., None]
"""An OnProgress that also takes a description to show from then on."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the command after it saved its state; the message says how to continue."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def progress_bar(description: str) -> Iterator[ProgressBar]:
    """A bar on standard error, if that is a terminal; the remaining time starts anew when `done` falls."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task, last = progress.add_task(description, total=None), 0

        def show(done: int, total: int | None, description: str | None = None) -> None:
            nonlocal last
            if done < last:
                progress.reset(task)
            last = done
            progress.update(task, completed=done, total=total or None, description=description)

        yield show


def print_table(table: Table, rows: Sequence[Sequence[RenderableType]] = ()) -> None:
    """Print the table with these rows too. Cells are printed as they are; bold ones are `rich.text.Text`."""
    for row in rows:
        table.add_row(*row)
    output_console().print(table)


def output_console() -> Console:
    """Standard output without markup; in a file or a pipe no line is cut or folded."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


def print_json(content: Any) -> None:
    """Print one line of JSON on standard output."""
    print(json.dumps(content))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the full stop; its class when it has none."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def warn(text: str) -> None:
    """Print a warning on standard error."""
    print(f"regen: warning: {text}", file=sys.stderr)


def _interrupt_thread(thread: int, number: int) -> None:
    """Send a signal to a thread, which wakes it up; Windows can only send it to the process."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(thread, number)
    else:
        signal.raise_signal(number)


def error_message(error: BaseException) -> str:
    """The message of an error on one line, with what to do about one of the system."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        advice = ADVICE.get(error.errno or 0, "")
        return f"{place}{error.strerror}{advice and '; '}{advice}."
    return " ".join(str(error).split()) or f"{type(error).__name__}."


@contextmanager
def repeat_dropped_signals() -> Iterator[None]:
    """Repeat a signal whose exception Python drops because a destructor or a callback of its own ran."""
    show = sys.unraisablehook

    def repeat(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            number = signal.SIGTERM if isinstance(dropped.exc_value, Interrupted) else signal.SIGINT
            # Not here, where it would be dropped again.
            threading.Timer(0.01, _interrupt_thread, [threading.get_ident(), number]).start()
        else:
            show(dropped)

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = show


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl+C does, by unwinding the stack. Raises Interrupted for it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("", number)

    is_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, interrupt) if is_main else None
    try:
        with repeat_dropped_signals():
            yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, previous)


@contextmanager
def clean_exit(out: Path) -> Iterator[None]:
    """Let Ctrl+C and SIGTERM end the block in the same way, with the finished work kept in `out`.

    Both unwind the stack, so that nothing half written stays. Raises Interrupted, for exit code 130 or 143.
    """
    try:
        with interrupt_on_sigterm():
            yield
    except KeyboardInterrupt as error:
        if str(error):  # has a message of its own
            raise
        number = signal.SIGTERM if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(
            f"interrupted; finished work is kept in {out}, and the same command continues.", number
        ) from None
