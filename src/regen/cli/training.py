"""The command train: one command below it for each recipe."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg
from tyro.extras import SubcommandApp

from regen.cli.options import Device, Threads

if TYPE_CHECKING:
    from regen.generate.training import GeneratorRecipe
    from regen.train.distributed import DistributedContext
    from regen.train.trainer import Recipe

TRAIN = """Train a model by a recipe.

Example: regen train toy --data clips/ --out runs/first --optimizer.learning-rate 1e-3
A generator on the latents: regen train toy-t2v --data latents/ --out runs/t2v
On 8 GPUs: torchrun --nproc-per-node 8 -m regen train regen-4x --data shards/ --out runs/first"""

PLAN = """Plan a training: operations, days, and the memory of each phase on each GPU; nothing is run.

Example: regen plan regen-32x --gpus 8 --memory 80GB --loop.gradient-accumulation-steps 4

Exits with 1 when a phase does not fit, and says what to change."""


def recipe_commands(name: str) -> SubcommandApp:
    """One command of `train` for each recipe; made only when it is asked for, because recipes import torch.

    Raises ValueError when `name`, the argument after `train`, is no recipe and no option.
    """
    from regen.recipes import GENERATORS, HELP, RECIPES

    _check_name(name)
    app = SubcommandApp()
    for name, recipe in RECIPES.items():
        app.command(name=name, help=HELP[name])(_embedder_training(recipe))
    for name, generator in GENERATORS.items():
        app.command(name=name, help=HELP[name])(_generator_training(generator))
    return app


def plan_commands(name: str) -> SubcommandApp:
    """One command of `plan` for each recipe. Raises ValueError as `recipe_commands` does."""
    from regen.recipes import GENERATORS, GPUS, HELP, RECIPES

    _check_name(name)
    app = SubcommandApp()
    recipes: dict[str, Any] = {**RECIPES, **GENERATORS}
    for name, recipe in recipes.items():
        app.command(name=name, help=HELP[name].partition("\n")[0])(_planning(name, recipe, GPUS[name]))
    return app


def _check_name(name: str) -> None:
    """Raises ValueError when `name` is no recipe and no option."""
    from regen.recipes import HELP

    if name not in HELP and not name.startswith("-"):
        near = get_close_matches(name, HELP, n=4, cutoff=0.5) or ["toy"]
        raise ValueError(
            f"There is no recipe {name!r}; try {' or '.join(near)}, or see all by regen train --help."
        )


def _planning(name: str, default: "Recipe | GeneratorRecipe", default_gpus: int) -> Callable[..., None]:
    from regen.console import progress_bar
    from regen.recipes.plan import Hardware, plan
    from regen.recipes.plan_table import print_plan
    from regen.train.trainer import Recipe

    kind: Any = Recipe[type(default.model)] if isinstance(default, Recipe) else type(default)  # type: ignore[misc]

    def show(
        recipe: Annotated[kind, arg(name="")] = default,
        gpus: int = default_gpus,
        memory: Annotated[str, arg(metavar="SIZE")] = "80GB",
        gpu: str = "H100",
        utilisation: float = 0.4,
    ) -> None:
        """Plan.

        Args:
            gpus: GPUs that train together; the batch is divided among them and the accumulation steps.
            memory: Memory of each GPU, such as 80GB.
            gpu: Kind of GPU, such as A100 or H200, for its peak of bf16 operations.
            utilisation: Share of that peak which the model's operations reach (MFU).
        """
        from regen.codec.memory import parse_memory

        hardware = Hardware(gpus, parse_memory(memory), gpu, utilisation)
        with progress_bar("counting") as progress:
            found = plan(recipe, hardware, progress)
        print_plan(name, found, hardware)
        if not found.fits(hardware):
            raise ValueError(f"{name} does not fit {gpus} GPUs of {memory}; see the phases marked above.")

    return show


def _embedder_training(default: "Recipe") -> Callable[..., None]:
    from regen.generate.predictor import load_predictor
    from regen.train.trainer import Recipe, run_recipe

    kind: Any = Recipe[type(default.model)]  # type: ignore[misc]  # --model has the fields of its class

    def train(
        data: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")],
        out: Path,
        recipe: Annotated[kind, arg(name="")] = default,
        device: Device = None,
        threads: Threads = None,
        resume: bool = True,
        cache: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
    ) -> None:
        """Train.

        Args:
            data: Folders (or files) of videos and images, sets such as frames:FOLDER or ucf101:FOLDER (see
                `regen evaluate`), and shards made by `regen shards build`, also at an address such as
                s3://bucket/shards.
            out: Folder of the run: checkpoints, log, previews, and model/ with the finished model.
            device: cpu, cuda, cuda:1 or mps; by default the best available.
            threads: CPU threads; by default one for each core.
            resume: Resume the run in OUT if there is one; with --no-resume that is an error.
            cache: Folder for decoded frames; faster for up to some hours of video.
        """

        def run(context: "DistributedContext") -> Path:
            generator, predictor = recipe.losses.prediction.generator, None
            if generator is not None:
                predictor = load_predictor(generator, recipe.init.model, context)
            return run_recipe(
                recipe,
                data=data,
                out=out,
                context=context,
                resume=resume,
                cache=cache,
                predictor=predictor,
                media_conditions=None if predictor is None else predictor.conditions,
            )

        _run(device, threads, run, "use it with --model")

    return train


def _generator_training(default: "GeneratorRecipe") -> Callable[..., None]:
    from regen.generate.training import GeneratorRecipe, run_generator

    def train(
        data: Annotated[Path, arg(metavar="LATENTS")],
        out: Path,
        recipe: Annotated[GeneratorRecipe, arg(name="")] = default,
        device: Device = None,
        threads: Threads = None,
        resume: bool = True,
    ) -> None:
        """Train.

        Args:
            data: Folder of latents made by `regen latents export`; caption embeddings are cached there.
            out: Folder of the run: checkpoints, log, previews, and model/ with the finished model.
            device: cpu, cuda, cuda:1 or mps; by default the best available.
            threads: CPU threads; by default one for each core.
            resume: Resume the run in OUT if there is one; with --no-resume that is an error.
        """
        run = partial(run_generator, recipe, data, out, resume=resume)
        _run(device, threads, run, "use it with regen generate --model")

    return train


def _run(device: str | None, threads: int | None, train: Callable[..., Path], use: str) -> None:
    """Train, and print where the model is."""
    from regen.runtime import set_threads
    from regen.train.distributed import init_distributed

    set_threads(threads)
    with init_distributed(device) as context:
        folder = train(context)
    if context.is_main:
        print(f"The model is in {folder}; {use} {folder}.")


def unexpanded() -> SubcommandApp:
    """Placeholder for the recipes in the help of `regen`; its one command is never called."""
    app = SubcommandApp()
    app.command(name="recipe")(lambda: None)
    return app
