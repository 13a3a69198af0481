"""The command evaluate: compare models on a list of clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction, arg

from regen.cli.options import Device, Json
from regen.console import clean_exit, progress_bar, warn

if TYPE_CHECKING:
    from regen.metrics.features import ExtractorSpec

Optional = arg(help_behavior_hint="")


@dataclass(frozen=True)
class MetricOptions:
    """Metrics that need weights, which you download; by default they are left out."""

    lpips_net: Annotated[Literal["alex", "vgg"] | None, Optional] = None
    """Network of LPIPS, usually alex; the two can't be compared."""
    lpips_weights: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """torchvision's weight file, such as alexnet-owt-7be5be79.pth."""
    lpips_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """SHA-256 of the file, if it is not torchvision's."""
    fvd: Annotated[Literal["i3d", "videomae", "random"] | None, Optional] = None
    """Network of the Fréchet video distance; random is for trying it out without a file."""
    fvd_weights: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """For i3d the file i3d_torchscript.pt, for videomae a folder such as a copy of MCG-NJU/videomae-base."""
    fvd_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """SHA-256 of the weights, to check them."""
    fvd_frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Frames of the clips that videos are split into: usually 16, or 33."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """How the clips are measured."""

    size: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="N|HxW", help_behavior_hint="")] = ()
    """Resize and crop the centre: N x N, or height x width. Repeat it for several sizes; by default each
    clip has its own."""
    steps: Annotated[UseAppendAction[tuple[int, ...]], arg(metavar="N", help_behavior_hint="")] = ()
    """Denoising steps, 1 by default. Repeat it for several numbers; models without steps run once."""
    seed: int = 0
    """The noise of a clip follows from this and the clip's hash."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How chunks are joined: extend (acts from 2 steps on), match or none."""
    max_frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Measure only the first frames of each clip."""
    processes: int = 1
    """Processes to start, each with one thread: as many as cores, or one or more for each GPU."""
    batch: int = 1
    """Chunks to decode together where seams allow it; faster on a GPU for small frames."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here, with several processes all GPUs."""
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
    """Compare models on a folder of clips: metrics of each clip, their means, and a page to look at.

    Example: regen evaluate --model regen-small-4x --model linear-4x --data clips/ --size 256 --report out/

    Open out/index.html for the table, the plots, and all models side by side, the worst clips first. The
    means are in out/summary.json, the clips in out/clips.jsonl.

    The first run freezes the list of clips, with their hashes, and the settings. The same command resumes
    after an interruption; with other models, sizes or steps it adds them. It may run several times at once,
    on several GPUs or machines that share the folder: each result is computed once, and no result depends on
    the number of processes.

    Args:
        data: Folder of videos and images, searched recursively.
        report: Folder of the results.
        model: A name from `regen models`, a folder, or owner/name on the Hugging Face Hub, also of a video
            autoencoder of diffusers; NAME=FOLDER renames a folder. Repeat it to compare. A One-DVA model
            chooses its lengths itself; NAME@25% keeps that fraction of its 1D latents, NAME@320 that number
            per chunk, NAME@30dB the fewest that reach this PSNR.
        reconstructions: Reconstructions by another program: a name, and a folder with one file for each clip,
            of the same name, frames and measured size. Repeat it for several.
        json: Print the summary as one JSON list on the last line.
    """
    from regen.evaluate.benchmark.benchmark import Benchmark, run_benchmark
    from regen.evaluate.benchmark.measure import MetricConfig
    from regen.evaluate.benchmark.summary import show_summary
    from regen.evaluate.benchmark.systems import SystemSpec
    from regen.media.sizes import parse_size
    from regen.runtime import dtype_name, pick_device, pick_dtype

    device = pick_device(options.device)
    specs = [SystemSpec.parse(name) for name in model]
    specs += [SystemSpec(*_named_folder(text)) for text in reconstructions]
    lpips = metrics.lpips_net, metrics.lpips_weights, metrics.lpips_sha256
    benchmark = Benchmark(
        systems=tuple(specs),
        data=data,
        report=report,
        dtype=dtype_name(pick_dtype(options.dtype, device)),
        sizes=tuple(dict.fromkeys(map(parse_size, options.size))) or (None,),
        steps=tuple(dict.fromkeys(options.steps)) or (1,),
        seed=options.seed,
        seams=options.seams,
        batch=options.batch,
        max_frames=options.max_frames,
        metrics=MetricConfig(*lpips, extractor_spec(metrics)),
    )
    with clean_exit(report), progress_bar("evaluate") as on_job:
        summary = run_benchmark(benchmark, device, options.processes, on_job, warn)
    show_summary(summary, report, json)


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ValueError(f"--reconstructions must be NAME=FOLDER, got {text!r}.")
    return name, Path(folder)


def extractor_spec(options: MetricOptions) -> "ExtractorSpec | None":
    """The feature extractor of the Fréchet video distance."""
    from regen.metrics.features import I3D_SHA256, I3d, RandomConvolutions, VideoMae

    path, sha256, frames = options.fvd_weights, options.fvd_sha256, options.fvd_frames
    match options.fvd:
        case "random" if (path, sha256) == (None, None):
            return RandomConvolutions(frames=16 if frames is None else frames)
        case "random":
            raise ValueError("--fvd random has no file; omit --fvd-weights and --fvd-sha256.")
        case "i3d" if path is not None:
            return I3d(path, sha256 or I3D_SHA256, 16 if frames is None else frames)
        case "videomae" if path is not None and frames is None:
            return VideoMae(path, sha256)
        case "videomae" if path is not None:
            raise ValueError("--fvd videomae sets the frames itself; omit --fvd-frames.")
        case None if (path, sha256, frames) == (None, None, None):
            return None
        case None:
            raise ValueError("--fvd-weights, --fvd-sha256 and --fvd-frames need --fvd i3d or videomae.")
    raise ValueError(f"--fvd {options.fvd} needs --fvd-weights.")
