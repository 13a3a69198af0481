"""The command plan: one command below it for each recipe."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Suppress, arg

from regen.cli.training import load_presets

if TYPE_CHECKING:
    from regen.generate.training import GeneratorRecipe
    from regen.train.recipe import Recipe

PLAN = """Plan a training: operations, days, and the memory of each phase on each GPU; nothing is run.

Example: regen plan regen-32x --gpus 8 --memory 80GB --loop.gradient-accumulation-steps 4

Exits with 1 when a phase does not fit, and says what to change."""


def plan_command(argv: Sequence[str]) -> tuple[Callable[..., None], str]:
    """The plan of the recipe named first in `argv`, and its help text. Raises as `load_presets` does."""
    name, presets = argv[0], load_presets(argv)
    recipe: Any = {**presets.RECIPES, **presets.GENERATORS}[name]
    return _planning(name, recipe, presets.GPUS[name]), presets.HELP[name].partition("\n")[0]


def _planning(name: str, default: "Recipe | GeneratorRecipe", default_gpus: int) -> Callable[..., None]:
    kind: Any = type(default)
    if hasattr(kind, "__class_getitem__"):  # --model has the fields of its class
        kind = kind[type(default.model)]
    is_decoder = hasattr(default.model, "encoder")
    name_option, latents_option = (
        arg(metavar=metavar, help_behavior_hint="") if is_decoder else Suppress
        for metavar in ("NAME", "LATENTS")
    )

    def show(
        recipe: Annotated[kind, arg(name="")] = default,
        gpus: int = default_gpus,
        memory: Annotated[str, arg(metavar="SIZE")] = "80GB",
        gpu: str = "H100",
        utilisation: float = 0.4,
        encoder: Annotated[str | None, name_option] = None,
        latents: Annotated[Path | None, latents_option] = None,
    ) -> None:
        """Plan.

        Args:
            gpus: GPUs that train together; the batch is divided among them and the accumulation steps.
            memory: Memory of each GPU, such as 80GB.
            gpu: Kind of GPU, such as A100 or H200, for its peak of bf16 operations.
            utilisation: Share of that peak which the model's operations reach (MFU).
            encoder: The frozen autoencoder for whose latents a decoder is trained; its work is counted.
            latents: Folder of exported latents on which a decoder is trained; no encoder runs then.
        """
        from regen.codec.memory import parse_memory
        from regen.console import progress_bar
        from regen.corpus.dataset import LatentDataset
        from regen.recipes.plan import Hardware, plan
        from regen.recipes.plan_table import print_plan
        from regen.train.latent_source import plan_source

        exported = None if latents is None else LatentDataset(latents)
        planned, embedder = plan_source(recipe, encoder, exported)
        hardware = Hardware(gpus, parse_memory(memory), gpu, utilisation)
        with progress_bar("counting") as progress:
            found = plan(planned, hardware, progress, exported, embedder)
        print_plan(name, found, hardware)
        if not found.fits(hardware):
            raise ValueError(f"{name} does not fit {gpus} GPUs of {memory}; see the phases marked above.")

    return show
