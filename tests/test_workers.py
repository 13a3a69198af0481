"""Worker processes: a job that fails costs itself alone, shared work fails as a whole, none stays."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from regen.workers import ExtendDeadline, Failure, JobError, run_jobs, run_workers, worker_device


def do_job(job: str, extend: ExtendDeadline) -> str:
    match job:
        case "hang":
            time.sleep(1000)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "raise":
            raise ZeroDivisionError("no such number")
        case "refuse":
            raise JobError("odd", "it is odd")
        case "slow":
            extend(100)
            time.sleep(3.5)
        case "pid":
            return str(os.getpid())
    return f"{job} done"


def test_each_job_has_its_own_result() -> None:
    jobs = ["a", "hang", "b", "die", "raise", "slow", "exit", "refuse", "c"]
    assert dict(run_jobs(do_job, jobs, 3, time_limit=3.0)) == {
        "a": "a done",
        "b": "b done",
        "c": "c done",
        "slow": "slow done",
        "hang": Failure("slow", "not done after 3 s"),
        "die": Failure("killed", "the process that worked on it was ended by signal 9"),
        "exit": Failure("killed", "the process that worked on it was ended with status 3"),
        "raise": Failure("damaged", "no such number"),
        "refuse": Failure("odd", "it is odd"),
    }


def test_jobs_are_taken_when_they_start_and_processes_end_with_the_iterator() -> None:
    taken = []

    def jobs() -> object:
        for number in range(100):
            taken.append(number)
            yield "pid"

    results = run_jobs(do_job, jobs(), 2, time_limit=60.0)
    _, process = next(results)
    assert len(taken) <= 3
    results.close()
    wait_until_gone(int(process))
    assert list(run_jobs(do_job, [], 2, time_limit=1.0)) == []


@pytest.mark.integration
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from regen.workers import run_jobs\n"
        "def work(job, extend):\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}}\\n')\n"
        "    time.sleep(1000)\n"
        "if __name__ == '__main__':\n"
        "    list(run_jobs(work, [1], 1, 1000))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
            assert parent.poll() is None and time.monotonic() < end
            time.sleep(0.01)
    finally:
        parent.kill()
        parent.wait()
    wait_until_gone(int((tmp_path / "pid").read_text()))


def wait_until_gone(process: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < end
        time.sleep(0.01)


def share(folder: Path, number: int) -> None:
    """Leave a note; where `folder` does not exist, process 0 fails and the others never end."""
    if folder.exists():
        (folder / str(number)).touch()
    elif number == 0:
        raise MemoryError("the words")
    else:
        time.sleep(1000)


class Slow:
    def __del__(self) -> None:
        time.sleep(1.0)


def end_in_a_destructor(folder: Path, number: int) -> None:
    """Worker 1 fails while worker 0 is inside a destructor; worker 0 ends all the same, and tidily."""
    if number == 1:
        while not (folder / "ready").exists():
            time.sleep(0.01)
        raise ValueError("worker 1 failed")
    (folder / "ready").touch()
    try:
        Slow()
        time.sleep(60)
    finally:
        (folder / "tidied").touch()


def test_workers_inside_destructors_are_stopped_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="worker 1 failed"):
        run_workers(partial(end_in_a_destructor, tmp_path), 2, lambda: None)
    assert (tmp_path / "tidied").exists()


def fail(number: int) -> None:
    raise RuntimeError("the words")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_shared_work_numbers_its_processes(tmp_path: Path) -> None:
    polls: list[None] = []
    run_workers(partial(share, tmp_path), 2, lambda: polls.append(None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"] and polls


@pytest.mark.integration
def test_shared_work_fails_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(MemoryError, match="^the words$"):
        run_workers(partial(share, tmp_path / "missing"), 2, lambda: None)
    with pytest.raises(ValueError, match="failed: the words"):
        run_workers(fail, 1, lambda: None)
    with pytest.raises(ValueError, match="exit code -9"):
        run_workers(die, 1, lambda: None)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(worker_device(n, torch.device("cuda"))) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [str(worker_device(1, torch.device(name))) for name in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
