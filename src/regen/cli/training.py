"""The command train: one command below it for each recipe."""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg
from tyro.extras import SubcommandApp

from regen.cli.options import Device

if TYPE_CHECKING:
    from regen.train.run import Recipe

TRAIN = """Train a model by a recipe.

Example: regen train toy --data clips/ --out runs/first --optimizer.learning-rate 1e-3
On 8 GPUs: torchrun --nproc-per-node 8 -m regen train regen-4x --data shards/ --out runs/first"""


def recipe_commands(name: str) -> SubcommandApp:
    """One command for each recipe; made only when `train` is asked for, because recipes import torch.

    Raises ValueError when `name`, the argument after `train`, is no recipe and no option.
    """
    from regen.recipes import RECIPES

    if name not in RECIPES and not name.startswith("-"):
        near = get_close_matches(name, RECIPES, n=4, cutoff=0.5) or ["toy"]
        raise ValueError(
            f"There is no recipe {name!r}; try {' or '.join(near)}, or see all by regen train --help."
        )
    app = SubcommandApp()
    for name, make_recipe in RECIPES.items():
        about = make_recipe.__doc__ or f"Train {name}."
        app.command(name=name, help=about)(_training(make_recipe()))
    return app


def _training(default: "Recipe") -> Callable[..., None]:
    from regen.train.control import Interrupted
    from regen.train.distributed import join
    from regen.train.run import Recipe, run_recipe

    kind: Any = Recipe[type(default.model)]  # type: ignore[misc]  # --model has the fields of its class

    def train(
        data: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")],
        out: Path,
        recipe: Annotated[kind, arg(name="")] = default,
        device: Device = None,
        resume: bool = True,
        cache: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
    ) -> None:
        """Train.

        Args:
            data: Folders (or files) of videos and images, and shards made by `regen shards build`; those also
                at an address such as s3://bucket/shards.
            out: Folder of the run: checkpoints, log, pictures, and in model/ the finished model.
            device: cpu, cuda, cuda:1 or mps; by default the best one here.
            resume: Go on with the run in OUT when there is one; with --no-resume that is an error.
            cache: Folder to keep decoded frames in; faster for up to some hours of video.
        """
        try:
            with join(device) as world:
                folder = run_recipe(recipe, data=data, out=out, world=world, resume=resume, cache=cache)
        except Interrupted as stop:
            print(f"regen: {stop}", file=sys.stderr)
            sys.exit(stop.exit_code)
        if world.is_main:
            print(f"The model is in {folder}; use it with --model {folder}.")

    return train


def unexpanded() -> SubcommandApp:
    """What stands for the recipes in the help of `regen` itself: its one command is never called."""
    app = SubcommandApp()
    app.command(name="recipe")(lambda: None)
    return app
