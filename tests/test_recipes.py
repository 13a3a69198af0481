"""Every named configuration builds, is what its name says, and its parameters keep their names."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from regen.embedders.regen import AutoencoderRegen
from regen.recipes import RECIPES
from regen.train.run import Recipe

GOLDEN = Path(__file__).parent / "golden" / "parameters.json"


METHOD = (Path(__file__).parents[1] / "docs" / "method.md").read_text(encoding="utf-8")


def describe(recipe: Recipe) -> dict[str, int]:
    """Parameters of the model and its parts."""
    with torch.device("meta"):
        model = AutoencoderRegen(**asdict(recipe.model))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {"parameters": sum(parts.values()), **parts}


def fingerprint(name: str) -> dict[str, int | str]:
    """Count and hash of a preset's parameters, by name and shape."""
    with torch.device("meta"):
        model = AutoencoderRegen(**asdict(RECIPES[name]().model))
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in model.state_dict().items())
    count = sum(p.numel() for p in model.parameters())
    return {"parameters": count, "names": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]}


@pytest.mark.parametrize("name", RECIPES)
def test_parameter_names_and_shapes_are_frozen(name):
    """Old checkpoints keep loading. A wanted change: run this file as a program, it writes the table."""
    assert json.loads(GOLDEN.read_text())[name] == fingerprint(name)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_complete(name):
    recipe = RECIPES[name]()
    assert recipe.data.stages[-1].until == 1.0
    assert all(stage.height % 8 == stage.width % 8 == 0 for stage in recipe.data.stages)
    assert json.loads(json.dumps(asdict(recipe)))["loop"]["steps"] == recipe.loop.steps
    if name.startswith("regen"):
        assert f"{recipe.model.temporal_compression_ratio}x" in name
    assert recipe.model.latent_channels == (16 if "16ch" in name else 8)


def test_the_papers_size_follows_from_its_arithmetic():
    """12 d² for attention and feed-forward and 6 d² for adaLN in each of 24 blocks (spec A5)."""
    parts = describe(RECIPES["regen-4x"]())
    blocks = 24 * 18 * 2048**2
    assert blocks < parts["decoder"] < 1.02 * blocks


@pytest.mark.parametrize("name", ["regen-4x", "regen-8x", "regen-32x", "regen-4x-16ch", "regen-small-4x-cpu"])
def test_docs_tell_the_parameter_counts(name):
    for count in describe(RECIPES[name]()).values():
        assert f"{count:,}" in METHOD


def test_batches_of_the_paper_match_in_tokens():
    """28 images of 256² are as many tokens as 6 four-fold clips of 192 x 320, within 1 % (spec A8)."""
    stage = RECIPES["regen-4x"]().data.stages[0]
    assert stage.image_size == (256, 256)
    images = stage.images * (256 // 8) ** 2
    clips = stage.clips * 5 * (stage.height // 8) * (stage.width // 8)
    assert abs(images / clips - 1) < 0.01


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("regen-small")])
def test_small_models_fit_their_places(name):
    """In bf16: 32 MB for the bundled model, 12 MB for those in checkpoints/."""
    limit = 32e6 if "4x" in name else 12e6
    assert 2 * describe(RECIPES[name]())["parameters"] < limit


@pytest.mark.parametrize("name", RECIPES)
def test_docstrings_give_the_command(name):
    assert f"regen train {name} --data" in (RECIPES[name].__doc__ or "")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: fingerprint(name) for name in RECIPES}, indent=1) + "\n")
