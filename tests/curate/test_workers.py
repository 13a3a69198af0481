"""Processes that fail, hang or die cost their own job alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regen.curate.workers import ExtendDeadline, Failure, JobError, run_jobs


def work(job: str, extend: ExtendDeadline) -> str:
    match job:
        case "hang":
            time.sleep(1000)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(3)
        case "raise":
            raise ZeroDivisionError("no such number")
        case "refuse":
            raise JobError("odd", "it is odd")
        case "slow":
            extend(100)
            time.sleep(1.5)
    return f"{job} done"


@pytest.mark.parametrize("workers", [1, 3])
def test_each_job_gets_its_own_answer(workers: int) -> None:
    jobs = ["a", "hang", "b", "die", "raise", "slow", "leave", "refuse", "c"]
    answers = dict(run_jobs(work, jobs, workers, limit=1.0))
    assert answers == {
        "a": "a done",
        "b": "b done",
        "c": "c done",
        "slow": "slow done",
        "hang": Failure("slow", "not done after 1 s"),
        "die": Failure("killed", "the process that worked on it was ended by signal 9"),
        "leave": Failure("killed", "the process that worked on it was ended with status 3"),
        "raise": Failure("damaged", "no such number"),
        "refuse": Failure("odd", "it is odd"),
    }


def test_jobs_are_taken_as_they_are_begun() -> None:
    taken = []

    def jobs() -> object:
        for number in range(100):
            taken.append(number)
            yield str(number)

    answers = run_jobs(work, jobs(), 2, limit=60.0)
    next(answers)
    assert len(taken) <= 3
    answers.close()
    assert list(run_jobs(work, [], 2, limit=1.0)) == []


def identify(job: int, extend: ExtendDeadline) -> int:
    return os.getpid()


def test_processes_end_with_the_iterator() -> None:
    answers = run_jobs(identify, range(100), 2, limit=60.0)
    (_, number), _ = next(answers), next(answers)
    answers.close()
    assert isinstance(number, int)
    wait_until_gone(number)


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from regen.curate.workers import run_jobs\n"
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
    while is_there(process):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
