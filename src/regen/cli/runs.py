"""The command runs: what trainings have done so far."""

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from regen.cli.options import Json
from regen.console import warn

if TYPE_CHECKING:
    from regen.train.run_summary import Run

RUNS = """Look at the runs of `regen train`, also while they go on.

Example: regen runs show runs/first runs/second --png runs.png"""
PLAIN_COLUMNS = 100  # of plots that are written into a file or a pipe


def runs_commands() -> SubcommandApp:
    """The commands below `runs`."""
    app = SubcommandApp()
    app.command(show)
    return app


def show(
    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR ...]", help_behavior_hint="")],
    png: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
    json: Json = False,
) -> None:
    """What a run has done so far, in figures and plots; of several runs, side by side.

    Example: regen runs show runs/first --png run.png

    Shows how far it is, loss, PSNR of training and evaluations, gradient norm, learning rate, speed, time
    spent waiting for data, checkpoints, and where the configurations of several runs differ.

    Args:
        folders: The folders of the runs: OUT of `regen train`.
        png: Also draw the plots into this file.
        json: Let the output be one JSON object, without plots in the terminal.
    """
    from regen.train.plots import draw_png
    from regen.train.run_summary import read_runs

    if png is not None and (png.suffix.lower() != ".png" or not png.absolute().parent.is_dir()):
        raise ValueError(
            f"{png} is no name for a plot; give a file ending in .png in a folder that is there."
        )
    if not folders:
        raise ValueError("No run is named; give the folder of a training.")
    runs = read_runs(folders)
    if json:
        print(json_module.dumps({"runs": [asdict(run.summary()) for run in runs]}))
    else:
        _show(runs)
    if png is not None:
        draw_png(runs, png)
    if png is not None and not json:
        print(f"\nThe plots are in {png}.")


def _show(runs: "list[Run]") -> None:
    from rich.console import Console
    from rich.table import Table

    from regen.train.plots import MISSING, draw_in_terminal, is_drawable
    from regen.train.run_summary import describe, differences

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # a file or a pipe: no line is cut or folded
        console = Console(markup=False, highlight=False, width=10_000)
    table = Table("", *(run.name for run in runs), box=None)
    words = [describe(run.summary()) for run in runs]
    for name in words[0]:
        table.add_row(name, *(one[name] for one in words))
    for name, values in differences(runs).items():
        table.add_row(name, *values)
    console.print(table)
    if not is_drawable():
        warn(MISSING)
    elif any(run.rows for run in runs):
        columns = console.width if console.is_terminal else PLAIN_COLUMNS
        is_coloured = console.color_system is not None and not console.no_color
        print("\n" + draw_in_terminal(runs, columns, is_coloured))
