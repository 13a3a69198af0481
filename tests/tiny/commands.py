"""Commands of regen in this process and in processes of their own, and the form of their errors."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PATIENCE = 600.0  # seconds for a process to begin its work on a busy machine
WITH_LITTLE_DISK = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
runpy.run_module("regen", run_name="__main__")
"""
Process = subprocess.Popen[str]
StartCommand = Callable[..., Process]


@pytest.fixture
def start_command() -> Iterator[StartCommand]:
    """Starts regen with these arguments; its processes are dead when the test is over, however it ends."""
    started: list[Process] = []

    def start(*arguments: str, max_file_size: int | None = None, cwd: Path | None = None) -> Process:
        code = (
            ["-m", "regen"] if max_file_size is None else ["-c", WITH_LITTLE_DISK.format(size=max_file_size)]
        )
        command, pipe = [sys.executable, *code, *arguments], subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@dataclass
class Ran:
    """What a command left: exit status, lines of both streams, and files that were not there before."""

    status: int
    out: list[str]
    err: list[str]
    files: set[str]


class Regen:
    """Runs commands of regen in this process, which has the working directory `folder`."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capture = folder, capture

    def __call__(self, *arguments: str) -> Ran:
        from regen import cli  # not above, see tests/conftest.py

        before = self.files()
        self.capture.readouterr()
        try:
            status = cli.main([*arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self.capture.readouterr()
        return Ran(status, out.splitlines(), err.splitlines(), self.files() - before)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def run_regen(tmp_path, capsys, monkeypatch) -> Regen:
    """Runs commands in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Regen(tmp_path, capsys)


def wait_until(done: Callable[[], object], process: Process) -> None:
    """Wait for the condition, or the end of the process."""
    end = time.monotonic() + PATIENCE
    while not done() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_error(ran: Ran, *words: str) -> None:
    """The command failed, and the last line of standard error is one short sentence with these words."""
    error = ran.err[-1]
    assert ran.status == 1 and error.startswith("regen: ") and error.endswith((".", ")"))
    assert len(error) < 300 and "Traceback" not in error and "Errno" not in error
    for word in words:
        assert word in error
