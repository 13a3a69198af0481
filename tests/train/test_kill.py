"""Runs in their own processes, stopped from outside; what they leave must be the uninterrupted run."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_run
import torch
from tiny_run import STEPS, assert_same, run_tiny, saved_tensors

from regen.train.checkpoint import list_checkpoints

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes: sums over another number of threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that are dead when the test is over, however it ends."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def start(out: Path, workers: int, save_every_minutes: float) -> "subprocess.Popen[str]":
    command = [sys.executable, tiny_run.__file__, str(out), str(workers), str(save_every_minutes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_row(log: Path, process: "subprocess.Popen[str]") -> None:
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def assert_equals_uninterrupted(out: Path, tmp_path: Path) -> None:
    run_tiny(tmp_path / "whole")
    assert_same(saved_tensors(out), saved_tensors(tmp_path / "whole"))


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bits(
    tmp_path: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    out, draw = tmp_path / "run", random.Random()
    for _ in range(2):
        process = start(out, workers=1, save_every_minutes=0)
        processes.append(process)
        begun = [path.name for path in list_checkpoints(out / "checkpoints")]
        while [path.name for path in list_checkpoints(out / "checkpoints")] == begun:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        assert len(list_checkpoints(out / "checkpoints")) >= 1
        if process.wait() != -signal.SIGKILL:  # a busy machine let it finish first
            break
    assert run_tiny(out, num_workers=1).step == STEPS
    assert_equals_uninterrupted(out, tmp_path)


def test_ctrl_c_saves_and_the_same_command_continues(
    tmp_path: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    out = tmp_path / "run"
    process = start(out, workers=1, save_every_minutes=60)
    processes.append(process)
    wait_for_row(out / "log.jsonl", process)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate()
    assert process.returncode == 130, error
    assert "the same command resumes" in output
    assert "Traceback" not in error
    assert run_tiny(out, num_workers=1).step == STEPS
    assert_equals_uninterrupted(out, tmp_path)
