"""The commands latents export and latents show."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.table import Table
from tyro.conf import Positional, arg

from regen.cli.options import Device, Json, SizeText, Strict, check_strict, parse_fps
from regen.console import clean_exit, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from regen.corpus.export import ExportSettings

LATENTS = """Export the latents of a corpus, or show an export.

Example: regen latents export --data shards/ --out latents/ --size 256"""
MAX_SKIPPED = 5  # skipped samples shown


# The help shows each line of a field's docstring as a line of its own.
@dataclass(frozen=True)
class EmbedOptions:
    """What is embedded and how, the same for all latents of a folder."""

    size: SizeText = None
    """Resize and crop to N x N, or height x width, multiples of 8.
    By default each sample's own size, cropped to multiples of 8."""
    fps: Annotated[str | None, arg(metavar="RATE", help_behavior_hint="")] = None
    """Frame rate, such as 24 or 24000/1001; by default each video's own."""
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """The first N frames of each video; by default all."""
    latent_dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision of the latents."""
    dtype: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Precision of the model: bf16, fp16 or fp32; by default bf16 where the hardware has it."""
    batch: Annotated[int, arg(metavar="N")] = 8
    """Chunks encoded together."""
    tile: SizeText = None
    """Encode in tiles of at most this many pixels, for large frames and little memory."""
    files_per_shard: Annotated[int, arg(metavar="N")] = 64
    """Files in a shard, for a folder of files."""
    num_latents: Annotated[str | None, arg(metavar="N|P%", help_behavior_hint="")] = None
    """1D latents of every chunk (One-DVA): a number, or a share of the maximum such as 25%.
    By default the motion decides."""


def export(
    data: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")],
    out: Annotated[Path, arg(metavar="FOLDER")],
    model: str = "regen-small-4x",
    embed: EmbedOptions = EmbedOptions(),
    device: Device = None,
    processes: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    engine: Literal["local", "ray"] = "local",
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Embed all videos and images of a corpus, for training generators, and decoders (--latents).

    Example: regen latents export --data shards/ --out latents/ --size 256

    Read them by regen.corpus.dataset.LatentDataset. Each shard of the input becomes a safetensors file and a
    list of its samples with captions and classes; a folder of files is split into shards first. Samples that
    can't be read are skipped and listed.

    The same command continues after an interruption. It may run several times at once, on several GPUs or
    machines that share OUT: each shard is made by one of them. The bytes do not depend on their number.

    Args:
        data: Folders of videos and images, or of shards made by `regen shards build`, also at an address such
            as s3://bucket/shards.
        out: The folder of the latents.
        model: A name from `regen models`, a folder, or owner/name on the Hugging Face Hub.
        device: cpu, cuda, cuda:1 or mps; by default the best one here, and with several processes all GPUs.
        processes: Processes to start, by default 1. With ray: how many embed, by default one for each GPU of
            the cluster, or each second core.
        strict: Exit with 1 when a sample was skipped.
        engine: local, or ray: on the Ray cluster of this machine, or one that is started here.
        json: Print one JSON object as the last line of the output.
    """
    from regen.corpus.dataset import summarize
    from regen.corpus.export import ExportRequest, export_latents
    from regen.corpus.ray_engine import connected, default_dtype, export_latents_with_ray
    from regen.runtime import dtype_name, pick_device, pick_dtype

    with clean_exit(out), progress_bar("export") as on_progress:
        if engine == "ray":
            with connected() as cluster:
                target = cluster.device(device)
                settings = _settings(embed, embed.dtype or default_dtype(target))
                request = ExportRequest(model, data, out, settings)
                export_latents_with_ray(request, cluster, target, processes, on_progress)
        else:
            target = pick_device(device)
            settings = _settings(embed, dtype_name(pick_dtype(embed.dtype, target)))
            request = ExportRequest(model, data, out, settings)
            export_latents(request, target, 1 if processes is None else processes, on_progress)
    show(out, json)
    check_strict(strict, len(summarize(out).skipped))


def show(folder: Annotated[Positional[Path], arg(metavar="FOLDER")], json: Json = False) -> None:
    """Summarize a folder of latents, complete or not.

    Example: regen latents show latents/

    Args:
        folder: A folder made by `regen latents export`.
        json: Print one JSON object as the last line of the output.
    """
    from regen.corpus.dataset import summarize

    summary = summarize(folder)
    if json:
        print_json(asdict(summary))
        return
    settings = ", ".join(f"{name} {value}" for name, value in summary.settings.items() if value is not None)
    shapes = ", ".join(f"{count} of {shape}" for shape, count in summary.shapes.items())
    complete = summary.shards - summary.missing_shards
    rows = [
        ("model", f"{summary.model} (hash {summary.weights})"),
        ("settings", settings),
        ("shards", f"{complete} of {summary.shards}"),
        ("samples", f"{summary.samples}, {summary.images} of them images; {len(summary.skipped)} skipped"),
        ("frames", f"{summary.frames}, {summary.hours:.2f} hours of video"),
        ("latents", f"{shapes or 'none'}; {summary.megabytes:.1f} MB"),
    ]
    if summary.mean_sequence_length is not None and summary.sequence_length_fraction is not None:
        mean, fraction = summary.mean_sequence_length, summary.sequence_length_fraction
        rows.append(("1D latents", f"{mean:.1f} per chunk, {fraction:.0%} of the maximum"))
    rows.append(("captions", f"{summary.captions} samples have one; {summary.classes} classes"))
    print_table(Table("", "", show_header=False, box=None), rows)
    for key, reason in list(summary.skipped.items())[:MAX_SKIPPED]:
        print(f"skipped {key}: {reason}")
    if len(summary.skipped) > MAX_SKIPPED:
        print(f"... and {len(summary.skipped) - MAX_SKIPPED} more, listed in {summary.folder}/*.json.")
    print("complete" if summary.command is None else f"not complete; finish it by: {summary.command}")


def _settings(embed: EmbedOptions, dtype: str) -> "ExportSettings":
    from regen.codec.memory import OVERLAP
    from regen.corpus.export import ExportSettings
    from regen.media.pixels import parse_size
    from regen.tiling import Tile

    size, tile = (None if text is None else parse_size(text) for text in (embed.size, embed.tile))
    parsed = {
        "dtype": dtype,
        "size": size,
        "fps": None if embed.fps is None else parse_fps(embed.fps),
        "tile": None if tile is None else Tile(tile.height, tile.width, OVERLAP),
    }
    return ExportSettings(**vars(embed) | parsed)
