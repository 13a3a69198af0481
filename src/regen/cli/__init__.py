"""The command `regen`: all commands, and how their errors are shown.

Heavy imports are inside the commands, so that `regen --help` answers at once.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes
from tyro.extras import SubcommandApp

from regen import __version__
from regen.cli import latents, runs, shards
from regen.cli.app import app
from regen.cli.evaluation import evaluate, evaluate_generator
from regen.cli.generation import generate
from regen.cli.latents import LATENTS
from regen.cli.planning import PLAN, plan_command
from regen.cli.preview import fit_preview, preview
from regen.cli.publishing import push
from regen.cli.recipes import print_recipe_help, recipes
from regen.cli.runs import RUNS
from regen.cli.shards import SHARDS
from regen.cli.training import TRAIN, recipe_command, unexpanded, with_config
from regen.cli.video import decode, encode, models, reconstruct
from regen.console import error_message

DESCRIPTION = """Video embedders with a generative decoder, and video generation on their latents.

Help for a command: regen COMMAND --help. The version: regen --version.
Completion of commands, options and recipes: regen --tyro-print-completion bash (or zsh, tcsh)."""
HELP: tuple[list[str], ...] = ([], ["-h"], ["--help"])
RECIPES = {"train": TRAIN, "plan": PLAN}  # commands with one below them for each recipe


@dataclass(frozen=True)
class Group:
    """A command that has others below it."""

    text: str
    functions: tuple[Callable[..., None], ...]

    def app(self) -> SubcommandApp:
        app = SubcommandApp()
        for function in self.functions:
            app.command(function)
        return app


COMMANDS: dict[str, Any] = {
    "reconstruct": reconstruct,
    "encode": encode,
    "decode": decode,
    "preview": preview,
    "fit-preview": fit_preview,
    "generate": generate,
    "train": None,
    "plan": None,
    "recipes": recipes,
    "evaluate": evaluate,
    "evaluate-generator": evaluate_generator,
    "shards": Group(SHARDS, (shards.build, shards.index, shards.show)),
    "runs": Group(RUNS, (runs.show,)),
    "latents": Group(LATENTS, (latents.export, latents.show)),
    "models": models,
    "push": push,
    "app": app,
}
"""In the order of the help."""
# Read by torch when it is loaded. Threads that wait sleep: spinning ones take the cores from all others.
ENVIRONMENT = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # hides warnings for developers of training loops
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
}


def all_commands(argv: Sequence[str]) -> SubcommandApp:
    """All commands in the order of the help, with a summary of each."""
    commands = SubcommandApp()
    for name, command in COMMANDS.items():
        if isinstance(command, Group):
            app, text = command.app(), command.text
        elif name in RECIPES:
            app, text = unexpanded(argv), RECIPES[name]
        else:
            app, text = command, description(command)
        summary = "\n\n".join(text.split("\n\n")[:2])  # what the command does, and an example
        commands.command(app, name=name, help=summary)
    return commands


def find_command(argv: Sequence[str], config: Path | None = None) -> tuple[Any, str, int]:
    """The command that `argv` names, its help text, and how many words name it.

    A recipe of `train` is changed by the file `config`. Without a name that is known, all commands.
    """
    name, *rest = argv
    if name in RECIPES:
        function, text = recipe_command(rest, config) if name == "train" else plan_command(rest)
        return function, text, 2
    command = COMMANDS.get(name)
    if command is None:
        return all_commands(argv), DESCRIPTION, 0
    if not isinstance(command, Group):
        return command, description(command), 1
    for part in command.functions:
        if rest[:1] == [part.__name__]:
            return part, description(part), 2
    return command.app(), command.text, 1


def description(function: Callable[..., None]) -> str:
    """The docstring of a command without its arguments."""
    return (inspect.getdoc(function) or "").partition("\n\nArgs:")[0]


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
    if argv[0] in RECIPES and argv[1:] in HELP:
        print_recipe_help(argv[0], RECIPES[argv[0]])
        return 0
    # Options of recipes keep their prefixes, as in --optimizer.learning-rate.
    keeps_prefixes = argv[0] in RECIPES
    config = (OmitSubcommandPrefixes,) if keeps_prefixes else (OmitSubcommandPrefixes, OmitArgPrefixes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            argv, file = with_config(argv)
            command, text, words = find_command(argv, file)
            run = command.cli if isinstance(command, SubcommandApp) else partial(tyro.cli, command)
            # The program is named by all words of the command, so that messages point to its help.
            run(prog=" ".join(["regen", *argv[:words]]), description=text, args=argv[words:], config=config)
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
