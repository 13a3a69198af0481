import copy
import json
from pathlib import Path

import pytest
import torch
from tiny_run import TinyModel

from regen.train.checkpoint import Ema
from regen.train.lifecycle import compare_configs, fingerprint, open_run


def test_ema_follows_its_formula_and_takes_buffers_as_they_are() -> None:
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


def test_a_differing_configuration_is_named() -> None:
    before = {"loop": {"seed": 0, "num_workers": 2}, "data": ["a"], "width": 8}
    now = {"loop": {"seed": 1, "num_workers": 0}, "data": ("a",), "depth": 4}
    with pytest.raises(ValueError, match="another configuration") as error:
        compare_configs(before, now, Path("run"))
    assert "loop.seed was 0 and is now 1" in str(error.value)
    assert "width was 8 and is now absent" in str(error.value)
    assert "depth was absent and is now 4" in str(error.value)
    assert "num_workers" not in str(error.value)
    assert "data" not in str(error.value)


def test_open_run_writes_the_configuration_and_refuses_to_mix_runs(tmp_path: Path) -> None:
    run, config = tmp_path / "a" / "run", {"width": 8, "loop": {"num_workers": 2}}
    open_run(run, config, None, resume=True)
    stored = json.loads((run / "config.json").read_text())
    assert stored == config | {"fingerprint": fingerprint(config)}
    open_run(run, config, config, resume=True)
    with pytest.raises(ValueError, match="already a run in"):
        open_run(run, config, config, resume=False)
    with pytest.raises(ValueError, match="width was 8 and is now 9"):
        open_run(run, config | {"width": 9}, config, resume=True)
    assert json.loads((run / "config.json").read_text()) == stored


def test_the_fingerprint_knows_what_acts_on_the_result() -> None:
    config = {"width": 8, "loop": {"num_workers": 2, "seed": 0}}
    assert fingerprint(config) == fingerprint({"width": 8, "loop": {"num_workers": 0, "seed": 0}})
    assert fingerprint(config) != fingerprint({"width": 8, "loop": {"num_workers": 2, "seed": 1}})


def test_one_process_writes_for_all(tmp_path: Path) -> None:
    open_run(tmp_path / "run", {}, None, resume=True, write=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ValueError, match="must be writable"):
        open_run(tmp_path / "run", {}, None, resume=True)
