"""A training from shards to the model while its data go wrong in every way."""

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.test_trainer import CPU, tiny_recipe

from regen.data.shards import INDEX, SampleInfo, ShardWriter, serialize_index
from regen.data.synthetic import write_dataset
from regen.embedders.regen import AutoencoderRegen
from regen.train.trainer import Recipe, run_recipe


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two shards of three videos; one video of the first is cut off behind its header."""
    write_dataset(tmp_path / "clips", videos=6, frames=12, height=32, width=40, seed=0)
    files = sorted((tmp_path / "clips").iterdir())
    folder = tmp_path / "shards"
    folder.mkdir()
    rows = []
    for shard, part in enumerate((files[:3], files[3:])):
        with ShardWriter(folder / f"{shard}.tar") as writer:
            for file in part:
                facts = SampleInfo(file.name, 12, 25.0, 0.44, 40, 32, is_image=False, is_regular=True)
                content = file.read_bytes()
                writer.add(facts, content[: len(content) // 3] if file == files[0] else content)
        rows.append(writer.rows)
    (folder / INDEX).write_bytes(serialize_index(["0.tar", "1.tar"], rows))
    return folder


def drill_recipe(steps: int) -> Recipe:
    recipe = tiny_recipe(steps)
    loop = replace(recipe.loop, num_workers=2, log_every=1, eval_every=steps, loader_timeout=5.0)
    return replace(recipe, data=replace(recipe.data, num_val_videos=0), loop=loop)


def rows_of(out: Path) -> list[dict[str, float]]:
    path = out / "log.jsonl"
    complete = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in complete]


def harm(shards: Path, out: Path, steps: int) -> None:
    """Once the training runs: a shard vanishes, one process that loads is killed, then another hangs."""
    for after, number in ((2, signal.SIGKILL), (steps // 2, signal.SIGSTOP)):
        while len(rows_of(out)) < after:
            time.sleep(0.01)
        (shards / "1.tar").unlink(missing_ok=True)
        for process in multiprocessing.active_children()[:1]:
            os.kill(process.pid or 0, number)


@pytest.mark.integration
def test_damaged_vanished_killed_and_hanging_the_training_ends_with_a_model(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps, out = 60, tmp_path / "run"
    thread = threading.Thread(target=harm, args=(shards, out, steps))
    thread.start()
    folder = run_recipe(drill_recipe(steps), data=[str(shards)], out=out, context=CPU)
    thread.join()
    last = [row for row in rows_of(out) if "loss" in row][-1]
    assert last["step"] == steps
    assert last["damaged_samples"] > 0
    assert last["gone_samples"] > 0
    assert last["loader_restarts"] == 2
    err = capfd.readouterr().err
    assert "shapes_0000.mp4" in err
    assert "check the shard" in err
    assert "a data loading process died" in err
    assert "no batch arrived within 5 seconds" in err
    assert torch.isfinite(AutoencoderRegen.from_pretrained(folder).latents_std).all()
