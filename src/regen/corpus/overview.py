"""What a folder of latents holds, complete or not, for people and as JSON."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

from rich.table import Table

from regen.console import print_table
from regen.corpus.shards import LatentManifest, ShardRows

REASONS = 5  # samples that were left out, as far as they are told of


@dataclass(frozen=True)
class Overview:
    """Figures of a folder of latents; `command` finishes it, where shards are missing.

    `shapes` counts the samples of the most frequent shapes ("chunks x channels x frames x height x width"),
    for One-DVA those of the structural latents. `length` is the mean number of 1D latents of a chunk and
    `length_share` how much that is of what all chunks could have, which is as many as structural ones; None
    for other models.
    """

    folder: str
    model: str
    weights: str
    settings: dict[str, str | int | None]
    shards: int
    missing: int
    samples: int
    images: int
    frames: int
    hours: float
    megabytes: float
    captions: int
    classes: int
    shapes: dict[str, int]
    length: float | None
    length_share: float | None
    left_out: dict[str, str]
    command: str | None


def overview(folder: Path) -> Overview:
    """Read the manifest and the lists of shards that are there. Raises ValueError when one is damaged."""
    manifest = LatentManifest.read(folder)
    missing = manifest.missing(folder)
    names = [shard.name for shard in manifest.shards if shard not in missing]
    parts = [ShardRows.read(folder, name) for name in names]
    rows = [row for part in parts for row in part.samples]
    channels, side = manifest.latent_channels, manifest.spatial_compression_ratio
    grids = [(row.latent_frames, -(-row.height // side), -(-row.width // side)) for row in rows]
    shapes = Counter(
        f"{row.chunks}x{channels}x{n}x{y}x{x}" for row, (n, y, x) in zip(rows, grids, strict=True)
    )
    hybrid = [(row, prod(grid)) for row, grid in zip(rows, grids, strict=True) if row.tokens >= 0]
    tokens, chunks = sum(row.tokens for row, _ in hybrid), sum(row.chunks for row, _ in hybrid)
    return Overview(
        folder=str(folder),
        model=manifest.model,
        weights=manifest.weights,
        settings=manifest.settings,
        shards=len(manifest.shards),
        missing=len(missing),
        samples=len(rows),
        images=sum(row.frames == 1 for row in rows),
        frames=sum(row.frames for row in rows),
        hours=sum(row.frames / row.frame_rate for row in rows if row.frames > 1) / 3600,
        megabytes=sum(part.bytes for part in parts) / 1e6,
        captions=sum(bool(row.caption) for row in rows),
        classes=len({row.label for row in rows} - {-1}),
        shapes=dict(shapes.most_common(3)),
        length=tokens / chunks if hybrid else None,
        length_share=tokens / sum(row.chunks * places for row, places in hybrid) if hybrid else None,
        left_out={key: reason for part in parts for key, reason in part.left_out.items()},
        command=manifest.command(folder) if missing else None,
    )


def show(found: Overview, as_json: bool) -> None:
    """The overview on standard output: a table, or one line of JSON."""
    if as_json:
        print(json.dumps(asdict(found)))
        return
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items() if value is not None)
    shapes = ", ".join(f"{count} of {shape}" for shape, count in found.shapes.items())
    more = found.length is not None and found.length_share is not None
    sequences = (
        f"{found.length:.1f} a chunk, {found.length_share:.0%} of the most there can be" if more else ""
    )
    table = Table("", "", show_header=False, box=None)
    for row in (
        ("model", f"{found.model} (hash {found.weights})"),
        ("settings", settings),
        ("shards", f"{found.shards - found.missing} of {found.shards}"),
        ("samples", f"{found.samples}, of which {found.images} images; {len(found.left_out)} left out"),
        ("frames", f"{found.frames}, {found.hours:.2f} hours of video"),
        ("latents", f"{shapes or 'none'}; {found.megabytes:.1f} MB"),
        *([("1D latents", sequences)] if sequences else []),
        ("captions", f"{found.captions} samples have one; {found.classes} classes"),
    ):
        table.add_row(*row)
    print_table(table)
    for key, reason in list(found.left_out.items())[:REASONS]:
        print(f"left out {key}: {reason}")
    if len(found.left_out) > REASONS:
        print(f"... and {len(found.left_out) - REASONS} more; the rest stands in {found.folder}/*.json.")
    print("complete" if found.command is None else f"not complete; finish it by: {found.command}")
