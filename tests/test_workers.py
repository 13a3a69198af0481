"""Processes that share work end together, and what went wrong in one is told in one sentence."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from regen.workers import run_workers, worker_device

COUNT = 2


def leave_a_note(folder: Path, number: int) -> None:
    (folder / str(number)).touch()


def fail(kind: type[Exception], number: int) -> None:
    """One fails; the other would never end."""
    if number == 0:
        raise kind("the words")
    time.sleep(1000)


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_each_has_its_number(tmp_path: Path) -> None:
    looks: list[None] = []
    run_workers(partial(leave_a_note, tmp_path), COUNT, lambda: looks.append(None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"] and looks


@pytest.mark.parametrize(
    ("kind", "told", "words"),
    [
        (MemoryError, MemoryError, "^the words$"),
        (RuntimeError, ValueError, "One of the processes failed: the words"),
    ],
)
def test_a_failure_ends_all(kind: type[Exception], told: type[Exception], words: str) -> None:
    with pytest.raises(told, match=words):
        run_workers(partial(fail, kind), COUNT, lambda: None)


def test_one_that_is_killed_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"exit code -9.* the same command continues"):
        run_workers(die, 1, lambda: None)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(worker_device(n, torch.device("cuda"))) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [str(worker_device(1, torch.device(name))) for name in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
