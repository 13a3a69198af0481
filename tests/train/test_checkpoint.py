import copy
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import TinyModel, assert_same

from regen.train import checkpoint as checkpoint_file
from regen.train.checkpoint import Checkpoints, Ema, TrainState, read_info
from regen.train.distributed import DistributedContext
from regen.train.optimizer import OptimizerConfig, build_optimizers

ALONE = DistributedContext(torch.device("cpu"))


def make_state(step: int = 0, updates: int = 1) -> TrainState:
    model, average = TinyModel(), TinyModel()
    optimizers = build_optimizers(model, OptimizerConfig(muon_learning_rate=1e-3))
    state = TrainState(model, Ema(model, average, 0.9), optimizers, None)
    for _ in range(updates):
        for name, parameter in model.named_parameters():
            # One parameter had no gradient yet, so that the optimizer keeps nothing of it.
            parameter.grad = None if name == "motion_scale" else torch.ones_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
    state.step = step
    return state


def save(folder: Path, state: TrainState, keep: int = 2) -> Path:
    with Checkpoints(folder, keep, ALONE) as checkpoints:
        checkpoints.save(state, {"a": 1})
        checkpoints.wait()
    return folder / f"step-{state.step:08d}"


def load(path: Path) -> TrainState:
    state = make_state(updates=0)
    with Checkpoints(path.parent, 2, ALONE) as checkpoints:
        checkpoints.load(path, state)
    return state


def test_a_checkpoint_comes_back_whole(tmp_path):
    saved = make_state(step=12)
    saved.skipped = 3
    path = save(tmp_path, saved)
    restored = load(path)
    assert path.name == "step-00000012"
    assert read_info(path).config == {"a": 1}
    assert (restored.step, restored.skipped) == (12, 3)
    assert_same(restored.tensors(), saved.tensors())
    assert "optimizer.enter.weight.exp_avg" in restored.tensors()
    assert "optimizer.motion_scale.exp_avg" not in restored.tensors()


def test_what_is_saved_is_the_state_at_that_moment(tmp_path):
    state, before = make_state(step=1), make_state(step=1)
    with Checkpoints(tmp_path, 2, ALONE) as checkpoints:
        checkpoints.save(state, {})
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter += 1
    assert_same(load(tmp_path / "step-00000001").tensors(), before.tensors())


def test_the_newest_checkpoints_are_kept_and_remains_removed(tmp_path):
    state = make_state()
    for state.step in (1, 5, 100_000_000, 9):
        save(tmp_path, state, keep=3)
    (tmp_path / "step-00000200.partial").mkdir()
    (tmp_path / "step-00000001.old").mkdir()
    (tmp_path / "step-best").mkdir()
    with Checkpoints(tmp_path / "nothing", 3, ALONE) as checkpoints:
        assert checkpoints.latest() is None
    with Checkpoints(tmp_path, 3, ALONE) as checkpoints:
        assert checkpoints.latest() == tmp_path / "step-100000000"
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == ["step-00000005", "step-00000009", "step-100000000", "step-best"]


def test_a_failed_save_leaves_the_old_checkpoints_and_no_remains(tmp_path, monkeypatch):
    kept = save(tmp_path, make_state(step=1), keep=1)

    def full_disk(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file, "sync_folder", full_disk)
    with Checkpoints(tmp_path, 1, ALONE) as checkpoints:
        checkpoints.save(make_state(step=2), {})
        with pytest.raises(
            ValueError, match=r"step-00000002 could not be written \(No space left on device\)"
        ):
            checkpoints.wait()
        assert checkpoints.failed
    assert list(tmp_path.iterdir()) == [kept]


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("whole"), make_state(step=3))


@given(data=st.data())
def test_any_damage_is_noticed(whole_checkpoint, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "step-00000003"
    shutil.copytree(whole_checkpoint, path)
    victim = path / data.draw(st.sampled_from(["__0_0.distcp", ".metadata", "checkpoint.json"]))
    content = bytearray(victim.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "gone"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if kind == "gone":
        victim.unlink()
    elif kind == "cut":
        victim.write_bytes(content[:place])
    elif victim.suffix == ".json":
        victim.write_text("no JSON")
    else:
        content[place] ^= 1
        victim.write_bytes(content)
    with pytest.raises(ValueError, match=r"step-00000003 is damaged; delete it"):
        load(path)


def test_ema_follows_its_formula_and_takes_buffers_as_they_are():
    model = TinyModel()
    model.register_buffer("updates_seen", torch.zeros(()))
    ema = Ema(model, copy.deepcopy(model), decay=0.5)
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


def test_another_model_is_refused(tmp_path):
    path = save(tmp_path, make_state(step=1))
    state = make_state(updates=0)
    state.model.extra = torch.nn.Linear(2, 2)
    with Checkpoints(tmp_path, 2, ALONE) as checkpoints, pytest.raises(ValueError, match=r"of another model"):
        checkpoints.load(path, state)
