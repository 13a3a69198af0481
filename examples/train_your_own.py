"""Train a small model on your own folder: `python examples/train_your_own.py VIDEOS RUN`.

The same as `regen train regen-small-4x-cpu --data VIDEOS --out RUN --cache RUN/frames --loop.steps 2000`;
run it again after an interruption, and it resumes.
"""

import sys
from dataclasses import replace
from pathlib import Path

from regen.recipes import RECIPES
from regen.train.distributed import init_distributed
from regen.train.trainer import run_recipe

if __name__ == "__main__":  # the processes that load the data import this file again
    videos, run = Path(sys.argv[1]), Path(sys.argv[2])
    recipe = RECIPES["regen-small-4x-cpu"]
    recipe = replace(recipe, loop=replace(recipe.loop, steps=2000))
    with init_distributed(None) as world:  # also for several processes, by torchrun
        folder = run_recipe(recipe, data=[videos], out=run, context=world, cache=run / "frames")
    print(f"The model is in {folder}.")
