"""The arithmetic of a training: the paper's batches, memory as it is really taken, and one table of all."""

import importlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from regen.embedders.regen import AutoencoderRegen
from regen.recipes import RECIPES
from regen.runtime import one_thread
from regen.train.checkpoint import Ema, TrainState
from regen.train.optimizer import build_optimizers
from regen.train.trainer import Recipe, build_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("scale")
    monkeypatch.setattr(module, "DRAWS", 100)
    return module


@pytest.fixture
def training_memory(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("training_memory")


def tiny() -> Recipe:
    recipe = RECIPES["toy"]
    return replace(recipe, model=replace(recipe.model, depth=2, attention_window=None))


@pytest.mark.parametrize(
    ("name", "clips"), [("regen-4x", 6), ("regen-8x", 4), ("regen-16x", 3), ("regen-32x", 1)]
)
def test_a_part_of_a_batch_is_what_one_of_the_32_gpus_of_the_paper_had(scale, name: str, clips: int) -> None:
    """Spec A8."""
    recipe = RECIPES[name]
    parts = [work.part(32) for work in scale.drawn(recipe, recipe.model.temporal_compression_ratio)]
    assert {part.samples for part in parts if part.inputs > 1} == {clips}
    assert {part.samples for part in parts if part.inputs == 1} == {28}
    assert {part.targets - part.inputs for part in parts} <= {0, 1}


def test_the_shares_of_the_updates_are_those_of_the_run(scale) -> None:
    shares = scale.drawn(RECIPES["regen-4x"], 4)
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(share for work, share in shares.items() if work.inputs == 1) == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_a_pass_takes_the_memory_that_is_counted(training_memory, checkpointing: bool) -> None:
    """Besides what kernels take for themselves, which on some processors grows with the threads."""
    config, work = tiny().model, training_memory.Work(2, 5, 5, 64, 64)
    with training_memory.norms_in_fp32():
        model = AutoencoderRegen(**asdict(config)).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(training_memory.drop_gradient)
        generators = [torch.Generator() for _ in range(work.samples)]
        with one_thread(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            batch = {name: torch.zeros(shape) for name, shape in work.shapes().items()}
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = model.loss(batch, generators)
            loss.backward()
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    counted = training_memory.pass_bytes(config, work, checkpointing, torch.float32)
    assert counted == pytest.approx(peak, rel=0.15)


def test_a_checkpoint_has_the_size_and_a_process_the_state_that_is_counted(scale, training_memory) -> None:
    recipe = tiny()
    model = build_model(recipe.model)
    optimizers = build_optimizers(model, replace(recipe.optimizer, muon_learning_rate=None))
    state = TrainState(model, Ema(model, build_model(recipe.model), 0.9), optimizers)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers[0].step()
    kept = sum(tensor.nbytes for tensor in state.tensors().values())
    gradient = sum(parameter.nbytes for parameter in model.parameters())
    counted = training_memory.state_bytes(model, (1, 2))
    assert counted["ddp"] == pytest.approx(kept + 2 * gradient, rel=0.01)
    assert counted["fsdp-1"] - counted["fsdp-2"] == pytest.approx((kept + gradient) / 2, rel=0.01)
    setting = scale.Setting((1,), 2, 0.4, 10.0, 4.0, 200.0)
    figures = scale.memory(model, recipe, {scale.Work(2, 5, 5, 32, 32): 1.0}, setting)
    assert figures["checkpoint_gb"] == pytest.approx(kept / 1e9, rel=0.01)


def test_all_figures_of_a_recipe(scale, capsys) -> None:
    scale.main(recipe=("toy-magvit2",), gpus=(1, 4), parts=2, mfu=0.5)
    said = capsys.readouterr().out.splitlines()
    result = json.loads(said[-1])
    one = result["recipes"]["toy-magvit2"]
    assert result["benchmark"] == "scale"
    assert one["pass_gb"]["fsdp-checkpointed"] < one["pass_gb"]["fsdp-plain"] < one["pass_gb"]["ddp-plain"]
    assert one["discriminator_parameters"] > 0
    for chip, hours in one["gpu_hours"].items():
        assert 24 * 4 * one["times"][chip]["4"]["days"] == pytest.approx(hours)
        assert hours * 3600 * 0.5 * scale.PEAK_TFLOPS[chip] == pytest.approx(1e6 * one["exaflop"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": ("nothing",)}, "There is no recipe nothing"),
        ({"recipe": ("toy",), "parts": 9}, "can't be divided into 9"),
        ({"recipe": ("toy",), "mfu": 1.5}, "above 0 and up to 1"),
    ],
    ids=["recipe", "parts", "mfu"],
)
def test_what_can_not_be_counted_is_told_in_a_sentence(
    scale, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        scale.main(**options)
