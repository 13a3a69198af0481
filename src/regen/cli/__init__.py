"""The command `regen`: all commands, and how their errors are shown.

Heavy imports are inside the commands, so that `regen --help` answers at once.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes
from tyro.extras import SubcommandApp

from regen import __version__
from regen.cli.app import app
from regen.cli.evaluation import evaluate, evaluate_generator
from regen.cli.generation import generate
from regen.cli.latents import LATENTS, latents_commands
from regen.cli.planning import PLAN, plan_commands
from regen.cli.preview import fit_preview, preview
from regen.cli.publishing import push
from regen.cli.recipes import print_recipe_help, recipes
from regen.cli.runs import RUNS, runs_commands
from regen.cli.shards import SHARDS, shards_commands
from regen.cli.training import TRAIN, recipe_commands, unexpanded, with_config
from regen.cli.video import decode, encode, models, reconstruct
from regen.console import error_message

DESCRIPTION = """Video embedders with a generative decoder, and video generation on their latents.

Help for a command: regen COMMAND --help. The version: regen --version.
Completion of commands, options and recipes: regen --tyro-print-completion bash (or zsh, tcsh)."""
HELP: tuple[list[str], ...] = ([], ["-h"], ["--help"])
TEXTS = {"train": TRAIN, "plan": PLAN}
# Read by torch when it is loaded. Threads that wait sleep: spinning ones take the cores from all others.
ENVIRONMENT = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # hides warnings for developers of training loops
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
}


def build_app(argv: Sequence[str], config: Path | None = None) -> SubcommandApp:
    """All commands in the order of the help, which shows a summary of all but the command in `argv`.

    The recipe of `train` is changed by the file `config`.
    """
    commands = SubcommandApp()

    def add(command: Any, name: str, text: str | None = None) -> None:
        if name != argv[0]:
            paragraphs = (text or inspect.getdoc(command) or "").split("\n\n")
            text = "\n\n".join(paragraphs[:2])  # what the command does, and an example
        commands.command(command, name=name, help=text)

    add(reconstruct, "reconstruct")
    add(encode, "encode")
    add(decode, "decode")
    add(preview, "preview")
    add(fit_preview, "fit-preview")
    add(generate, "generate")
    add(recipe_commands(argv[1], config) if argv[0] == "train" else unexpanded(argv), "train", TRAIN)
    add(plan_commands(argv[1]) if argv[0] == "plan" else unexpanded(argv), "plan", PLAN)
    add(recipes, "recipes")
    add(evaluate, "evaluate")
    add(evaluate_generator, "evaluate-generator")
    add(shards_commands(), "shards", SHARDS)
    add(runs_commands(), "runs", RUNS)
    add(latents_commands(), "latents", LATENTS)
    add(models, "models")
    add(push, "push")
    add(app, "app")
    return commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 after an error, or 128 + the signal's number after an interruption.

    The parser itself exits with 0 after `--help`, and with 2 for wrong arguments.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that the terminal lacks
    argv = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if argv in (["--version"], ["-V"]):
        print(f"regen {__version__}")
        return 0
    if argv[0] in TEXTS and argv[1:] in HELP:
        print_recipe_help(argv[0], TEXTS[argv[0]])
        return 0
    # Options of recipes keep their prefixes, as in --optimizer.learning-rate.
    keeps_prefixes = argv[0] in ("train", "plan")
    config = (OmitSubcommandPrefixes,) if keeps_prefixes else (OmitSubcommandPrefixes, OmitArgPrefixes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            argv, file = with_config(argv)
            build_app(argv, file).cli(prog="regen", description=DESCRIPTION, args=argv, config=config)
    except KeyboardInterrupt as error:
        print(f"regen: {str(error) or 'interrupted.'}", file=sys.stderr)
        return getattr(error, "exit_code", 130)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, MemoryError) as error:
        print(f"regen: {error_message(error)}", file=sys.stderr)
        return 1
    return 0
