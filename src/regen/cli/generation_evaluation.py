"""The command evaluate-generator: compare generated videos with real ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from regen.cli.evaluation import MetricOptions, extractor_spec
from regen.cli.options import Device, Json, SizeText, Threads
from regen.console import clean_exit, progress_bar, warn

if TYPE_CHECKING:
    from regen.metrics.features import ExtractorSpec

Optional = arg(help_behavior_hint="")


@dataclass(frozen=True)
class SamplingOptions:
    """What is generated."""

    num_videos: int = 256
    """Number of videos to generate, and of real videos to compare with, if there are as many."""
    frames: int = 33
    """Frames of each video; real videos are cut."""
    size: SizeText = None
    """N x N, or height x width; by default the most frequent size in the generator's training. Real videos
    are resized to cover it and cropped at the centre."""
    steps: int = 30
    """Denoising steps of the generator."""
    guidance_scale: float = 4.0
    """How closely to follow the caption or the class; 1 means no guidance, in half of the time."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which guidance acts."""
    solver: Literal["euler", "heun"] = "euler"
    """heun is of second order and takes about twice as long a step."""
    decode_steps: int = 1
    """Denoising steps of the embedder's decoder."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How chunks are joined: extend (acts from 2 steps on), match or none."""
    seed: int = 0
    """The noise of each video follows from this and its index."""
    batch: int = 8
    """Videos that are sampled together; results do not depend on it."""
    embedder: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """The embedder of the generator's latents, if it is not where it was in the training."""
    text_encoder: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """The text encoder, if it is not where it was in the training."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here."""
    threads: Threads = None
    """CPU threads; by default one for each core."""
    dtype: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""


@dataclass(frozen=True)
class DistanceOptions:
    """Fréchet video distance, with a network that you download; by default it is left out."""

    fvd: Annotated[Literal["i3d", "videomae", "random"] | None, Optional] = None
    """Network of the distance; random is for trying it out without a file."""
    fvd_weights: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """For i3d the file i3d_torchscript.pt, for videomae a folder such as a copy of MCG-NJU/videomae-base."""
    fvd_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """SHA-256 of the weights, to check them."""
    fvd_frames: Annotated[tuple[int, ...], arg(metavar="N", help_behavior_hint="")] = ()
    """Frames of the clips that videos are split into: usually 16, or 33; give several to measure each."""


DEFAULT_SAMPLING, DEFAULT_DISTANCE = SamplingOptions(), DistanceOptions()


def evaluate_generator(
    model: Annotated[str, arg(metavar="NAME")],
    data: Annotated[Path, arg(metavar="FOLDER")],
    out: Annotated[Path, arg(metavar="FOLDER")],
    options: Annotated[SamplingOptions, arg(name="")] = DEFAULT_SAMPLING,
    distance: Annotated[DistanceOptions, arg(name="")] = DEFAULT_DISTANCE,
    json: Json = False,
) -> None:
    """Generate videos and compare them with real ones: Fréchet distance and agreement with their prompts.

    Example: regen evaluate-generator --model t2v-world --data world/ --out result/ --num-videos 256

    A text-to-video generator gets the captions (NAME.txt) of the real videos, one for classes each of its
    classes in turn. The same metrics of the real videos as reconstructed by the embedder show the part of its
    decoder. Where captions or classes are those of the shape world (benchmarks/world.py), a program reads
    from the videos whether they show what was asked for.

    The results are in OUT/result.json, the first videos in OUT/videos.png. All videos stay in OUT, so the
    same command resumes after an interruption, or measures another distance.

    Args:
        model: The generator: a name from `regen models`, a folder, or owner/name on the Hugging Face Hub.
        data: Folder of real videos, with captions, searched recursively.
        out: Folder of the videos and the results.
        json: Print the result as one JSON object on the last line.
    """
    from regen.codec.sessions import DecodeOptions
    from regen.evaluate.generators.evaluation import EvaluationConfig, show_evaluation
    from regen.evaluate.generators.evaluation import evaluate_generator as evaluate
    from regen.generate.sampling import SampleOptions
    from regen.media.sizes import parse_size
    from regen.runtime import pick_device, pick_dtype, set_threads

    set_threads(options.threads)
    device = pick_device(options.device)
    config = EvaluationConfig(
        model=model,
        data=data,
        out=out,
        num_videos=options.num_videos,
        frames=options.frames,
        size=None if options.size is None else parse_size(options.size),
        sampling=SampleOptions(
            options.steps, options.guidance_scale, options.guidance_interval, options.solver
        ),
        decoding=DecodeOptions(steps=options.decode_steps, seed=options.seed, seams=options.seams),
        seed=options.seed,
        batch=options.batch,
        extractors=_extractors(distance),
        embedder=options.embedder,
        text_encoder=options.text_encoder,
    )
    with clean_exit(out):
        result = evaluate(config, device, pick_dtype(options.dtype, device), progress_bar, warn)
    show_evaluation(result, out, json)


def _extractors(options: DistanceOptions) -> "tuple[ExtractorSpec, ...]":
    """The network of the distance, for each number of frames."""
    specs = (
        extractor_spec(
            MetricOptions(None, None, None, options.fvd, options.fvd_weights, options.fvd_sha256, frames)
        )
        for frames in dict.fromkeys(options.fvd_frames or (None,))
    )
    return tuple(spec for spec in specs if spec is not None)
