"""Every phase of the trainings at paper size fits the GPUs that they are for."""

from dataclasses import replace
from typing import Any

import pytest

from regen.recipes import GENERATORS, GPUS, RECIPES
from regen.recipes.plan import Hardware, plan

pytestmark = pytest.mark.integration

EVERY: dict[str, Any] = {**RECIPES, **GENERATORS}
PAPER = [name for name in EVERY if GPUS[name] > 1]
ALWAYS = {"regen-32x", "magvit2-32x-wide"}  # the rest takes minutes


def marked(names: list[str], always: set[str]) -> list[Any]:
    """The tests of other recipes, which take minutes in all, are for make smoke."""
    return [pytest.param(name, marks=() if name in always else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(PAPER, ALWAYS))
def test_every_phase_of_the_paper_fits(name: str) -> None:
    """On the GPUs that the recipe is for, of 80 GB."""
    hardware = Hardware(GPUS[name])
    assert [phase for phase in plan(EVERY[name], hardware).phases if not phase.fits(hardware)] == []


@pytest.mark.parametrize("name", marked(["regen-4x", "magvit2-32x-wide", "onedva-large", "t2v-base"], set()))
def test_every_phase_of_the_paper_fits_8_gpus(name: str) -> None:
    hardware = Hardware(8)
    recipe = EVERY[name]
    loop = replace(recipe.loop, fsdp=True, activation_checkpointing=True, gradient_accumulation_steps=4)
    recipe = replace(recipe, loop=loop)
    assert plan(recipe, hardware).fits(hardware)
