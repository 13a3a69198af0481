"""Recipes on the command line: lists that need no torch, and trainings from a file."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from commands import Regen, assert_error
from shapes import write_dataset

import regen.recipes
from regen import __version__
from regen.cli import training
from regen.cli.outline import recipes_outline
from regen.cli.recipes import recipe_index
from regen.recipes import GENERATORS, GPUS, HELP, RECIPES
from regen.train import trainer

LIGHT = [
    *("--version", "--help", "recipes", "train --help", "plan --help", "train", "recipes --json"),
    *("train toy --help", "train toy-t2v -h", "plan toy-decoder --help"),
]
WITHOUT_TORCH = """
import sys
from regen.cli import main
for line in {lines}:
    try:
        status = main(line.split())
    except SystemExit as end:
        status = end.code
    assert not status, (line, status)
loaded = [name for name in {heavy} if name in sys.modules]
assert not loaded, loaded
"""
HEAVY = ("torch", "diffusers", "numpy")


def test_help_version_and_lists_load_no_torch():
    code = WITHOUT_TORCH.format(lines=LIGHT, heavy=HEAVY)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"regen {__version__}\n")
    for name in (*RECIPES, *GENERATORS):
        assert ran.stdout.count(name) >= 4, name


def test_recipes_of_help_texts_are_those_of_trainings():
    """They are made without the rest of their modules."""
    outline = recipes_outline()
    assert (outline.HELP, outline.GPUS) == (HELP, GPUS)
    for name, recipe in {**RECIPES, **GENERATORS}.items():
        found = {**outline.RECIPES, **outline.GENERATORS}[name]
        assert type(found).__qualname__ == type(recipe).__qualname__
        assert type(found.model).__qualname__ == type(recipe.model).__qualname__
        assert asdict(found) == asdict(recipe), name


@pytest.mark.parametrize("command", ["train toy-onedva", "train toy-decoder", "plan toy-c2v"])
def test_help_of_a_recipe_is_that_of_its_whole_modules(run_regen, monkeypatch, command):
    found = run_regen(*command.split(), "--help")
    monkeypatch.setattr(training, "recipes_outline", lambda: regen.recipes)
    whole = run_regen(*command.split(), "--help")
    assert found.out == whole.out and len(found.out) > 50


def test_the_list_of_models_loads_no_torch():
    """Files of weights are read by their headers, with numpy."""
    code = WITHOUT_TORCH.format(lines=["models", "models --json"], heavy=HEAVY[:2])
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.count("regen-small-4x") >= 2


@pytest.mark.parametrize("command", ["train", "plan"])
def test_help_of_a_command_lists_recipes_by_family(run_regen, command):
    lines = run_regen(command, "--help").out
    families = [line for line in lines if line in {recipe["family"] for recipe in recipe_index()}]
    assert len(families) == 5
    assert lines.index("REGEN") < next(i for i, line in enumerate(lines) if line.split()[:1] == ["regen-4x"])


def test_completion_knows_commands_and_recipes(run_regen):
    ran = run_regen("--tyro-print-completion", "bash")
    text = "\n".join(ran.out)
    assert ran.status == 0 and all(name in text for name in ("reconstruct", "onedva-small-cpu", "t2v-small"))


def test_a_recipe_comes_before_its_options(run_regen):
    ran = run_regen("train", "--data", "clips")
    assert_error(ran, "A recipe comes first")


@pytest.fixture
def trained(monkeypatch) -> list:
    calls: list = []

    def record(recipe: trainer.Recipe, **options: object) -> Path:
        calls.append((recipe, options))
        return Path("run/model")

    monkeypatch.setattr(trainer, "run_recipe", record)
    return calls


@pytest.mark.parametrize("form", ["--config {}", "--config={}", "toy --config {}"])
def test_a_configuration_gives_the_recipe_and_the_command_line_wins(run_regen, trained, form):
    toy = RECIPES["toy"]
    changed = replace(toy, loop=replace(toy.loop, steps=9, seed=4))
    Path("config.json").write_text(json.dumps(asdict(changed) | {"recipe": "toy", "class": "x"}))
    arguments = form.format("config.json").split()
    ran = run_regen("train", *arguments, "--data", "a", "--out", "b", "--loop.steps", "3", "--track", "none")
    assert (ran.status, ran.err) == (0, [])
    ((recipe, options),) = trained
    assert recipe == replace(changed, loop=replace(changed.loop, steps=3, track="none"))
    assert options["name"] == "toy"


def test_a_decoder_takes_exported_latents(run_regen, trained):
    ran = run_regen("train", "toy-decoder", "--data", "a", "--latents", "b", "--out", "c")
    assert (ran.status, ran.err) == (0, [])
    assert trained[0][1]["latents"] == Path("b") and trained[0][0].model.encoder == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config none.json", "none.json can't be read"),
        ("--config", "--config needs a file"),
        ("--config plain.toml", "plain.toml must name its recipe"),
        ("--config other.toml", "no recipe 'mine'"),
        ("toy --config wrong.toml", "loop.stepz is no field here"),
    ],
)
def test_bad_configurations_are_one_sentence(run_regen, trained, arguments, words):
    Path("plain.toml").write_text("[loop]\nsteps = 3\n")
    Path("other.toml").write_text('recipe = "mine"\n')
    Path("wrong.toml").write_text("[loop]\nstepz = 3\n")
    data = () if arguments == "--config" else ("--data", "a", "--out", "b")
    assert_error(run_regen("train", *arguments.split(), *data), words)
    assert trained == []


def test_a_run_from_the_configuration_of_another_has_its_fingerprint_and_losses(run_regen: Regen):
    write_dataset(Path("clips"), videos=4, frames=10, height=32, width=40, seed=0)
    short = ("--loop.steps", "1", "--model.width", "48", "--model.depth", "1", "--data.statistics-clips", "4")
    common = ("--data", "clips", "--device", "cpu", "--track", "none")
    assert run_regen("train", "toy", *common, "--out", "one", *short).status == 0
    assert run_regen("train", "--config", "one/config.json", *common, "--out", "two").status == 0
    configs = [json.loads(Path(run, "config.json").read_text()) for run in ("one", "two")]
    assert configs[0] == configs[1]
    assert (configs[0]["recipe"], configs[0]["version"]) == ("toy", __version__)
    losses = [
        json.loads(Path(run, "log.jsonl").read_text().splitlines()[0])["loss"] for run in ("one", "two")
    ]
    assert losses[0] == losses[1]
