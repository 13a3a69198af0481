"""Named full configurations: `regen train NAME --data DIR --out RUN`.

One file for each family; a table there gives what differs by ratio, size and hardware, and the names are made
from it. Every field is open to a dotted override.
"""

from typing import Any

from regen.generate.training import GeneratorRecipe
from regen.recipes import decoder, generators, magvit2, one_dva, regen
from regen.recipes.preset import Preset
from regen.train.recipe import Recipe

_EMBEDDERS: dict[str, Preset[Recipe]] = {
    **regen.PRESETS,
    **magvit2.PRESETS,
    **one_dva.PRESETS,
    **decoder.PRESETS,
}
_FAMILIES: dict[str, dict[str, Preset]] = {
    "REGEN": {**regen.PRESETS},
    "MAGVIT-v2, the baseline": {**magvit2.PRESETS},
    "One-DVA": {**one_dva.PRESETS},
    "Decoders of latents that others made": {**decoder.PRESETS},
    "Generators, trained on exported latents": {**generators.PRESETS},
}

RECIPES: dict[str, Recipe] = {name: preset.recipe for name, preset in _EMBEDDERS.items()}
GENERATORS: dict[str, GeneratorRecipe] = {name: p.recipe for name, p in generators.PRESETS.items()}
_PRESETS: dict[str, Preset] = {**_EMBEDDERS, **generators.PRESETS}
HELP: dict[str, str] = {name: preset.help(name) for name, preset in _PRESETS.items()}
GPUS: dict[str, int] = {name: preset.gpus for name, preset in _PRESETS.items()}
"""How many GPUs the batches of a recipe are for."""


def make_index() -> list[dict[str, Any]]:
    """Name, family, hardware, summary and command of every recipe: what index.json holds for `regen.cli`."""
    return [
        {
            "name": name,
            "family": family,
            "hardware": preset.hardware(name),
            "summary": " ".join(preset.summary.partition("\n\n")[0].split()),
            "command": preset.command.format(name=name),
        }
        for family, presets in _FAMILIES.items()
        for name, preset in presets.items()
    ]
