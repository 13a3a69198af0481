import json
from pathlib import Path

import pytest
import torch

from regen.train.throughput import MetricAverager, RunLog, drop_rows_after

VALUES = {"loss": 0.5, "psnr": 20.0, "clips_per_second": 8.0}


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_window_averages_each_value_over_the_steps_that_had_it() -> None:
    window = MetricAverager()
    window.add({"loss": torch.tensor(1.0), "psnr": torch.tensor(10.0)})
    window.add({"loss": torch.tensor(2.0, dtype=torch.bfloat16)})
    assert window.means() == {"loss": 1.5, "psnr": 10.0}
    window.reset()
    window.add({"loss": torch.tensor(7.0)})
    assert window.means() == {"loss": 7.0}


def test_window_does_not_change_what_it_is_given() -> None:
    window, first = MetricAverager(), torch.tensor(1.0)
    window.add({"loss": first})
    window.add({"loss": torch.tensor(2.0)})
    assert first == 1


def test_rows_are_written_at_once_and_resumed_runs_tell_each_step_once(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, 30) as log:
        for step in (10, 20, 30):
            log.log_training(step, VALUES)
        log.log_evaluation(20, {"psnr": 21.0})
        assert len(rows(tmp_path)) == 4
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    with RunLog(tmp_path, 20, 30) as log:
        log.log_training(30, VALUES)
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 20, 30]
    assert rows(tmp_path)[2] == {"step": 20, "evaluation/psnr": 21.0}


def test_a_log_knows_whether_its_first_step_was_evaluated(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, 30) as log:
        log.log_training(10, VALUES)
        log.log_evaluation(10, {"psnr": 21.0})
    for step, expected in ((10, True), (9, False)):
        with RunLog(tmp_path, step, 30) as log:
            assert log.has_evaluation is expected


def test_a_silent_log_tells_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, 0, 30, silent=True) as log:
        log.log_training(30, VALUES)
        log.print("nothing")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_dropping_rows_of_a_missing_log_does_nothing(tmp_path: Path) -> None:
    assert drop_rows_after(tmp_path / "log.jsonl", 3) == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_there_are_plain_lines_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, 0, 40, plain_seconds=3600.0) as log:
        for step in (10, 20, 30, 40):
            log.log_training(step, VALUES)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert [line.split(" · ")[0] for line in lines] == ["step 10/40", "step 40/40"]
    assert "loss 0.5000 · PSNR 20.00 dB · 8.0 clips/s · 0:00:00 left" in lines[1]


def test_on_a_terminal_there_is_a_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with RunLog(tmp_path, 0, 40) as log:
        log.advance(7)
        log.log_training(10, VALUES)
        log.print("a line above the bar")
    error = capsys.readouterr().err
    assert "10/40" in error
    assert "20.00 dB" in error
    assert "a line above the bar" in error


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with RunLog(tmp_path, 0, 40) as log:
        log.log_training(10, VALUES)
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert all(name.encode() in content for name in VALUES)
