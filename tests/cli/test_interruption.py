"""Commands killed or interrupted in their own process: an output file is complete, or the previous one."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_media import make_video, tiny_regen

START_TIMEOUT = 600.0  # seconds for a process to begin its work on a busy machine
OLD = "what stood here before"
RUN_WITH_LITTLE_DISK = """
import resource, runpy
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
runpy.run_module("regen", run_name="__main__")
"""

pytestmark = pytest.mark.integration
Process = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A program that was started in the background may ignore Ctrl+C, and hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Processes that are dead when the test is over, however it ends."""
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, and an empty folder `out` for what is written."""
    tiny_regen().save_pretrained(tmp_path / "tiny")
    (tmp_path / "out").mkdir()
    return tmp_path


def start(folder: Path, command: str, *arguments: str, code: tuple[str, ...] = ("-m", "regen")) -> Process:
    using = ("--model", "tiny", "--device", "cpu", "--dtype", "fp32")
    return subprocess.Popen(
        [sys.executable, *code, command, "in.mp4", *arguments, *using],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_reconstruct(folder: Path) -> Process:
    """At work on a long video, both outputs begun; one of them replaces an old file."""
    make_video(folder / "in.mp4", 2000, 48, 80, sound="aac")
    (folder / "out" / "a.mp4").write_text(OLD)
    process = start(folder, "reconstruct", "-o", "out/a.mp4", "--compare", "out/b.mp4")
    end = time.monotonic() + START_TIMEOUT
    while sum(path.stat().st_size > 0 for path in hidden(folder)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    return process


def hidden(folder: Path) -> list[Path]:
    return [path for path in (folder / "out").iterdir() if path.name.startswith(".")]


def assert_only_the_old_has_a_name(folder: Path) -> None:
    visible = [path.name for path in (folder / "out").iterdir() if not path.name.startswith(".")]
    assert visible == ["a.mp4"]
    assert (folder / "out" / "a.mp4").read_text() == OLD


def test_killed_at_work_nothing_looks_complete(folder: Path, processes: list[Process]) -> None:
    processes.append(process := start_reconstruct(folder))
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert_only_the_old_has_a_name(folder)
    assert len(hidden(folder)) == 2


def test_ctrl_c_leaves_only_what_was_there(folder: Path, processes: list[Process]) -> None:
    processes.append(process := start_reconstruct(folder))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=START_TIMEOUT)
    assert process.returncode == 130, error
    assert error.strip().splitlines()[-1] == "regen: interrupted." and "Traceback" not in error
    assert_only_the_old_has_a_name(folder)
    assert hidden(folder) == []


def test_full_disk_is_one_sentence_and_leaves_nothing(folder: Path, processes: list[Process]) -> None:
    pytest.importorskip("resource")
    torch.manual_seed(0)
    make_video(folder / "in.mp4", 6, 48, 80)
    process = start(folder, "encode", "-o", "out/z.safetensors", code=("-c", RUN_WITH_LITTLE_DISK))
    processes.append(process)
    output, error = process.communicate(timeout=START_TIMEOUT)
    assert process.returncode == 1 and output == ""
    (line,) = error.strip().splitlines()
    assert line.startswith("regen: ") and line.endswith(".") and "out/z.safetensors" in line
    assert list((folder / "out").iterdir()) == []
