import json
import multiprocessing
import signal

import pytest
import torch
from tiny_run import STEPS, TinyBatches, assert_same, run_tiny
from torch import nn

from regen.console import Interrupted
from regen.train.checkpoint import list_checkpoints
from regen.train.lifecycle import ShouldStop


def test_four_steps_are_two_and_two_more(tmp_path):
    whole = run_tiny(tmp_path / "whole", steps=4)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="after step 2; the same command resumes") as stop:
        run_tiny(tmp_path / "parts", steps=4, batches=TinyBatches(stop_after=2))
    assert stop.value.exit_code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    parts = run_tiny(tmp_path / "parts", steps=4)
    assert parts.step == 4
    assert_same(whole.tensors(), parts.tensors())


def test_the_result_does_not_depend_on_workers_logging_and_saving(tmp_path):
    quiet = run_tiny(tmp_path / "quiet", steps=12)
    busy = run_tiny(
        tmp_path / "busy", steps=12, num_workers=2, log_every=1, save_every_minutes=0.0, eval_every=3,
        keep_last=5, evaluate=lambda model, step, leave: {"psnr": float(step)},
    )  # fmt: skip
    assert_same(quiet.tensors(), busy.tensors())
    assert len(list_checkpoints(tmp_path / "busy" / "checkpoints")) == 5


def test_the_result_depends_on_seed_precision_and_steps(tmp_path):
    plain = run_tiny(tmp_path / "plain", steps=12)
    for change in ({"seed": 1}, {"mixed_precision": "bf16"}, {"steps": 13}):
        changed = run_tiny(tmp_path / str(change), **{"steps": 12} | change)
        assert not torch.equal(plain.model.leave.weight, changed.model.leave.weight), change


def test_the_ema_decay_reaches_the_average(tmp_path):
    near = run_tiny(tmp_path / "near", steps=5, ema_decay=0.0, activation_checkpointing=True)
    assert near.model.checkpointing
    torch.testing.assert_close(near.ema.model.state_dict(), near.model.state_dict())
    far = run_tiny(tmp_path / "far", steps=5, ema_decay=0.9)
    assert not torch.allclose(far.ema.model.leave.weight, far.model.leave.weight)


def test_training_learns_and_logs(tmp_path, capsys):
    seen = []

    def evaluate(model: nn.Module, step: int, leave: ShouldStop) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        seen.append((step, model.training))
        return {"psnr": 30.0}

    state = run_tiny(tmp_path, evaluate=evaluate, eval_every=15)
    assert seen == [(15, False), (30, False), (STEPS, False)]
    assert state.model.training
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == list(range(5, STEPS + 1, 5))
    assert training[-1]["loss"] < training[0]["loss"] / 2
    assert {"psnr", "gradient_norm", "clips_per_second", "learning_rate_factor"} <= training[0].keys()
    assert [row["step"] for row in rows if "evaluation/psnr" in row] == [15, 30, STEPS]
    assert "PSNR" in capsys.readouterr().err


def test_a_finished_run_returns_at_once(tmp_path, capsys):
    first = run_tiny(tmp_path, steps=3)
    again = run_tiny(tmp_path, steps=3, batches=TinyBatches(broken=[0]))
    assert "is finished: 3 of 3 steps" in capsys.readouterr().err
    assert_same(first.tensors(), again.tensors())
    with pytest.raises(ValueError, match="already a run"):
        run_tiny(tmp_path, steps=3, resume=False)


def test_divergence_stops_the_run_and_keeps_what_was_good_and_what_was_not(tmp_path):
    with pytest.raises(ValueError, match=r"Training diverged: the loss or gradient of update 7 is"):
        run_tiny(tmp_path, batches=TinyBatches(broken=[6]))
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000006"]
    kept = torch.load(tmp_path / "rejected" / "step-00000007-0.pt", weights_only=True)
    assert kept["batches"][0]["clip"].isnan().all()


def test_a_skipped_update_leaves_no_trace_but_in_the_log(tmp_path, capsys):
    state = run_tiny(tmp_path, batches=TinyBatches(broken=[6]), on_nonfinite="skip", log_every=1)
    assert (state.step, state.skipped) == (STEPS, 1)
    assert "Update 7 is skipped" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {row["step"]: row["skipped_updates"] for row in rows}[8] == 1
    assert all(torch.isfinite(value).all() for value in state.tensors().values())


def test_a_stopped_run_resumes_with_skipping(tmp_path):
    with pytest.raises(ValueError, match="on-nonfinite skip"):
        run_tiny(tmp_path / "run", batches=TinyBatches(broken=[6]))
    skipped = run_tiny(tmp_path / "run", batches=TinyBatches(broken=[6]), on_nonfinite="skip")
    straight = run_tiny(tmp_path / "whole", batches=TinyBatches(broken=[6]), on_nonfinite="skip")
    assert_same(skipped.tensors(), straight.tensors())


def test_skipping_gives_up_in_the_end(tmp_path):
    with pytest.raises(ValueError, match="Training diverged: the loss or gradient of update 20"):
        run_tiny(tmp_path, batches=TinyBatches(broken=range(STEPS)), on_nonfinite="skip")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_stays_one_sentence_and_ends_the_workers(tmp_path, workers):
    with pytest.raises(ValueError, match=r"^There is nothing to read: give another folder\.$") as error:
        run_tiny(tmp_path, batches=TinyBatches(unreadable_step=7), num_workers=workers)
    assert error.traceback
    assert multiprocessing.active_children() == []


def test_a_signal_during_the_last_step_ends_as_usual(tmp_path):
    assert run_tiny(tmp_path, steps=3, batches=TinyBatches(stop_after=3)).step == 3
