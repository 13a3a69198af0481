"""The paper's comparisons: every recipe exists, and one argument scales all of them."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from regen import cli
from regen.data.synthetic import write_dataset
from regen.pretrained.models import available
from regen.recipes import RECIPES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def comparisons(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("comparisons")


def test_every_recipe_of_every_comparison_exists(comparisons):
    named = [
        recipe
        for comparison in comparisons.COMPARISONS.values()
        for recipes in comparison.recipes.values()
        for recipe in recipes
    ]
    assert set(named) <= RECIPES.keys()
    present = {name for comparison in comparisons.COMPARISONS.values() for name in comparison.present}
    assert present <= {facts.name for facts in available()}
    assert all(set(one.recipes) == {"cpu", "gpu", "paper"} for one in comparisons.COMPARISONS.values())


def test_the_discriminator_begins_at_the_same_part_of_a_longer_training(comparisons):
    usual = RECIPES["magvit2-small-4x-cpu"]
    options = comparisons.update_options("magvit2-small-4x-cpu", 10 * usual.loop.steps)
    steps, warmup = 10 * usual.loop.steps, 10 * usual.optimizer.warmup_steps
    start = 10 * usual.losses.adversarial.start
    wanted = ["--loop.steps", steps, "--optimizer.warmup-steps", warmup, "--losses.adversarial.start", start]
    assert options == list(map(str, wanted))
    short = comparisons.update_options("regen-small-4x-cpu", 34)
    assert short == ["--loop.steps", "34", "--optimizer.warmup-steps", "1"]
    with pytest.raises(ValueError, match="give --updates 1 or more"):
        comparisons.update_options("toy", 0)


def succeed(*arguments: str) -> None:
    assert cli.main(arguments) == 0


def test_a_comparison_from_videos_to_its_report_and_again(comparisons, tmp_path, monkeypatch, capsys):
    """The second call finds all done and changes nothing."""
    write_dataset(tmp_path / "clips", videos=3, frames=12, height=32, width=40, seed=0)
    smaller = replace(comparisons.COMPARISONS["channels"], sizes=("32",))
    monkeypatch.setitem(comparisons.COMPARISONS, "channels", smaller)
    monkeypatch.setattr(comparisons, "regen", succeed)
    clips, results = tmp_path / "clips", tmp_path / "report-channels" / "results"

    def compare() -> dict[Path, int]:
        comparisons.main("channels", (clips,), clips, tmp_path, updates=1, max_frames=5)
        return {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}

    made = compare()
    summary = json.loads((tmp_path / "report-channels" / "summary.json").read_text())
    assert [row["model"] for row in summary] == ["toy", "toy-16ch"]
    assert summary[0]["compression_factor"] == 2 * summary[1]["compression_factor"]
    assert len(made) >= 6
    assert compare() == made
