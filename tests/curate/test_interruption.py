"""The command in its own process, stopped from outside: the same command ends in the same bytes."""

import random
import signal
import time
from pathlib import Path

import pytest
from commands import PATIENCE, wait_until
from curation_clips import AGAIN, SPLIT, make_mixture, results, run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return make_mixture(tmp_path_factory.mktemp("sources") / "clips")


def options(clips: Path, out: Path) -> list[str]:
    """SPLIT and AGAIN as options of the command."""
    filters = ("--min-frames", "5", "--min-side", "0", "--cuts", "split")
    packing = ("--short-side", "64", "--keyframe-interval", "4", "--max-samples", "2")
    return ["shards", "build", str(clips), "--out", str(out), *filters, *packing, "--workers", "1"]


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(clips, tmp_path, start_command):
    run(clips, tmp_path / "whole", SPLIT, AGAIN)
    out, draw = tmp_path / "out", random.Random()
    begun = (
        lambda: (out / ".build" / "analysis.jsonl").exists(),
        lambda: any((out / ".build" / "encoded").glob("*.mp4")),
        lambda: any(out.glob("*.tar")),
    )
    for moment in begun:
        process = start_command(*options(clips, out))
        wait_until(moment, process)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        if process.wait() != -signal.SIGKILL:  # a busy machine let it finish first
            break
        assert not (out / "index.safetensors").exists()
    run(clips, out, SPLIT, AGAIN)
    assert results(out) == results(tmp_path / "whole")


def test_ctrl_c_is_one_sentence(clips, tmp_path, start_command):
    out = tmp_path / "out"
    process = start_command(*options(clips, out))
    wait_until(lambda: (out / ".build" / "analysis.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    line = f"regen: interrupted; finished work is kept in {out}, and the same command continues."
    assert error.strip() == line


def test_a_full_disk_is_one_sentence_and_no_shard(clips, tmp_path, start_command):
    arguments = str(clips), "--out", str(tmp_path / "out"), "--min-side", "0", "--workers", "1"
    process = start_command("shards", "build", *arguments, max_file_size=20_000)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    (line,) = error.strip().splitlines()
    assert line.startswith("regen: The shards can't be written to") and "same command continues" in line
    assert not list((tmp_path / "out").glob("*.tar"))
