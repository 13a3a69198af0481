"""A queue of trainings: each command once, in order, again after a failure or an interruption."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUEUE = Path(__file__).parents[1] / "tools" / "train_queue.py"


def call(queue: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(QUEUE), str(queue), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=queue.parent, timeout=60, check=False)


def test_each_command_is_done_once_and_in_order(tmp_path: Path) -> None:
    queue = tmp_path / "queue.txt"
    queue.write_text(
        "# first\nsh -c 'echo one >> out'  # of two\n\nsh -c 'printenv OMP_NUM_THREADS >> out'\n"
    )
    assert call(queue).returncode == 0 and call(queue).returncode == 0
    assert (tmp_path / "out").read_text() == "one\n1\n"
    assert [line[:4] for line in call(queue, "--show").stdout.splitlines()] == ["done", "done"]


def test_variables_are_replaced_and_must_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = tmp_path / "queue.txt"
    queue.write_text("touch $TRAINED_HERE/out\n")
    assert "variables without a value: $TRAINED_HERE/out" in call(queue).stderr
    monkeypatch.setenv("TRAINED_HERE", str(tmp_path))
    assert call(queue).returncode == 0 and (tmp_path / "out").exists()


def test_what_fails_is_left_for_the_next_call(tmp_path: Path) -> None:
    queue = tmp_path / "queue.txt"
    queue.write_text("sh -c 'echo why >&2; test -e ready'\nsh -c 'echo after >> out'\n")
    failed = call(queue)
    assert failed.returncode == 1 and "1: failed with 1" in failed.stdout
    assert (tmp_path / "queue.1.log").read_text() == "why\n"
    assert (tmp_path / "out").read_text() == "after\n"
    (tmp_path / "ready").touch()
    assert call(queue).returncode == 0
    assert (tmp_path / "out").read_text() == "after\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command_and_ends_the_queue(tmp_path: Path, number: signal.Signals) -> None:
    queue = tmp_path / "queue.txt"
    script = "import signal,sys,time,pathlib\nstop=lambda *a:(pathlib.Path('saved').touch(),sys.exit(143))\n"
    script += "[signal.signal(n,stop) for n in (signal.SIGTERM,signal.SIGINT)]\n"
    script += "pathlib.Path('started').touch()\ntime.sleep(60)\n"
    (tmp_path / "train.py").write_text(script)
    queue.write_text(f"{sys.executable} train.py\nsh -c 'touch second'\n")
    process = subprocess.Popen([sys.executable, str(QUEUE), str(queue)], cwd=tmp_path)
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert "another process" in call(queue).stderr
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert (tmp_path / "saved").exists() and not (tmp_path / "second").exists()
    assert not (tmp_path / "queue.done").exists()
