"""Command `regen shards`: build, index, show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional, arg

from regen.cli.options import Json, Strict, check_strict
from regen.console import clean_exit, print_json, print_table, progress_bar
from regen.curate.options import Filters, PoolOptions

MAX_NAMED = 5  # skipped samples that are listed
UNREADABLE = ("damaged", "slow", "killed", "sidecar", "unwritten")  # reasons that are of the file
MAX_SIZES = 12  # picture sizes that are listed
SHARDS = """Many videos and images in few tar files, for training: build, index, show.

Example: regen shards build clips/ --out shards/"""


@dataclass(frozen=True)
class ShardOptions:
    """How samples are stored."""

    short_side: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Re-encode, the short side at most N pixels, hardly visible losses, without sound; for fast training.
    By default the files themselves are stored."""
    keyframe_interval: Annotated[int, arg(metavar="N")] = 16
    """Frames between key frames of what is re-encoded; with more key frames clips are read faster."""
    max_shard_size: Annotated[str, arg(metavar="SIZE")] = "512MB"
    """Maximum size of a shard."""
    max_samples: Annotated[int, arg(metavar="N")] = 0
    """Maximum number of samples in a shard; 0: no limit."""


Pool = FlagCreatePairsOff[Annotated[PoolOptions, arg(name="")]]
Shards = Annotated[Positional[str], arg(metavar="SHARDS")]
DEFAULT_OPTIONS, DEFAULT_POOL, DEFAULT_FILTERS = ShardOptions(), PoolOptions(), Filters()


def build(
    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR ...]")],
    out: Annotated[Path, arg(metavar="SHARDS")],
    options: Annotated[ShardOptions, arg(name="")] = DEFAULT_OPTIONS,
    classes_from_folders: FlagCreatePairsOff[bool] = False,
    filters: Annotated[Filters, arg(name="")] = DEFAULT_FILTERS,
    pool: Pool = DEFAULT_POOL,
    strict: Strict = False,
    fresh: FlagCreatePairsOff[bool] = False,
    json: Json = False,
) -> None:
    """Make shards from folders of videos and images, and a report of what was left out and why.

    Example: regen shards build clips/ --out shards/ --cuts split --short-side 256

    Then train with --data shards/. NAME.mp4 may come with its caption, NAME.txt, its class, NAME.cls, a whole
    number, or NAME.json with "caption" and "class".

    After an interruption the same command goes on. Run it again when there are more files.

    Args:
        folders: Folders of videos and images, also in folders inside them.
        out: The folder of the shards.
        classes_from_folders: The class is the folder that a file lies in; the names are numbered in
            SHARDS/classes.json.
        strict: Exit with 1 when a file could not be read.
        fresh: Begin anew, also with other options: first remove what an earlier build has left in SHARDS.
        json: Print one JSON object as the last line of the output.
    """
    from regen.codec.memory import parse_memory
    from regen.curate.build import Build
    from regen.curate.build import build as build_shards
    from regen.curate.writing import Packing

    max_bytes = parse_memory(options.max_shard_size)
    packing = Packing(options.short_side, options.keyframe_interval, max_bytes, options.max_samples)
    with clean_exit(out), progress_bar("") as on_progress:
        spec = Build(folders, out, filters, packing, classes_from_folders)
        result = build_shards(spec, pool, on_progress, fresh)
    figures = result.as_json()
    if json:
        print_json(figures | {"report": str(result.page)})
    else:
        _print_left_out(
            [
                (str(drop.source.path), drop.rejection.text)
                for drop in result.dropped
                if drop.rejection.reason in UNREADABLE
            ]
        )
        _print_build(figures, result.page)
    check_strict(strict, sum(figures["reasons"].get(reason, 0) for reason in UNREADABLE))


def _print_left_out(skipped: Sequence[tuple[str, str]]) -> None:
    for name, reason in skipped[:MAX_NAMED]:
        print(f"left out: {name}: {reason}")
    if len(skipped) > MAX_NAMED:
        print(f"and {len(skipped) - MAX_NAMED:,} more")


