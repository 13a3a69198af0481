"""Named full configurations: `regen train NAME --data DIR --out RUN`.

One file for each family; a table there gives what differs by ratio, size and hardware, and the names are made
from it. Every field is open to a dotted override.
"""

from regen.generate.training import GeneratorRecipe
from regen.recipes import generators, magvit2, one_dva, regen
from regen.recipes.preset import Preset
from regen.train.trainer import Recipe

_EMBEDDERS = {**regen.PRESETS, **magvit2.PRESETS, **one_dva.PRESETS}

RECIPES: dict[str, Recipe] = {name: preset.recipe for name, preset in _EMBEDDERS.items()}
GENERATORS: dict[str, GeneratorRecipe] = {name: p.recipe for name, p in generators.PRESETS.items()}
_PRESETS: dict[str, Preset] = {**_EMBEDDERS, **generators.PRESETS}
HELP: dict[str, str] = {name: preset.help(name) for name, preset in _PRESETS.items()}
GPUS: dict[str, int] = {name: preset.gpus for name, preset in _PRESETS.items()}
"""How many GPUs the batches of a recipe are for."""
