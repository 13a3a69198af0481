"""What the commands print, and how they are interrupted."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from rich.table import Table

from regen.cli import COMMANDS, main
from regen.console import Interrupted, clean_exit, error_message, first_line, print_table, progress_bar, warn


def test_in_a_pipe_a_table_is_not_folded_and_the_bar_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("work") as on_progress:
        on_progress(1, None)
        on_progress(0, 2, "more work")
    print_table(Table("name", "[b]", box=None), [("x" * 300, "[red]:smile:"), ("y", "1")])
    out, err = capsys.readouterr()
    assert out.split() == ["name", "[b]", "x" * 300, "[red]:smile:", "y", "1"]
    assert len(out.splitlines()) == 3 and err == ""


def test_a_terminal_shows_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bar("work") as on_progress:
        on_progress(3, 7)
        on_progress(1, 2, "more work")
    assert "more work" in (err := capsys.readouterr().err) and "1/2" in err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "No space left on device"),
            "No space left on device; free some space, or choose another place.",
        ),
        (OSError(13, "Denied", "a.mp4"), "a.mp4: Denied; see to its permissions, or choose another place."),
        (OSError(99, "Odd"), "Odd."),
        (OSError("two\nlines"), "two lines"),
        (MemoryError(), "MemoryError."),
    ],
)
def test_errors_of_the_system_say_what_to_do(error: BaseException, message: str) -> None:
    assert error_message(error) == message


def test_first_line_of_an_error_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert first_line(ValueError("one.\ntwo.")) == "one"
    assert first_line(RuntimeError(" ")) == "RuntimeError"
    assert first_line(FileNotFoundError(2, "No such file or directory", "a")) == "No such file or directory"
    warn("a frame is missing")
    assert capsys.readouterr() == ("", "regen: warning: a frame is missing\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unwinds_the_block(number: signal.Signals) -> None:
    before, unwound = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with clean_exit(Path("out")):
            try:
                os.kill(os.getpid(), number)
                signal.pause()
            finally:
                unwound.append(number)

    with pytest.raises(Interrupted, match="interrupted; .* kept in out") as caught:
        work()
    assert unwound and caught.value.exit_code == 128 + number
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_inside_a_destructor_unwinds_the_block_too(number: signal.Signals) -> None:
    """Python drops exceptions of destructors, and so that of a signal which arrives in one."""

    class Late:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work() -> None:
        with clean_exit(Path("out")):
            Late()
            time.sleep(30)

    before = sys.unraisablehook
    with pytest.raises(Interrupted) as caught:
        work()
    assert caught.value.exit_code == 128 + number and sys.unraisablehook == before


def test_other_exceptions_of_destructors_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    shown: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: shown.append(dropped.exc_value))
    with clean_exit(Path("out")):
        Broken()
    assert isinstance(shown[0], ValueError)


def test_the_message_of_a_run_that_saved_its_state_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def models() -> None:
        """List the models."""
        with clean_exit(Path("out")):
            raise Interrupted("saved after step 3.", signal.SIGTERM)

    monkeypatch.setitem(COMMANDS, "models", models)
    assert main(["models"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "regen: saved after step 3.\n"
