"""The command in its own process, stopped from outside: the same command ends in the same bytes."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from curation_clips import AGAIN, SPLIT, make_mixture, results, run

pytestmark = pytest.mark.integration

PATIENCE = 120.0  # seconds for a process to begin its work on a busy machine
RUN_WITH_LITTLE_DISK = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
runpy.run_module("regen", run_name="__main__")
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mixture(tmp_path_factory.mktemp("sources") / "clips")


def wait_for(done: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE
    while not done() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes that are dead when the test is over, however it ends."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(*arguments: str, code: tuple[str, ...] = ("-m", "regen")) -> "subprocess.Popen[str]":
    command = [sys.executable, *code, "shards", "build", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def options(clips: Path, out: Path) -> list[str]:
    """SPLIT and AGAIN as options of the command."""
    filters = ("--min-frames", "5", "--min-side", "0", "--cuts", "split")
    packing = ("--short-side", "64", "--keyframe-interval", "4", "--max-samples", "2")
    return [str(clips), "--out", str(out), *filters, *packing, "--workers", "1"]


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(
    clips: Path, tmp_path: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    run(clips, tmp_path / "whole", SPLIT, AGAIN)
    out, draw = tmp_path / "out", random.Random()
    begun = (
        lambda: (out / ".build" / "analysis.jsonl").exists(),
        lambda: any((out / ".build" / "encoded").glob("*.mp4")),
        lambda: any(out.glob("*.tar")),
    )
    for moment in begun:
        processes.append(process := start(*options(clips, out)))
        wait_for(moment, process)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        if process.wait() != -signal.SIGKILL:  # a busy machine let it finish first
            break
        assert not (out / "index.safetensors").exists()
    run(clips, out, SPLIT, AGAIN)
    assert results(out) == results(tmp_path / "whole")


def test_ctrl_c_is_one_sentence(
    clips: Path, tmp_path: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    out = tmp_path / "out"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    processes.append(process := start(*options(clips, out)))
    signal.signal(signal.SIGINT, before)
    wait_for(lambda: (out / ".build" / "analysis.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    assert (
        error.strip()
        == f"regen: interrupted; finished work is kept in {out}, and the same command continues."
    )


def test_a_full_disk_is_one_sentence_and_no_shard(
    clips: Path, tmp_path: Path, processes: list["subprocess.Popen[str]"]
) -> None:
    arguments = str(clips), "--out", str(tmp_path / "out"), "--min-side", "0", "--workers", "1"
    processes.append(process := start(*arguments, code=("-c", RUN_WITH_LITTLE_DISK)))
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    (line,) = error.strip().splitlines()
    assert line.startswith("regen: The shards can't be written to") and "same command continues" in line
    assert not list((tmp_path / "out").glob("*.tar"))
