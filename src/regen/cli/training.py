"""The command train: one command below it for each recipe."""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Suppress, arg
from tyro.extras import SubcommandApp

from regen.cli.options import Device, Strict, Threads
from regen.cli.outline import recipes_outline
from regen.cli.recipes import recipe_index

if TYPE_CHECKING:
    from regen.generate.training import GeneratorRecipe
    from regen.train.card import CardOptions
    from regen.train.distributed import DistributedContext
    from regen.train.recipe import Recipe

License = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
TRAIN = """Train a model by a recipe.

Example: regen train toy --data clips/ --out runs/first --optimizer.learning-rate 1e-3
A generator on the latents: regen train toy-t2v --data latents/ --out runs/t2v
Once more, or from a file: regen train --config runs/first/config.json --data clips/ --out runs/second
On 8 GPUs: torchrun --nproc-per-node 8 -m regen train regen-4x --data shards/ --out runs/first"""


def with_config(argv: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments of `train` without --config, begun by its recipe's name; and the file of --config.

    Raises ValueError when neither the arguments nor the file name a recipe.
    """
    joined = [part for argument in argv for part in _split_option(argument)]
    if joined[0] != "train" or "--config" not in joined:
        return list(argv), None
    from regen.recipes.stored import read_config

    place = joined.index("--config")
    if place + 1 == len(joined):
        raise ValueError("--config needs a file: the config.json of a run, or a .toml of your own.")
    path, rest = Path(joined[place + 1]), [*joined[1:place], *joined[place + 2 :]]
    if rest and not rest[0].startswith("-"):
        return ["train", *rest], path
    name = read_config(path).get("recipe")
    if not isinstance(name, str):
        raise ValueError(f'{path} must name its recipe, as in recipe = "toy"; or give regen train RECIPE.')
    return ["train", name, *rest], path


def _split_option(argument: str) -> list[str]:
    """--config=FILE as two arguments."""
    name, equals, file = argument.partition("=")
    return [name, file] if equals and name == "--config" else [argument]


def recipe_command(argv: Sequence[str], config: Path | None = None) -> tuple[Callable[..., None], str]:
    """The training by the recipe named first in `argv`, changed by the file `config`; and its help text.

    Raises ValueError when there is no such recipe, and for a file that does not fit it.
    """
    name, presets = argv[0], load_presets(argv, config)
    recipe: Any = {**presets.RECIPES, **presets.GENERATORS}[name]
    if config is not None:
        from regen.recipes.stored import configured, read_config

        recipe = configured(recipe, read_config(config), config)
    make = _embedder_training if name in presets.RECIPES else _generator_training
    return make(name, recipe), presets.HELP[name]


def load_presets(argv: Sequence[str], config: Path | None = None) -> Any:
    """The module of the recipes; for a help text its outline, which is here much sooner.

    Raises ValueError when there is no recipe of the name that comes first in `argv`.
    """
    check_name(argv[0])
    if config is None and not {"-h", "--help"}.isdisjoint(argv):
        return recipes_outline()
    from regen import recipes

    return recipes


def check_name(name: str) -> None:
    """Raises ValueError when `name` is no recipe."""
    names = [recipe["name"] for recipe in recipe_index()]
    if name in names:
        return
    if name.startswith("-"):
        raise ValueError(f"A recipe comes first, such as toy, then {name}; see all by regen recipes.")
    near = get_close_matches(name, names, n=4, cutoff=0.5) or ["toy"]
    raise ValueError(f"There is no recipe {name!r}; try {' or '.join(near)}, or see all by regen recipes.")


def _embedder_training(name: str, default: "Recipe") -> Callable[..., None]:
    kind: Any = type(default)[type(default.model)]  # type: ignore[index]  # --model has the fields of its class
    is_decoder = hasattr(default.model, "encoder")
    encoder_option = arg(metavar="NAME", help_behavior_hint="") if is_decoder else Suppress
    latents_option = arg(metavar="LATENTS", help_behavior_hint="") if is_decoder else Suppress

    def train(
        data: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")],
        out: Path,
        encoder: Annotated[str | None, encoder_option] = None,
        latents: Annotated[Path | None, latents_option] = None,
        recipe: Annotated[kind, arg(name="")] = default,
        device: Device = None,
        threads: Threads = None,
        resume: bool = True,
        cache: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
        license: License = None,
        strict: Strict = False,
    ) -> None:
        """Train.

        Args:
            encoder: The frozen autoencoder for whose latents the decoder is trained: a folder, owner/name or
                owner/name/folder on the Hub, of diffusers or of this package.
            latents: Folder of the latents of DATA by `regen latents export`; the encoder is not run then.
            data: Folders (or files) of videos and images, sets such as frames:FOLDER or ucf101:FOLDER (see
                `regen evaluate`), and shards made by `regen shards build`, also at an address such as
                s3://bucket/shards.
            out: Folder of the run: checkpoints, log, previews, and model/ with the finished model.
            device: cpu, cuda, cuda:1 or mps; by default the best available.
            threads: CPU threads; by default one for each core.
            resume: Resume the run in OUT if there is one; with --no-resume that is an error.
            cache: Folder for decoded frames; faster for up to some hours of video.
            license: Licence of the weights for the model card, such as apache-2.0; publishing needs one.
            strict: Stop at once when a file can't be read; by default it is named and skipped.
        """
        if encoder is not None:
            recipe = replace(recipe, model=replace(recipe.model, encoder=encoder))
        _train_embedder(recipe, data, out, name, device, threads, resume, cache, license, strict, latents)

    return train


def _train_embedder(
    recipe: "Recipe",
    data: tuple[str, ...],
    out: Path,
    name: str,
    device: str | None,
    threads: int | None,
    resume: bool,
    cache: Path | None,
    license: str | None,
    strict: bool,
    latents: Path | None,
) -> None:
    from regen.data.video_sets import check_exist, check_outside
    from regen.generate.predictor import load_predictor
    from regen.train.trainer import run_recipe

    check_outside(out, data, "--out")

    def run(context: "DistributedContext") -> Path:
        generator, predictor = recipe.losses.prediction.generator, None
        if generator is not None:
            check_exist(data)  # before the generator is loaded; others are loaded after the data
            predictor = load_predictor(generator, recipe.init.model, context)
        return run_recipe(
            recipe,
            data=data,
            out=out,
            context=context,
            resume=resume,
            cache=cache,
            name=name,
            predictor=predictor,
            media_conditions=None if predictor is None else predictor.conditions,
            card=_card_options(license),
            strict=strict,
            latents=latents,
        )

    _run(device, threads, out, run, "use it with --model")


def _generator_training(name: str, default: "GeneratorRecipe") -> Callable[..., None]:
    kind: Any = type(default)

    def train(
        data: Annotated[Path, arg(metavar="LATENTS")],
        out: Path,
        recipe: Annotated[kind, arg(name="")] = default,
        device: Device = None,
        threads: Threads = None,
        resume: bool = True,
        license: License = None,
    ) -> None:
        """Train.

        Args:
            data: Folder of latents made by `regen latents export`; caption embeddings are cached there.
            out: Folder of the run: checkpoints, log, previews, and model/ with the finished model.
            device: cpu, cuda, cuda:1 or mps; by default the best available.
            threads: CPU threads; by default one for each core.
            resume: Resume the run in OUT if there is one; with --no-resume that is an error.
            license: Licence of the weights for the model card, such as apache-2.0; publishing needs one.
        """
        from regen.generate.training import run_generator

        card = _card_options(license)
        run = partial(run_generator, recipe, data, out, resume=resume, card=card, name=name)
        _run(device, threads, out, run, "use it with regen generate --model")

    return train


def _card_options(license: str | None) -> "CardOptions":
    from regen.train.card import CardOptions

    return CardOptions(license, ("regen", *sys.argv[1:]))


def _run(device: str | None, threads: int | None, out: Path, train: Callable[..., Path], use: str) -> None:
    """Train in `out`, of which no other training may make use, and print where the model is."""
    from regen.locks import lock_folder
    from regen.runtime import set_threads
    from regen.train.distributed import init_distributed

    set_threads(threads)
    with (
        init_distributed(device) as context,
        lock_folder(out, "training") if context.is_main else nullcontext(),
    ):
        folder = train(context)
    if context.is_main:
        print(f"The model is in {folder}; {use} {folder}.")


def unexpanded(argv: Sequence[str]) -> SubcommandApp:
    """Placeholder of the recipes in the help of `regen`, never called; their names in a completion script."""
    app = SubcommandApp()
    names = [recipe["name"] for recipe in recipe_index()] if "completion" in argv[0] else ["recipe"]
    for name in names:
        app.command(name=name)(lambda: None)
    return app
