"""Commands of regen in processes of their own, and the form of their errors."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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


def wait_until(done: Callable[[], object], process: Process) -> None:
    """Wait for the condition, or the end of the process."""
    end = time.monotonic() + PATIENCE
    while not done() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


def assert_error(capture: pytest.CaptureFixture[str], *words: str) -> None:
    """The last line of standard error is one sentence with these words."""
    error = capture.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("regen: ") and error.endswith(".") and "Traceback" not in error
    for word in words:
        assert word in error
