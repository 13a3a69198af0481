"""Runs read from their folders: also begun, broken off, damaged ones."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from regen.train.run_summary import (
    PANELS,
    choose_metric,
    describe,
    differences,
    plot_runs,
    read_run,
    read_runs,
    smooth,
)
from regen.train.throughput import RunLog


def make_run(folder: Path, steps: int = 100, of: int = 200, every: int = 20, **extra: float) -> Path:
    """A run as the training writes it, up to update `steps`; later rows have better numbers."""
    folder.mkdir(parents=True)
    config = {"loop": {"steps": of, "keep_last": 2}, "model": {"width": 24}, "fingerprint": "0" * 16}
    (folder / "config.json").write_text(json.dumps(config))
    with RunLog(folder, 0, of) as log:
        for step in range(every, steps + 1, every):
            part = step / of
            values = {"loss": 0.5 * 0.1**part, "psnr": 15 + 10 * part, "gradient_norm": 1 - 0.5 * part}
            speed = {"tokens_per_second": 1000.0 + step, "clips_per_second": 10.0, "data_wait_fraction": 0.05}
            log.log_training(step, values | {"learning_rate_factor": min(1.0, step / 50)} | speed | extra)
            if step % 40 == 0:
                log.log_evaluation(step, {"psnr": 16 + 10 * part})
    return folder


def add_checkpoints(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)


def age(folder: Path, seconds: float) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def test_the_figures_of_a_run_that_goes_on(tmp_path):
    folder = make_run(tmp_path / "first", mfu=0.41, memory_gb=7.5, skipped_updates=2, slow_samples=3)
    add_checkpoints(folder, 60, 100)
    (folder / "checkpoints" / "step-00000120.partial").mkdir()
    summary = read_run(folder, "first").summary()
    assert (summary.name, summary.folder, summary.state) == ("first", str(folder), "running")
    assert (summary.step, summary.steps, summary.fingerprint) == (100, 200, "0" * 16)
    assert summary.psnr == 20.0 and summary.loss == pytest.approx(0.5 * 0.1**0.5)
    assert (summary.evaluation_psnr, summary.best_psnr, summary.best_step) == (20.0, 20.0, 80)
    assert summary.tokens_per_second == 1060.0, "the median of the last ones"
    assert (summary.mfu, summary.memory_gb, summary.data_wait_fraction) == (0.41, 7.5, 0.05)
    assert (summary.skipped_updates, summary.slow_samples, summary.damaged_samples) == (2, 3, 0)
    assert summary.checkpoints == (60, 100) and summary.is_saving
    text = describe(summary)
    assert text["updates"] == "100 of 200"
    assert text["evaluation PSNR"] == "20.00 dB, best 20.00 after 80"
    assert text["speed"] == "1 060 tokens/s, 10.0 clips/s, MFU 41.0 %"
    assert text["failures"] == "2 skipped updates, 3 slow samples"
    assert text["checkpoints"] == "2, the newest after 100, one is incomplete"


def test_states(tmp_path):
    folder = make_run(tmp_path / "run")
    assert read_run(folder, "run").summary().state == "running"
    age(folder, 3 * 3600)
    summary = read_run(folder, "run").summary()
    assert summary.state == "stopped"
    assert describe(summary)["state"] == "stopped or hanging, last output 3 h ago"
    add_checkpoints(folder, 100)
    assert read_run(folder, "run").summary().state == "running", "a checkpoint is a sign of life"
    whole = make_run(tmp_path / "whole", steps=200)
    assert describe(read_run(whole, "whole").summary())["state"].startswith("saving the model, last output ")
    (whole / "model").mkdir()
    (whole / "model" / "config.json").write_text("{}")
    age(whole, 3 * 3600)
    assert describe(read_run(whole, "whole").summary())["state"] == "finished"


def test_a_run_without_a_log(tmp_path):
    folder = make_run(tmp_path / "run", steps=0)
    for _ in range(2):
        run = read_run(folder, "run")
        summary = run.summary()
        assert (summary.step, summary.steps, summary.loss, summary.state) == (0, 200, None, "running")
        assert describe(summary)["loss"] == "–"
        (folder / "log.jsonl").unlink(missing_ok=True)


def test_a_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderRegen"}')
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="There is no run in"):
            read_run(folder, "run")


def test_damaged_lines_are_skipped(tmp_path):
    folder = make_run(tmp_path / "run")
    before = read_run(folder, "run").rows
    with (folder / "log.jsonl").open("ab") as file:
        for rest in ('{"step": 120, "lo', "\x00\x00", "[1, 2]", '{"loss": 1.0}', "\n\nnull"):
            file.write(rest.encode() + "\n…".encode()[:-1] + b"\n")
    assert read_run(folder, "run").rows == before


def test_values_that_are_not_finite_are_skipped(tmp_path):
    folder = make_run(tmp_path / "run")
    row = '{"step": 120, "loss": NaN, "psnr": Infinity, "gradient_norm": -1, "evaluation/psnr": 3}\n'
    with (folder / "log.jsonl").open("a") as file:
        file.write(row)
    run = read_run(folder, "run")
    assert run.series("loss")[0] == run.series("psnr")[0] == [20.0, 40.0, 60.0, 80.0, 100.0]
    summary = run.summary()
    assert summary.loss is not None
    assert (summary.evaluation_psnr, summary.best_psnr, summary.best_step) == (3.0, 20.0, 80)
    plot_runs([run], tmp_path / "run.png")  # a logarithmic axis has no place for -1


def test_runs_of_the_same_name_are_called_by_their_paths(tmp_path):
    folders = [make_run(tmp_path / part / "run") for part in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == [str(folder) for folder in folders]
    assert [run.name for run in read_runs(folders[:1])] == ["run"]


def test_differences_of_configurations_that_act_on_the_result(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    changes = {"loop": {"steps": 200, "keep_last": 7}, "model": {"width": 48, "depth": 3}}
    (runs[1] / "config.json").write_text(json.dumps(changes | {"fingerprint": "f" * 16}))
    assert differences(read_runs(runs)) == {"model.width": ["24", "48"], "model.depth": ["–", "3"]}


@given(some.arrays(float, st.integers(1, 200), elements=st.floats(-100, 100)))
def test_smoothing_stays_between_the_values_and_keeps_their_ends(values):
    smoothed = smooth(values)
    assert smoothed.shape == values.shape
    assert smoothed.min() >= values.min() - 1e-9 and smoothed.max() <= values.max() + 1e-9
    np.testing.assert_allclose(smoothed[[0, -1]], values[[0, -1]], atol=1e-9)


def test_smoothing_takes_noise_away_and_no_slope():
    line, noise = 3 - 2 * np.arange(400.0), np.random.default_rng(0).normal(size=400)
    np.testing.assert_allclose(smooth(line), line, atol=1e-9)
    assert smooth(noise)[50:-50].std() < 0.35


def test_speed_is_shown_in_the_metric_of_most_runs(tmp_path):
    new, old = make_run(tmp_path / "new"), make_run(tmp_path / "old")
    log = (old / "log.jsonl").read_text()
    (old / "log.jsonl").write_text(re.sub(r'"tokens_per_second": [0-9.]+, ', "", log))
    speed = next(panel for panel in PANELS if panel.title == "speed")
    assert choose_metric(read_runs([new]), speed) == "tokens_per_second"
    assert choose_metric(read_runs([old]), speed) == "clips_per_second"
    assert choose_metric(read_runs([new, old]), speed) == "clips_per_second"
