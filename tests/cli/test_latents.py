import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from commands import PATIENCE, Process, Ran, Regen, assert_error, wait_until
from tiny_latents import (
    contents,
    export,
    long_corpus,
    make_corpus,
    make_hybrid_model,
    make_model,
    make_shards,
    work_left,
)
from tiny_media import make_video

from regen.corpus.dataset import LatentDataset

COMMON = ("--model", "tiny", "--device", "cpu", "--dtype", "fp32", "--latent-dtype", "fp32")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory: clips, and the model tiny."""
    make_corpus(tmp_path / "clips")
    make_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def latents(folder, capsys) -> Callable[..., Ran]:
    return partial(Regen(folder, capsys), "latents")


EXPORT = ("export", "--data", "clips", "--out", "out", *COMMON)
EXPORT_LONG = ("latents", "export", "--data", "long", "--out", "out", *COMMON)


def wait_for_shard(out: Path, process: Process) -> None:
    wait_until(lambda: list(out.glob("0*.json")), process)


def test_export_and_show(folder, latents):
    (folder / "clips" / "bad.mp4").write_bytes(b"no video")
    ran = latents(*EXPORT, "--size", "16x24", "--frames", "6", "--files-per-shard", "4")
    assert (ran.status, ran.err) == (0, []) and ran.out[-1].endswith("complete")
    out = "\n".join(ran.out)
    for words in (
        *("tiny (hash ", "size 16x24, frames 6", "2 of 2", "6, 3 of them images; 1 skipped", "18, 0.00"),
        *("3 of 1x4x1x2x3, 2 of 2x4x2x2x3", "1 samples have one; 1 classes", "skipped bad-"),
    ):
        assert words in out
    found = json.loads("".join(latents("show", "out", "--json").out))
    assert (found["samples"], found["missing_shards"], found["command"]) == (6, 0, None)
    assert found["mean_sequence_length"] is None and "1D" not in out
    (folder / "out" / "00001.json").unlink()
    shown = "\n".join(latents("show", "out").out)
    assert "1 of 2" in shown and "not complete; finish it by: regen latents export --model tiny" in shown
    command = shown.strip().rpartition(": ")[2].split()
    assert latents(*command[2:], "--device", "cpu").status == 0
    assert len(LatentDataset(folder / "out")) == 6
    assert_error(latents("show", "clips"), "clips holds no latents")


def test_export_and_show_of_hybrid_latents(folder, latents):
    model = make_hybrid_model(folder / "hybrid")
    shown = "\n".join(latents(*EXPORT, "--size", "32", "--model", model, "--num-latents", "50%").out)
    for words in ("num_latents 50%", "3 of 1x4x5x2x2, 3 of 1x4x1x2x2", "6.0 per chunk, 50% of the maximum"):
        assert words in shown
    found = json.loads("".join(latents("show", "out", "--json").out))
    found = found["mean_sequence_length"], found["sequence_length_fraction"]
    assert found == (6, 0.5)  # 10 of videos, 2 of images


def test_shards_at_a_remote_address(folder, latents):
    make_shards(folder / "clips", folder / "shards", 3)
    for data, out in ((f"file://{folder}/shards", "one"), ("shards", "two")):
        assert latents(*EXPORT, "--data", data, "--out", out).status == 0
    one, two = contents(folder / "one"), contents(folder / "two")
    assert {name for name in one if one[name] != two[name]} == {"manifest.json"} and one.keys() == two.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "17"), ("17x17", "multiples of 8")),
        (("--fps", "fast"), ("frame rate", "got 'fast'")),
        (("--dtype", "fp8"), ("'fp8'",)),
        (("--processes", "0"), ("processes", "got 0")),
        (("--data", "gone"), ("no file or folder gone",)),
        (("--data", "empty"), ("no video or image in empty",)),
        (("--model", "nothing"), ("no model nothing",)),
        (("--tile", "8"), ("tile", "got 8x8")),
        (("--num-latents", "half"), ("got 'half'",)),
        (("--num-latents", "50%"), ("--num-latents", "need a One-DVA model")),
        (("--out", "tiny/config.json/out"), ("--out must be writable",)),
    ],
    ids=lambda value: value[0][2:] if value[0].startswith("--") else None,
)
def test_bad_options(folder, latents, arguments, words):
    (folder / "empty").mkdir()
    assert_error(latents(*EXPORT, *arguments), *words)
    assert not (folder / "out").exists()


@pytest.mark.integration
@pytest.mark.parametrize(("maker", "videos"), [(make_model, 12), (make_hybrid_model, 80)])
def test_two_processes_of_which_one_is_killed_give_the_same_bytes(folder, start_command, maker, videos):
    maker(folder / "tiny")
    long_corpus(folder / "long", videos)
    victim, other = (start_command(*EXPORT_LONG, "--files-per-shard", "1") for _ in range(2))
    wait_for_shard(folder / "out", victim)
    time.sleep(random.uniform(0, 0.5))
    victim.kill()
    assert victim.wait() == -signal.SIGKILL, "it was done before it could be killed"
    _, error = other.communicate(timeout=PATIENCE)
    assert (other.returncode, error) == (0, "")
    assert work_left(folder / "out") == []
    whole = export("tiny", Path("long"), folder / "whole", files_per_shard=1)
    assert contents(folder / "out") == contents(whole)


@pytest.mark.integration
@pytest.mark.parametrize("count", ["1", "2"])
def test_terminated_it_leaves_nothing_half_done(folder, latents, start_command, count):
    long_corpus(folder / "long", 12)
    process = start_command(*EXPORT_LONG, "--files-per-shard", "1", "--processes", count)
    wait_for_shard(folder / "out", process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, error
    (line,) = error.strip().splitlines()
    assert line == "regen: interrupted; finished work is kept in out, and the same command continues."
    assert not [name for name in work_left(folder / "out") if not name.endswith(".lock")]
    before = contents(folder / "out")
    assert latents(*EXPORT_LONG[1:], "--files-per-shard", "1").status == 0
    assert before.items() <= contents(folder / "out").items() and work_left(folder / "out") == []


@pytest.mark.integration
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half(folder, start_command):
    (folder / "long").mkdir()
    make_video(folder / "long" / "z.mp4", 100, 48, 64)  # 30 kB of latents
    for number in range(3):
        shutil.copy(folder / "clips" / "d.mp4", folder / "long" / f"a{number}.mp4")
    process = start_command(*EXPORT_LONG, "--files-per-shard", "3", max_file_size=20_000)
    output, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and output == ""
    (line,) = error.strip().splitlines()
    assert line.startswith("regen: The latents can't be written to out (File too large); ")
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {".work", "00000.json", "00000.safetensors", "manifest.json"}
    assert work_left(folder / "out") == []
