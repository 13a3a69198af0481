"""The command shards: build, index and show many videos in few tar files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.extras import SubcommandApp

from regen.cli.options import Json
from regen.console import clean_exit
from regen.curate.filters import Filters

if TYPE_CHECKING:
    from regen.curate.workers import PoolOptions

SHARDS = """Many videos and images in few tar files, for training: build, index, show.

Example: regen shards build clips/ --out shards/"""


@dataclass(frozen=True)
class ShardOptions:
    """How samples are stored."""

    short_side: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Encode again, the short side at most N pixels, hardly visible losses, without sound; for fast training.
    By default the files themselves are stored."""
    keyframe_interval: Annotated[int, arg(metavar="N")] = 16
    """A key frame every N frames of what is encoded again: few frames are decoded for a clip."""
    max_shard_size: Annotated[str, arg(metavar="SIZE")] = "512MB"
    """Size of a shard."""
    max_samples: Annotated[int, arg(metavar="N")] = 0
    """Most samples in a shard; 0: no limit."""


@dataclass(frozen=True)
class EffortOptions:
    """How the work is done; the shards do not depend on it."""

    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Processes; by default one for each core."""
    time_limit: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Give a file up that takes longer than this and what its size and number of frames explain."""
    retry: FlagCreatePairsOff[bool] = False
    """Look again at files that took too long or ended the process that read them."""


DEFAULT_FORM, DEFAULT_EFFORT, DEFAULT_FILTERS = ShardOptions(), EffortOptions(), Filters()
Workers = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Shards = Annotated[Positional[str], arg(metavar="SHARDS")]


def shards_commands() -> SubcommandApp:
    """The commands below `regen shards`."""
    app = SubcommandApp()
    app.command(build)
    app.command(index)
    app.command(show)
    return app


def build(
    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR ...]")],
    out: Annotated[Path, arg(metavar="SHARDS")],
    form: Annotated[ShardOptions, arg(name="")] = DEFAULT_FORM,
    classes_from_folders: FlagCreatePairsOff[bool] = False,
    filters: Annotated[Filters, arg(name="")] = DEFAULT_FILTERS,
    effort: Annotated[EffortOptions, arg(name="")] = DEFAULT_EFFORT,
    json: Json = False,
) -> None:
    """Make shards from folders of videos and images, and a report of what was left out and why.

    Example: regen shards build clips/ --out shards/ --cuts split --short-side 256

    Then train with --data shards/. Beside NAME.mp4 may lie its caption, NAME.txt, its class, NAME.cls, a
    whole number, or NAME.json with "caption" and "class".

    After an interruption the same command goes on. Run it again when there are more files.

    Args:
        folders: Folders of videos and images, also in folders inside them.
        out: The folder of the shards.
        classes_from_folders: The class is the folder that a file lies in; the names are numbered in
            SHARDS/classes.json.
        json: Let the last line of the output be one JSON object.
    """
    from regen.codec.memory import parse_memory
    from regen.curate.build import Build
    from regen.curate.build import build as build_shards
    from regen.curate.console import phase_bar, print_result
    from regen.curate.writing import Packing

    packing = Packing(
        form.short_side, form.keyframe_interval, parse_memory(form.max_shard_size), form.max_samples
    )
    task = Build(folders, out, filters, packing, classes_from_folders)
    with clean_exit(out), phase_bar() as on_progress:
        outcome = build_shards(task, _work(effort), on_progress)
    if json:
        _print_json(outcome.as_json() | {"report": str(outcome.page)})
    else:
        print_result(outcome)


def index(
    shards: Shards, effort: Annotated[EffortOptions, arg(name="")] = DEFAULT_EFFORT, json: Json = False
) -> None:
    """Make the index of shards from elsewhere, in WebDataset's format.

    Example: regen shards index shards/

    A sample is a video or an image in a tar file; its caption (.txt), class (.cls) or both as JSON have the
    same name. What can't be read is left out and told.

    Args:
        shards: A folder of .tar files, or an address such as s3://bucket/shards.
        json: Let the last line of the output be one JSON object.
    """
    from regen.curate.console import phase_bar, print_index_result
    from regen.curate.indexing import make_index

    with phase_bar() as on_progress:
        indexed = make_index(shards, _work(effort), on_progress)
    if json:
        left_out = [list(pair) for pair in indexed.left_out]
        _print_json({"shards": indexed.shards, "samples": indexed.samples, "left_out": left_out})
    else:
        print_index_result(indexed, shards)


def show(
    shards: Shards,
    picture: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
    json: Json = False,
) -> None:
    """Tell what is in shards, and draw a picture of some samples.

    Example: regen shards show shards/ --picture shards.png

    Args:
        shards: A folder of shards with an index, or an address such as s3://bucket/shards.
        picture: Draw samples, evenly spaced, into this file.
        json: Let the last line of the output be one JSON object.
    """
    from regen.curate.console import print_overview
    from regen.curate.overview import draw_sheet, overview
    from regen.data.shards import ShardSet

    collection = ShardSet(shards)
    figures = overview(collection)
    if picture is not None:
        draw_sheet(collection, picture)
    if json:
        _print_json(figures)
        return
    print_overview(figures)
    if picture is not None:
        print(f"Some samples are in {picture}.")


def _work(effort: EffortOptions) -> "PoolOptions":
    from regen.curate.workers import PoolOptions

    workers = (os.cpu_count() or 1) if effort.workers is None else effort.workers
    return PoolOptions(workers, effort.time_limit, effort.retry)


def _print_json(content: dict[str, object]) -> None:
    import json

    print(json.dumps(content))
