"""The command latents: export those of a corpus, and show what a folder of them holds."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from regen.cli.options import Device, Json, SizeText
from regen.console import clean_exit, progress_bar

if TYPE_CHECKING:
    from regen.corpus.plan import ExportSettings

LATENTS = """The latents of a corpus, computed once: export, show.

Example: regen latents export --data shards/ --out latents/ --size 256"""


@dataclass(frozen=True)
class Form:
    """What of the videos is embedded, and how: the same for all latents of a folder."""

    size: SizeText = None
    """Scale and cut out the centre: N x N, or height x width, multiples of 8; by default each sample's own
    size, cut down at the centre to multiples of 8."""
    fps: Annotated[str | None, arg(metavar="RATE", help_behavior_hint="")] = None
    """Frames a second, such as 24 or 24000/1001, left out or repeated; by default each video's own."""
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """The first N frames of each video; by default all."""
    store: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision of the latents."""
    dtype: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Precision of the model: bf16, fp16 or fp32; by default bf16 where the hardware has it."""
    batch: Annotated[int, arg(metavar="N")] = 8
    """Chunks that go through the model together."""
    tile: SizeText = None
    """Work on tiles of at most this many pixels, for large pictures and little memory."""
    group: Annotated[int, arg(metavar="N")] = 64
    """Files in a shard, where the input is a folder of files."""
    length: Annotated[str | None, arg(metavar="N|P%", help_behavior_hint="")] = None
    """How many 1D latents every chunk keeps, by a model that has such (One-DVA): N, or a share of those that
    it can have, such as 25%; by default what its motion asks for."""


DEFAULT_FORM = Form()


def latents_commands() -> SubcommandApp:
    """The commands below `regen latents`."""
    app = SubcommandApp()
    app.command(export)
    app.command(show)
    return app


def export(
    data: Annotated[tuple[str, ...], arg(metavar="PATH [PATH ...]")],
    out: Annotated[Path, arg(metavar="FOLDER")],
    model: str = "regen-small-4x",
    form: Annotated[Form, arg(name="")] = DEFAULT_FORM,
    device: Device = None,
    processes: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    engine: Literal["local", "ray"] = "local",
    json: Json = False,
) -> None:
    """Embed all videos and images of a corpus, for generators that are trained on the latents.

    Example: regen latents export --data shards/ --out latents/ --size 256

    Read them by regen.corpus.dataset.LatentDataset. Each shard of the input becomes a safetensors file
    and a list of its samples with captions and classes; a folder of files is cut into shards first. Samples
    that can't be read are left out and named in the list.

    Run the command again after an interruption and it does what is missing. The same command may run several
    times at once, on several GPUs or machines that share OUT: each shard is made by one of them. The bytes do
    not depend on how many there are.

    Args:
        data: Folders of videos and images, or of shards made by `regen shards build`, also at an address such
            as s3://bucket/shards.
        out: The folder of the latents.
        model: A name from `regen models`, a folder, or owner/name on the Hugging Face Hub.
        device: cpu, cuda, cuda:1 or mps; by default the best one here, and with several processes all GPUs.
        processes: Processes to start, by default 1: as many as GPUs, or as cores where there is none. With
            ray: how many embed, by default one for each GPU of the cluster, or each second core.
        engine: local, or ray: on the Ray cluster that this machine belongs to, or one that is started here.
        json: Let the last line of the output be one JSON object.
    """
    from regen.corpus import overview
    from regen.corpus.export import export_latents
    from regen.corpus.plan import Export
    from regen.corpus.ray_engine import connected, default_dtype, export_latents_with_ray
    from regen.runtime import dtype_name, pick_device, pick_dtype

    with clean_exit(out), progress_bar("export") as on_progress:
        if engine == "ray":
            with connected() as cluster:
                target = cluster.device(device)
                asked = Export(model, data, out, _settings(form, form.dtype or default_dtype(target)))
                export_latents_with_ray(asked, cluster, target, processes, on_progress)
        else:
            target = pick_device(device)
            asked = Export(model, data, out, _settings(form, dtype_name(pick_dtype(form.dtype, target))))
            export_latents(asked, target, 1 if processes is None else processes, on_progress)
    overview.show(overview.overview(out), json)


def show(folder: Annotated[Positional[Path], arg(metavar="FOLDER")], json: Json = False) -> None:
    """Tell what a folder of latents holds, and whether it is complete.

    Example: regen latents show latents/

    Args:
        folder: A folder made by `regen latents export`.
        json: Let the last line of the output be one JSON object.
    """
    from regen.corpus import overview

    overview.show(overview.overview(folder), json)


def _settings(form: Form, dtype: str) -> "ExportSettings":
    from regen.codec.memory import OVERLAP
    from regen.corpus.plan import ExportSettings
    from regen.media.sizes import parse_size
    from regen.tiling import Tile

    try:
        fps = None if form.fps is None else Fraction(form.fps).limit_denominator(100_000)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"{form.fps!r} is no frame rate; give a number or a fraction, such as 24 or 24000/1001."
        ) from None
    size, tile = (None if text is None else parse_size(text) for text in (form.size, form.tile))
    return ExportSettings(
        dtype=dtype,
        size=size,
        fps=fps,
        frames=form.frames,
        store=form.store,
        batch=form.batch,
        tile=None if tile is None else Tile(tile.height, tile.width, OVERLAP),
        group=form.group,
        length=form.length,
    )
