"""Recipes survive a file: JSON of a run, and TOML of one's own."""

import json
from dataclasses import asdict, replace

import pytest

from regen.recipes import GENERATORS, RECIPES
from regen.recipes.stored import configured, read_config

ALL = {**RECIPES, **GENERATORS}
TOY = RECIPES["toy"]


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_is_the_same_after_a_file(name, tmp_path):
    """Also from a start that differs in its nested fields."""
    recipe, path = ALL[name], tmp_path / "config.json"
    path.write_text(json.dumps(asdict(recipe) | {"recipe": name, "files": 3, "fingerprint": "0"}))
    other = replace(recipe, loop=replace(recipe.loop, steps=1, mixed_precision="fp32"))
    again = configured(other, read_config(path), path)
    assert again == recipe
    assert json.dumps(asdict(again)) == json.dumps(asdict(recipe))


def test_toml_changes_what_it_names(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'recipe = "toy"\n[optimizer]\nlearning-rate = 2e-3\n[loop]\nsteps = 5\n[[data.stages]]\nheight = 16\n'
        "width = 24\nvideo_batch_size = 2\nimage_batch_size = 2\n"
    )
    recipe = configured(TOY, read_config(path), path)
    assert (recipe.optimizer.learning_rate, recipe.loop.steps) == (2e-3, 5)
    (stage,) = recipe.data.stages
    assert (stage.height, stage.width, stage.until) == (16, 24, 1.0)
    assert recipe.model == TOY.model and recipe.tasks == TOY.tasks


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loop": {"stepz": 3}}, "loop.stepz is no field here; the nearest are steps"),
        ({"optimiser": {}}, "optimiser is no field here; the nearest are optimizer"),
        ({"loop": {"steps": "many"}}, "loop.steps must be int, got 'many'"),
        ({"loop": {"steps": True}}, "loop.steps must be int, got True"),
        ({"loop": {"track": "paper"}}, "loop.track must be"),
        ({"loop": 3}, "loop must be LoopConfig, got 3"),
        ({"data": {"stages": [{"height": 16}]}}, "data.stages.0 is incomplete"),
        ({"data": {"scale": [0.5]}}, "data.scale must be"),
        ({"loop": {"steps": 0}}, "steps must be >= 1"),
    ],
)
def test_what_does_not_fit_is_named(values, words, tmp_path):
    with pytest.raises(ValueError, match=words.replace(".", r"\.").replace("(", r"\(")):
        configured(TOY, values, tmp_path / "x.toml")


@pytest.mark.parametrize("content", [None, "[", "[1]"])
def test_files_that_are_no_configuration(content, tmp_path):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        read_config(path)
