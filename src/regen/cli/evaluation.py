"""The command evaluate: many models on one list of clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction, arg

from regen.cli.options import Device, Json
from regen.console import clean_exit, warn

if TYPE_CHECKING:
    import torch

    from regen.evaluate.benchmark.benchmark import Benchmark
    from regen.evaluate.benchmark.measure import MetricConfig
    from regen.evaluate.benchmark.systems import SystemSpec
    from regen.metrics.features import ExtractorSpec

Optional = arg(help_behavior_hint="")


@dataclass(frozen=True)
class MetricOptions:
    """Metrics that need weights of their own, which you download; without them they are left out."""

    lpips_net: Annotated[Literal["alex", "vgg"] | None, Optional] = None
    """Measure LPIPS with this network; alex is usual, and the two can't be compared."""
    lpips_weights: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """torchvision's file of its weights, such as alexnet-owt-7be5be79.pth."""
    lpips_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """The file's SHA-256, if it is not torchvision's."""
    fvd: Annotated[Literal["i3d", "videomae", "random"] | None, Optional] = None
    """Measure the Fréchet video distance with this network; random is for trying it out without a file."""
    fvd_weights: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """For i3d the file i3d_torchscript.pt, for videomae a folder such as a copy of MCG-NJU/videomae-base."""
    fvd_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """SHA-256 of the weights, to be sure that they are the right ones."""
    fvd_frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Frames of the clips that videos are cut into: 16 by habit, or 33."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Under which conditions the clips are measured."""

    size: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="N|HxW", help_behavior_hint="")] = ()
    """Scale and cut out the centre: N x N, or height x width. Repeat it to measure several; by default each
    clip's own size."""
    steps: Annotated[UseAppendAction[tuple[int, ...]], arg(metavar="N", help_behavior_hint="")] = ()
    """Denoising steps, 1 by default. Repeat it to measure several; models without them run once."""
    seed: int = 0
    """The noise of a clip follows from this and the clip's hash."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How chunks are joined: extend (acts from 2 steps on), match or none."""
    max_frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Measure only the first frames of each clip."""
    processes: int = 1
    """Processes to start, each with one thread: as many as cores, or one or more for each GPU."""
    batch: int = 1
    """Chunks to decode together, where no seam ties them; faster on a GPU for small frames."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here, and with several processes all GPUs."""
    dtype: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""


DEFAULT_METRICS, DEFAULT_BENCHMARK = MetricOptions(), BenchmarkOptions()


def evaluate(
    data: Annotated[Path, arg(metavar="FOLDER")],
    report: Annotated[Path, arg(metavar="FOLDER")],
    model: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME", help_behavior_hint="")] = (),
    reconstructions: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="NAME=FOLDER", help_behavior_hint="")
    ] = (),
    options: Annotated[BenchmarkOptions, arg(name="")] = DEFAULT_BENCHMARK,
    metrics: Annotated[MetricOptions, arg(name="")] = DEFAULT_METRICS,
    json: Json = False,
) -> None:
    """Compare models on the clips of a folder: figures for each clip, their means, and a page to look at.

    Example: regen evaluate --model regen-small-4x --model linear-4x --data clips/ --size 256 --report out/

    Open out/index.html for the table, the plots, and all models side by side, the worst clips first. The
    means are in out/summary.json, the clips in out/clips.jsonl.

    The first run freezes the list of clips, with their hashes, and the settings. Run the command again after
    an interruption and it goes on; run it with further models, sizes or steps and they are added. The same
    command may run several times at once, on several GPUs or machines that share the folder: each result is
    computed by one of them. No figure depends on how many there are.

    Args:
        data: The folder of the clips: videos (and images), also in folders inside it.
        report: The folder of the results.
        model: A name from `regen models`, a folder, or owner/name on the Hugging Face Hub, also of a video
            autoencoder of diffusers; NAME=FOLDER gives a folder another name. Repeat it to compare. A One-DVA
            model finds its length by itself; NAME@25% keeps that share of its 1D latents, NAME@320 so many
            in every chunk, and NAME@30dB as few as give this PSNR.
        reconstructions: What another program made of the same clips: a name for it, and a folder with a file
            of each clip's name, of the size measured and with as many frames. Repeat it for several.
        json: Let the last line of the output be the summary, as one JSON list.
    """
    from regen.evaluate.benchmark.systems import SystemSpec
    from regen.evaluate.benchmark.table import result_bar, show_summary
    from regen.evaluate.benchmark.workers import run_benchmark as evaluate_contest
    from regen.runtime import pick_device

    target = pick_device(options.device)
    entries = [SystemSpec.parse(name) for name in model]
    entries += [SystemSpec(*_named_folder(text)) for text in reconstructions]
    contest = _contest(entries, data, report, options, metrics, target)
    with clean_exit(report), result_bar() as on_result:
        summary = evaluate_contest(contest, target, options.processes, on_result, warn)
    show_summary(summary, report, json)


def _contest(
    entries: "list[SystemSpec]",
    data: Path,
    report: Path,
    conditions: BenchmarkOptions,
    weighted: MetricOptions,
    device: "torch.device",
) -> "Benchmark":
    from regen.evaluate.benchmark.benchmark import Benchmark
    from regen.media.sizes import parse_size
    from regen.runtime import dtype_name, pick_dtype

    return Benchmark(
        systems=tuple(entries),
        data=data,
        report=report,
        dtype=dtype_name(pick_dtype(conditions.dtype, device)),
        sizes=tuple(dict.fromkeys(map(parse_size, conditions.size))) or (None,),
        steps=tuple(dict.fromkeys(conditions.steps)) or (1,),
        seed=conditions.seed,
        seams=conditions.seams,
        batch=conditions.batch,
        max_frames=conditions.max_frames,
        metrics=_measures(weighted),
    )


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ValueError(f"{text!r} names no reconstructions; give --reconstructions NAME=FOLDER.")
    return name, Path(folder)


def _measures(weighted: MetricOptions) -> "MetricConfig":
    from regen.evaluate.benchmark.measure import MetricConfig

    lpips = weighted.lpips_net, weighted.lpips_weights, weighted.lpips_sha256
    return MetricConfig(*lpips, feature_source(weighted))


def feature_source(weighted: MetricOptions) -> "ExtractorSpec | None":
    """Which features the Fréchet video distance is to be measured with."""
    from regen.metrics.features import I3D_SHA256, I3d, RandomConvolutions, VideoMae

    path, sha256, frames = weighted.fvd_weights, weighted.fvd_sha256, weighted.fvd_frames
    match weighted.fvd:
        case "random" if (path, sha256) == (None, None):
            return RandomConvolutions(frames=16 if frames is None else frames)
        case "random":
            raise ValueError("The random network has no file; leave --fvd-weights and --fvd-sha256 away.")
        case "i3d" if path is not None:
            return I3d(path, sha256 or I3D_SHA256, 16 if frames is None else frames)
        case "videomae" if path is not None and frames is None:
            return VideoMae(path, sha256)
        case "videomae" if path is not None:
            raise ValueError("VideoMAE takes clips of its own length; leave --fvd-frames away.")
        case None if (path, sha256, frames) == (None, None, None):
            return None
        case None:
            raise ValueError("These options need a network for the distance; give --fvd i3d or videomae.")
    raise ValueError(f"The network {weighted.fvd} needs its weights; give their path with --fvd-weights.")
