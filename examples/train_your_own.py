"""Train a small model on your own folder: `python examples/train_your_own.py VIDEOS RUN`.

The same as `regen train regen-small-4x-cpu --data VIDEOS --out RUN --cache RUN/frames --loop.steps 2000`;
run it again after an interruption, and it resumes.
"""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

from regen.recipes import RECIPES
from regen.train.distributed import init_distributed
from regen.train.trainer import run_recipe

if __name__ == "__main__":  # the processes that load the data import this file again
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path, help="folder of videos and images")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--recipe", default="regen-small-4x-cpu", choices=RECIPES, metavar="NAME")
    parser.add_argument("--steps", type=int, default=2000, help="updates")
    arguments = parser.parse_args()
    recipe, run = RECIPES[arguments.recipe], arguments.run
    recipe = replace(recipe, loop=replace(recipe.loop, steps=arguments.steps))
    with init_distributed(None) as world:  # also for several processes, by torchrun
        folder = run_recipe(recipe, data=[arguments.videos], out=run, context=world, cache=run / "frames")
    print(f"The model is in {folder}.")
