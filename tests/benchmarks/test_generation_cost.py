"""The cost of generating on latents of each ratio: what is counted, what is measured, what is told."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from regen.media.sizes import Size
from regen.recipes import GENERATORS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("generation_cost")


def told(capture: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capture.readouterr().out.splitlines()[-1])


def test_a_chunk_has_two_latent_frames_at_every_ratio(cost: Any) -> None:
    """132 frames are 8 latent frames at 32x (spec A15)."""
    frames = [[cost.Case(Size(192, 320), count, k).shape[1] for k in cost.RATIOS] for count in (33, 132)]
    assert frames == [[14, 8, 4, 2], [54, 30, 16, 8]]


def test_operations_are_those_of_the_network(cost: Any) -> None:
    case = cost.Case(Size(64, 96), 33, 16)
    figures = cost.counted(GENERATORS["toy-c2v"], case)
    model = cost.generator_of(GENERATORS["toy-c2v"])
    tokens, width, depth = 4 * 4 * 6, model.config.width, model.config.depth
    assert (figures["tokens"], figures["parameters"]) == (tokens, model.num_parameters())
    assert figures["gflop_attention"] == pytest.approx(4 * tokens**2 * width * depth / 1e9)
    inside = sum(matrix.numel() for matrix in model.muon_parameters())
    assert figures["gflop"] - figures["gflop_attention"] == pytest.approx(2 * tokens * inside / 1e9, rel=0.05)


def test_the_model_of_the_paper_is_counted_without_its_memory(
    cost: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cost.main("t2v-5b", ratio=(4, 32), frames=(132,), size=("192x320",), count_only=True)
    first, last = told(capsys)["cases"]
    assert last["tokens"] == 1920 and last["parameters"] > 4e9 and "update_seconds" not in last
    assert last["tokens_saved"] == 54 / 8 < last["gflop_saved"] < (54 / 8) ** 2 and first["gflop_saved"] == 1


def test_seconds_of_sampling_and_of_an_update(cost: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in ("toy-t2v", "toy-c2v"):
        cost.main(
            recipe,
            ratio=(4, 32),
            frames=(33,),
            size=("32x32",),
            steps=1,
            repeats=1,
            device="cpu",
            dtype="fp32",
        )
        result = told(capsys)
        assert (result["benchmark"], result["recipe"], result["steps"]) == ("generation_cost", recipe, 1)
        for case in result["cases"]:
            assert case["sampling_seconds"] > 0 and case["update_seconds"] > 0
        times = [case["update_seconds"] for case in result["cases"]]
        assert result["cases"][1]["update_seconds_saved"] == pytest.approx(times[0] / times[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "toy"}, "no generator's recipe toy"),
        ({"steps": 0}, "1 or more as --steps"),
        ({"ratio": (0,)}, "1 or more as --ratio"),
        ({"size": ("24x32",), "count_only": True}, "don't divide into patches"),
    ],
)
def test_what_can_not_be_counted_is_told_in_a_sentence(
    cost: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cost.main(**options)


def test_a_model_without_room_is_not_trained(cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "free_bytes", lambda device: 10**6)
    setting = cost.Setting(1, 1, 1, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="count alone, with --count-only"):
        cost.measured(GENERATORS["toy-c2v"], [], setting)
