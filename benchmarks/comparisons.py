"""The paper's comparisons, each in one command: train every model of a comparison, then measure them all.

Begun again, the same command goes on where it was: finished models and measured clips are left as they are.

    python benchmarks/comparisons.py table-1 --data TRAIN --eval EVAL --out RUNS

table-1   REGEN, the baseline (MAGVIT-v2) and the linear embedder at 4, 8, 16 and 32× (Table 1)
table-3   content-aware against in-context conditioning, at the size of the training and twice that (Table 3)
table-5   the baseline with a wider decoder (Table 5)
channels  8 against 16 latent channels
steps     one model with 1 to 50 denoising steps (Figure 7)

On two CPU cores all but table-1 use the toy recipes. The small models at 16 and 32× start from those of half
the ratio (docs/checkpoints.md).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Annotated, Literal

import tyro
from report import one_sentence_errors

from regen.pretrained.listing import find_model
from regen.recipes import RECIPES

Hardware = Literal["cpu", "gpu", "paper"]
Name = Literal["table-1", "table-3", "table-5", "channels", "steps"]


RATIOS = (4, 8, 16, 32)
STARTS = {  # by recipe, the one whose model it starts from
    f"{kind}-small-{2 * k}x{end}": f"{kind}-small-{k}x{end}"
    for kind in ("regen", "magvit2")
    for k in (8, 16)
    for end in ("", "-cpu")
}


@dataclass(frozen=True)
class Comparison:
    """Recipes to train, by hardware; models that are there already; and how to measure them all."""

    recipes: dict[Hardware, tuple[str, ...]]
    present: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ("256",)
    steps: tuple[int, ...] = (1,)


COMPARISONS: dict[Name, Comparison] = {
    "table-1": Comparison(
        {
            "cpu": tuple(f"{kind}-small-{k}x-cpu" for k in RATIOS for kind in ("regen", "magvit2")),
            "gpu": tuple(f"{kind}-small-{k}x" for k in RATIOS for kind in ("regen", "magvit2")),
            "paper": tuple(f"{kind}-{k}x" for k in RATIOS for kind in ("regen", "magvit2")),
        },
        present=tuple(f"linear-{k}x" for k in RATIOS),
    ),
    "table-3": Comparison(
        {
            "cpu": ("toy", "toy-in-context"),
            "gpu": ("regen-small-4x", "regen-small-4x-in-context"),
            "paper": ("regen-4x", "regen-4x-in-context"),
        },
        sizes=("32", "64", "128", "256"),
    ),
    "table-5": Comparison(
        {
            "cpu": ("toy-magvit2", "toy-magvit2-wide"),
            "gpu": ("magvit2-small-16x", "magvit2-small-16x-wide"),
            "paper": ("magvit2-16x", "magvit2-16x-wide", "magvit2-32x", "magvit2-32x-wide"),
        },
    ),
    "channels": Comparison(
        {
            "cpu": ("toy", "toy-16ch"),
            "gpu": ("regen-small-4x", "regen-small-4x-16ch"),
            "paper": ("regen-4x", "regen-4x-16ch"),
        },
    ),
    "steps": Comparison(
        {"cpu": ("toy",), "gpu": ("regen-small-4x",), "paper": ("regen-4x",)}, steps=(1, 2, 4, 8, 16, 32, 50)
    ),
}


def main(
    comparison: Annotated[Name, tyro.conf.Positional],
    data: tuple[Path, ...],
    eval: Path,
    out: Path,
    hardware: Hardware = "cpu",
    updates: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    cache: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    perceptual_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    fvd_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    lpips_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    perceptual: bool = False,
) -> None:
    """Train the models of a comparison and measure them.

    Args:
        comparison: Which one; see above.
        data: Folders of videos to train on.
        eval: Folder of videos to measure on.
        out: Folder for the training runs and, in report-COMPARISON/, the results.
        hardware: The recipes for two CPU cores, for one GPU, or those of the paper.
        updates: Train every model with this many updates instead of its recipe's number: the one argument
            that scales a comparison up or down.
        cache: Folder to keep decoded frames in while training.
        max_frames: Measure only the first frames of every clip.
        perceptual_file: Weights for the perceptual loss of the paper-size baseline.
        fvd_weights: I3D's weights for the Fréchet video distance.
        lpips_weights: AlexNet's weights for LPIPS.
        perceptual: Measure the figures by EfficientNet-Lite0, too (the extra `perceptual`).
    """
    chosen = COMPARISONS[comparison]
    recipes = chosen.recipes[hardware]
    for present in chosen.present:
        find_model(present)
    if perceptual_file is None and any(RECIPES[recipe].losses.perceptual_weight > 0 for recipe in recipes):
        raise ValueError("The baseline at this size has a perceptual loss; give --perceptual-file vgg16.pth.")
    for recipe in recipes:
        options = ["--data", *map(str, data), "--out", str(out / recipe)]
        options += [] if cache is None else ["--cache", str(cache)]
        options += [] if updates is None else update_options(recipe, updates)
        if RECIPES[recipe].losses.perceptual_weight > 0:
            options += ["--losses.perceptual-file", str(perceptual_file)]
        if comparison == "table-1" and recipe in STARTS:
            options += ["--init.model", str(out / STARTS[recipe])]
        regen("train", recipe, *options)
    models = [str(out / recipe) for recipe in recipes] + list(chosen.present)
    options = [part for model in models for part in ("--model", model)]
    options += [part for size in chosen.sizes for part in ("--size", size)]
    options += [part for steps in chosen.steps for part in ("--steps", str(steps))]
    options += [] if max_frames is None else ["--max-frames", str(max_frames)]
    options += [] if fvd_weights is None else ["--fvd", "i3d", "--fvd-weights", str(fvd_weights)]
    options += ["--perceptual"] * perceptual
    options += [] if lpips_weights is None else ["--lpips-net", "alex", "--lpips-weights", str(lpips_weights)]
    regen("evaluate", *options, "--data", str(eval), "--report", str(out / f"report-{comparison}"))


def update_options(recipe: str, updates: int) -> list[str]:
    """Options for another number of updates; warm-up and discriminator keep their parts of the run."""
    if updates < 1:
        raise ValueError(f"--updates must be at least 1, got {updates}.")
    usual = RECIPES[recipe]
    warmup = usual.optimizer.warmup_steps * updates // usual.loop.steps
    options = ["--loop.steps", str(updates), "--optimizer.warmup-steps", str(warmup)]
    if usual.losses.adversarial.weight > 0:
        start = usual.losses.adversarial.start * updates // usual.loop.steps
        options += ["--losses.adversarial.start", str(start)]
    return options


def regen(*arguments: str) -> None:
    """Run one command of regen; exit with its code when it fails."""
    print(f"regen {' '.join(arguments)}", file=sys.stderr, flush=True)
    code = run([sys.executable, "-m", "regen", *arguments]).returncode
    if code != 0:
        sys.exit(code)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main, description=__doc__)