def _print_build(figures: dict[str, Any], page: Path) -> None:
    from regen.curate.selection import REASONS

    size, count = _megabytes(figures["bytes"]), _count(figures["shards"], "shard")
    rows = [("files", f"{figures['files']:,}")]
    rows += [(f"dropped: {REASONS[reason]}", f"{number:,}") for reason, number in figures["reasons"].items()]
    rows.append(("samples", f"{figures['samples']:,}: {figures['hours']:.2f} hours, {size}, {count}"))
    _print_rows(rows)
    if "cuts" in figures["reasons"]:
        print("To keep the shots of videos with cuts, build with --cuts split --fresh.")
    print(f"Pictures of what was dropped and why are in {page}.")


def index(
    shards: Shards,
    pool: Pool = DEFAULT_POOL,
    index_dir: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Make the index of shards from elsewhere, in WebDataset's format.

    Example: regen shards index shards/

    A sample is a video or an image in a tar file; its caption (.txt), class (.cls) or both as JSON have the
    same name. What can't be read is left out and listed.

    Args:
        shards: A folder of .tar files, or an address such as s3://bucket/shards.
        index_dir: Folder for the index of shards that can't be written to; then give it as --data.
        strict: Exit with 1 when something was left out.
        json: Print one JSON object as the last line of the output.
    """
    from regen.curate.indexing import make_index

    with progress_bar("") as on_progress:
        result = make_index(shards, pool, on_progress, index_dir)
    if json:
        print_json({"shards": result.shards, "samples": result.samples, "left_out": result.skipped})
    else:
        _print_left_out(result.skipped)
        samples, count = _count(result.samples, "sample"), _count(result.shards, "shard")
        print(f"The index of {shards} has {samples} in {count}.")
    check_strict(strict, len(result.skipped))


def show(
    shards: Shards,
    picture: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
    json: Json = False,
) -> None:
    """Show what is in shards, and draw a picture of some samples.

    Example: regen shards show shards/ --picture shards.png

    Args:
        shards: A folder of shards with an index, or an address such as s3://bucket/shards.
        picture: Draw samples, evenly spaced, into this file.
        json: Print one JSON object as the last line of the output.
    """
    from regen.curate.indexing import draw_sheet, overview
    from regen.data.shards import ShardSet

    shard_set = ShardSet(shards)
    figures = overview(shard_set)
    if picture is not None:
        draw_sheet(shard_set, picture)
    if json:
        print_json(figures)
        return
    _print_overview(figures)
    if picture is not None:
        print(f"Some samples are in {picture}.")


def _print_overview(figures: dict[str, Any]) -> None:
    rows = [
        ("samples", f"{figures['samples']:,}, in {_count(figures['shards'], 'shard')}"),
        ("size", _megabytes(figures["bytes"])),
    ]
    if figures["videos"]:
        low, middle, high = figures["seconds"]
        span = f"{low:.1f} to {high:.1f} s, half of them below {middle:.1f} s"
        rows.append(("videos", f"{figures['videos']:,}: {figures['hours']:.2f} hours; {span}"))
    if figures["images"]:
        rows.append(("images", f"{figures['images']:,}"))
    rows.append(("captions", f"{figures['captions']:,}"))
    rows.append(("classes", f"{figures['classes']:,}, of {figures['labelled']:,} samples"))
    largest = max(count for *_, count in figures["sizes"])
    for width, height, count in figures["sizes"][:MAX_SIZES]:
        bar = "█" * -(-30 * count // largest)
        rows.append((f"{width} x {height}", f"{count:,}".rjust(len(f"{largest:,}")) + f" {bar}"))
    rest = sum(count for *_, count in figures["sizes"][MAX_SIZES:])
    if rest:
        rows.append(("other sizes", f"{rest:,}"))
    _print_rows(rows)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    print_table(Table("", "", show_header=False, box=None), rows)
