"""The command evaluate-generator: generated videos beside real ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from regen.cli.evaluation import MetricOptions, feature_source
from regen.cli.options import Device, Json, SizeText
from regen.console import clean_exit, progress_bar, warn

if TYPE_CHECKING:
    from regen.metrics.features import ExtractorSpec

Optional = arg(help_behavior_hint="")


@dataclass(frozen=True)
class SamplingOptions:
    """What is generated."""

    num_videos: int = 256
    """How many videos; as many of the real ones are taken, or all where there are fewer."""
    frames: int = 33
    """Of each video; further ones of the real videos are left out."""
    size: SizeText = None
    """N x N, or height x width; by default the most frequent size in the generator's training. The real
    videos are scaled to it and cut at the centre."""
    steps: int = 30
    """Denoising steps of the generator."""
    guidance_scale: float = 4.0
    """How much to follow the caption or the class; 1: no guidance, which takes half of the time."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between which there is guidance."""
    solver: Literal["euler", "heun"] = "euler"
    """heun is of second order and takes about twice as long a step."""
    decode_steps: int = 1
    """Denoising steps of the embedder's decoder."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How chunks are joined: extend (acts from 2 steps on), match or none."""
    seed: int = 0
    """The noise of each video follows from this and its number."""
    batch: int = 8
    """Videos that are sampled together; no result depends on it."""
    embedder: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Where the embedder of the generator's latents is, if it is no longer where it was in the training."""
    text_encoder: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """The same for the text encoder."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here."""
    dtype: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""


@dataclass(frozen=True)
class DistanceOptions:
    """The Fréchet video distance, with a network that you download; without one it is left out."""

    fvd: Annotated[Literal["i3d", "videomae", "random"] | None, Optional] = None
    """Measure it with this network; random is for trying it out without a file."""
    fvd_weights: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """For i3d the file i3d_torchscript.pt, for videomae a folder such as a copy of MCG-NJU/videomae-base."""
    fvd_sha256: Annotated[str | None, arg(metavar="HASH", help_behavior_hint="")] = None
    """SHA-256 of the weights, to be sure that they are the right ones."""
    fvd_frames: Annotated[tuple[int, ...], arg(metavar="N", help_behavior_hint="")] = ()
    """Frames of the clips that videos are cut into: 16 by habit, or 33; give several to measure each."""


DEFAULT_GENERATING, DEFAULT_DISTANCE = SamplingOptions(), DistanceOptions()


def evaluate_generator(
    model: Annotated[str, arg(metavar="NAME")],
    data: Annotated[Path, arg(metavar="FOLDER")],
    out: Annotated[Path, arg(metavar="FOLDER")],
    generating: Annotated[SamplingOptions, arg(name="")] = DEFAULT_GENERATING,
    distance: Annotated[DistanceOptions, arg(name="")] = DEFAULT_DISTANCE,
    json: Json = False,
) -> None:
    """Generate videos and compare them with real ones: their distance, and whether they show what was said.

    Example: regen evaluate-generator --model t2v-world --data world/ --out result/ --videos 256

    A generator that reads texts is told the captions (NAME.txt) of the real videos, one that knows classes
    all of its classes in turn. The same figures for the real videos as the embedder reconstructs them show
    what is its decoder's fault. What was said is read from the videos by a program, where captions or classes
    are those of the world of moving shapes (benchmarks/world.py).

    The results are in OUT/result.json, the first videos in OUT/videos.png. All videos are kept in OUT, so run
    the command again after an interruption and it goes on; also with another network for the distance.

    Args:
        model: The generator: a name from `regen models`, a folder, or owner/name on the Hugging Face Hub.
        data: The folder of real videos, with captions, also in folders inside it.
        out: The folder of the videos and of the results.
        json: Let the last line of the output be the result, as one JSON object.
    """
    from regen.codec.sessions import DecodeOptions
    from regen.evaluate.generators.evaluation import EvaluationConfig
    from regen.evaluate.generators.evaluation import evaluate_generator as evaluate
    from regen.evaluate.generators.table import show_evaluation
    from regen.generate.sampling import SampleOptions
    from regen.media.sizes import parse_size
    from regen.runtime import pick_device, pick_dtype

    wanted, device = generating, pick_device(generating.device)
    evaluation = EvaluationConfig(
        model=model,
        data=data,
        out=out,
        num_videos=wanted.num_videos,
        frames=wanted.frames,
        size=None if wanted.size is None else parse_size(wanted.size),
        sampling=SampleOptions(wanted.steps, wanted.guidance_scale, wanted.guidance_interval, wanted.solver),
        decoding=DecodeOptions(steps=wanted.decode_steps, seed=wanted.seed, seams=wanted.seams),
        seed=wanted.seed,
        batch=wanted.batch,
        extractors=_sources(distance),
        embedder=wanted.embedder,
        text_encoder=wanted.text_encoder,
    )
    with clean_exit(out):
        result = evaluate(evaluation, device, pick_dtype(wanted.dtype, device), progress_bar, warn)
    show_evaluation(result, out, json)


def _sources(distance: DistanceOptions) -> "tuple[ExtractorSpec, ...]":
    """The network of the distance, for each number of frames."""
    sources = (
        feature_source(
            MetricOptions(
                fvd=distance.fvd,
                fvd_weights=distance.fvd_weights,
                fvd_sha256=distance.fvd_sha256,
                fvd_frames=frames,
            )
        )
        for frames in dict.fromkeys(distance.fvd_frames or (None,))
    )
    return tuple(source for source in sources if source is not None)
