"""Commands killed or interrupted in their own process: an output file is complete, or the previous one."""

import signal
from pathlib import Path

import pytest
from commands import PATIENCE, Process, StartCommand, wait_until
from tiny_media import make_video, tiny_regen

OLD = "what stood here before"
MODEL = ("--model", "tiny", "--device", "cpu", "--dtype", "fp32")
pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a model, and an empty folder `out` for what is written."""
    tiny_regen().save_pretrained(tmp_path / "tiny")
    (tmp_path / "out").mkdir()
    return tmp_path


def start_reconstruct(folder: Path, start_command: StartCommand) -> Process:
    """At work on a long video, both outputs begun; one of them replaces an old file."""
    make_video(folder / "in.mp4", 2000, 48, 80, sound="aac")
    (folder / "out" / "a.mp4").write_text(OLD)
    outputs = "-o", "out/a.mp4", "--compare", "out/b.mp4"
    process = start_command("reconstruct", "in.mp4", *outputs, *MODEL, cwd=folder)
    wait_until(lambda: sum(path.stat().st_size > 0 for path in hidden(folder)) >= 2, process)
    return process


def hidden(folder: Path) -> list[Path]:
    return [path for path in (folder / "out").iterdir() if path.name.startswith(".")]


def assert_only_the_old_has_a_name(folder: Path) -> None:
    visible = [path.name for path in (folder / "out").iterdir() if not path.name.startswith(".")]
    assert visible == ["a.mp4"]
    assert (folder / "out" / "a.mp4").read_text() == OLD


def test_killed_at_work_nothing_looks_complete(folder, start_command):
    process = start_reconstruct(folder, start_command)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert_only_the_old_has_a_name(folder)
    assert len(hidden(folder)) == 2


def test_ctrl_c_leaves_only_what_was_there(folder, start_command):
    process = start_reconstruct(folder, start_command)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    assert error.strip().splitlines()[-1] == "regen: interrupted." and "Traceback" not in error
    assert_only_the_old_has_a_name(folder)
    assert hidden(folder) == []
