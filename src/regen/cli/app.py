"""The command app."""

from typing import Annotated

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from regen.cli.options import Device, Name, Threads


def app(
    models: Annotated[
        UseAppendAction[tuple[str, ...]], arg(name="model", metavar="NAME", help_behavior_hint="")
    ] = (),
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    share: FlagCreatePairsOff[bool] = False,
    max_frames: Annotated[int, arg(metavar="N")] = 300,
    max_side: Annotated[int, arg(metavar="PIXELS")] = 640,
    max_upload: Annotated[str, arg(metavar="SIZE")] = "100MB",
    device: Device = None,
    dtype: Name = None,
    threads: Threads = None,
) -> None:
    """Open a page for the browser: reconstruct, interpolate, generate and compare.

    Example: regen app

    A run and a generator of your own: regen app --model runs/mine --model runs/my-generator

    For a whole network, at a fixed port: regen app --host 0.0.0.0 --port 8080 --max-frames 120

    Needs gradio: pip install 'regen[app]'. The page offers the models of --model, those that are here, and
    the published ones, which are fetched when they are chosen; nothing else can be loaded from it. Uploads
    and results are deleted when the command ends, and old ones before. Without --host and --share only this
    machine can open it.

    Args:
        models: A further model or generator: a folder (also of a run), or owner/name on the Hub. Repeatable.
        host: The address to listen at; 0.0.0.0 is all of this machine, for its whole network.
        port: The port; by default the first free one from 7860.
        share: Also make a public address, by a tunnel of gradio; anyone who knows it can enter.
        max_frames: The longest clip that is taken, or video that is made.
        max_side: The longest side that is computed; larger clips must be shrunk.
        max_upload: The largest file that is taken, such as 50MB.
        device: cpu, cuda, cuda:1 or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
        threads: CPU threads; by default one for each core.
    """
    from regen.app.limits import Limits
    from regen.app.server import Serving, serve
    from regen.pretrained.models import silence_logging

    silence_logging()
    limits = Limits(max_frames, max_side, max_upload)
    serve(models, limits, Serving(host, port, share), device=device, dtype=dtype, threads=threads)
