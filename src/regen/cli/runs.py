"""The command runs: progress and results of trainings."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from regen.cli.options import Json

RUNS = """Inspect the runs of `regen train`, also while they go on.

Example: regen runs show runs/first runs/second --png runs.png"""


def show(
    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR ...]", help_behavior_hint="")],
    png: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
    json: Json = False,
) -> None:
    """Show the progress of runs in figures and plots; several runs side by side.

    Example: regen runs show runs/first --png run.png

    Shows progress, loss, PSNR of training and evaluations, speed, time spent waiting for data, checkpoints,
    and where the configurations of several runs differ. The plots add gradient norm and learning rate.

    Args:
        folders: Folders of the runs: --out of `regen train`.
        png: Draw the plots into this file.
        json: Print one JSON object.
    """
    from rich.table import Table

    from regen.console import print_json, print_table
    from regen.train.run_summary import describe, differences, plot_runs, read_runs

    if png is not None and (png.suffix.lower() != ".png" or not png.absolute().parent.is_dir()):
        raise ValueError(f"--png must be a .png file in an existing folder, got {png}.")
    if not folders:
        raise ValueError("At least one folder of a run must be given.")
    runs = read_runs(folders)
    summaries = [run.summary() for run in runs]
    if json:
        print_json({"runs": [asdict(summary) for summary in summaries]})
    else:
        table = Table("", *(run.name for run in runs), box=None)
        columns = [describe(summary) for summary in summaries]
        rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
        print_table(table, rows + [(name, *values) for name, values in differences(runs).items()])
    if png is not None:
        plot_runs(runs, png)
        if not json:
            print(f"\nThe plots are in {png}.")
