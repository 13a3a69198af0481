"""The moving average of a run, finished or not, stored in bf16 for checkpoints/."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import store_model
from regen import AutoencoderRegen
from regen.io import write_json
from regen.recipes import RECIPES
from regen.train.checkpoint import Checkpoints, Ema, TrainState
from regen.train.distributed import DistributedContext

TOY = asdict(RECIPES["toy"].model) | {"depth": 1, "encoder_widths": (16, 16, 16, 16)}


def toy(seed: int) -> AutoencoderRegen:
    torch.manual_seed(seed)
    return AutoencoderRegen(**TOY)


def test_the_average_of_a_finished_run_is_stored_beside_its_card(tmp_path: Path) -> None:
    model = toy(0)
    model.save_pretrained(tmp_path / "run" / "model")
    out = tmp_path / "stored"
    out.mkdir()
    (out / "README.md").write_text("The card.")
    size = store_model.store(store_model.average_of(tmp_path / "run"), out)
    tensors = load_file(out / store_model.WEIGHTS)
    assert size == (out / store_model.WEIGHTS).stat().st_size
    assert (out / "README.md").read_text() == "The card."
    assert store_model.LOCAL not in json.loads((out / "config.json").read_text())
    expected = model.state_dict()
    assert tensors.keys() == expected.keys()
    kept = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert kept and all("siren" in name for name in kept)
    assert all(torch.equal(tensors[name], expected[name].to(tensors[name].dtype)) for name in tensors)


def test_a_file_that_is_too_large_has_its_siren_rounded_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store_model, "MAX_BYTES", 1000)
    model = toy(0)
    before = store_model.store(copy.deepcopy(model), tmp_path)
    tensors = load_file(tmp_path / store_model.WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert before < 2.1 * sum(parameter.numel() for parameter in model.parameters()) + 20_000
    AutoencoderRegen.from_pretrained(tmp_path)


def test_of_an_unfinished_run_the_newest_checkpoint_counts(tmp_path: Path) -> None:
    model, average = toy(0), toy(1)
    config = {"recipe": "toy", "model": TOY}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match="neither a model nor a checkpoint"):
        store_model.average_of(tmp_path)
    state = TrainState(model, Ema(model, average, 0.9), [], None)
    alone = DistributedContext(torch.device("cpu"))
    with Checkpoints(tmp_path / "checkpoints", 2, alone) as checkpoints:
        checkpoints.save(state, config)
        checkpoints.wait()
    found = store_model.average_of(tmp_path).state_dict()
    expected = average.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
