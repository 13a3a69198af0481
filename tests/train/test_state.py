import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import TinyModel, assert_same

from regen.train import state as state_file
from regen.train.optimizer import OptimizerConfig, build_optimizers
from regen.train.state import (
    Ema,
    TrainState,
    compare_configs,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    open_run,
    save_checkpoint,
)


def make_state(step: int = 0) -> TrainState:
    model = TinyModel()
    optimizers = build_optimizers(model, OptimizerConfig(muon_learning_rate=1e-3))
    return TrainState(model, Ema(model, 0.9), optimizers, step)


def test_ema_follows_its_formula_and_takes_buffers_as_they_are() -> None:
    model = TinyModel()
    ema = Ema(model, decay=0.5)
    expected = model.enter.weight.detach().clone()
    for step in range(1, 20):
        with torch.no_grad():
            model.enter.weight += 1
            model.updates_seen += 1
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.enter.weight.detach()
    torch.testing.assert_close(ema.model.enter.weight, expected)
    assert ema.model.updates_seen == 19
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    saved = make_state(step=12)
    for parameter in saved.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in saved.optimizers:
        optimizer.step()
    path = save_checkpoint(tmp_path, saved, {"a": 1}, keep=2)
    assert path.name == "step-00000012.pt"
    content = load_latest(tmp_path)
    assert content is not None
    restored = make_state()
    restored.load_state_dict(content)
    assert json.loads(content["config"]) == {"a": 1}
    assert restored.step == 12
    assert_same(restored.state_dict(), saved.state_dict())


def test_the_newest_checkpoints_are_kept_and_remains_removed(tmp_path: Path) -> None:
    state = make_state()
    for state.step in (1, 5, 100_000_000, 9):
        save_checkpoint(tmp_path, state, {}, keep=3)
    (tmp_path / "step-00000200.tmp").write_bytes(b"half")
    content = load_latest(tmp_path)
    assert content is not None
    assert content["step"] == 100_000_000
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step-00000005.pt",
        "step-00000009.pt",
        "step-100000000.pt",
    ]


def test_no_checkpoint_means_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nothing") is None


def test_a_failed_save_leaves_the_old_checkpoints_and_no_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state(step=1)
    kept = save_checkpoint(tmp_path, state, {}, keep=1)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_file.os, "fsync", full_disk)
    state.step = 2
    with pytest.raises(ValueError, match=r"step-00000002.pt could not be written .*No space left"):
        save_checkpoint(tmp_path, state, {}, keep=1)
    assert list(tmp_path.iterdir()) == [kept]


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_checkpoint(tmp_path_factory.mktemp("whole"), make_state(step=3), {}, keep=1).read_bytes()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_damage_is_noticed(
    whole_checkpoint: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(whole_checkpoint)
    kind = data.draw(st.sampled_from(["cut", "empty", "text", "weight"]))
    if kind == "cut":
        content = content[: data.draw(st.integers(1, len(content) - 1))]
    elif kind == "weight":
        weights = TinyModel().enter.weight.detach().numpy().tobytes()
        content[content.find(weights) + data.draw(st.integers(0, len(weights) - 1))] ^= 1
    else:
        content = bytearray() if kind == "empty" else bytearray(b"these are no weights")
    path = tmp_path_factory.getbasetemp() / "step-00000003.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"step-00000003.pt is damaged; delete it to continue from the one"):
        load_checkpoint(path)


def test_a_differing_configuration_is_named() -> None:
    before = {"loop": {"seed": 0, "workers": 2}, "data": ["a"], "width": 8}
    now = {"loop": {"seed": 1, "workers": 0}, "data": ("a",), "depth": 4}
    with pytest.raises(ValueError, match="another configuration") as error:
        compare_configs(before, now, Path("run"))
    assert "loop.seed was 0 and is now 1" in str(error.value)
    assert "width was 8 and is now absent" in str(error.value)
    assert "depth was absent and is now 4" in str(error.value)
    assert "workers" not in str(error.value)
    assert "data" not in str(error.value)


def test_open_run_writes_the_configuration_and_refuses_to_mix_runs(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    assert open_run(run, {"width": 8}, resume=True) is None
    assert json.loads((run / "config.json").read_text()) == {"width": 8}
    save_checkpoint(run / "checkpoints", make_state(step=4), {"width": 8}, keep=1)
    saved = open_run(run, {"width": 8}, resume=True)
    assert saved is not None
    assert saved["step"] == 4
    with pytest.raises(ValueError, match="already a run in"):
        open_run(run, {"width": 8}, resume=False)
    with pytest.raises(ValueError, match="width was 8 and is now 9"):
        open_run(run, {"width": 9}, resume=True)
    assert json.loads((run / "config.json").read_text()) == {"width": 8}


def test_a_file_in_place_of_the_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match="can't be kept in"):
        open_run(tmp_path / "run", {}, resume=True)


def test_checkpoints_are_listed_by_step_and_strangers_ignored(tmp_path: Path) -> None:
    for name in ("step-00000002.pt", "step-best.pt", "other.pt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002.pt"]
