"""What several commands have in common: their arguments and options, loading the model, warnings."""

from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

if TYPE_CHECKING:
    from regen.codec.rate_control import Budget, Lengths
    from regen.codec.sessions import DecodeOptions
    from regen.codec.timeline import Timeline
    from regen.pretrained import Autoencoder

SOME_PATH = Path()  # what `--compare` alone stands for
Device = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it runs."""

    model: str = "regen-small-4x"
    """A name from `regen models`, a folder, or owner/name on the Hugging Face Hub."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here."""
    dtype: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""
    memory: Annotated[str | None, arg(metavar="SIZE", help_behavior_hint="")] = None
    """Memory to stay within, such as 8GB: work on tiles of the picture that fit; by default what is free."""
    compile: FlagCreatePairsOff[bool] = False
    """Compile the networks first: takes minutes once, then they are faster."""


@dataclass(frozen=True)
class DecoderOptions:
    """How the decoder samples."""

    steps: int = 1
    """Denoising steps: 1 is closest to the original; more draw samples, not means."""
    seed: int = 0
    """The noise of each chunk follows from this and the chunk's number."""
    solver: Literal["euler", "heun"] = "euler"
    """heun is of second order and takes about twice as long a step."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How chunks are joined: latent extension (acts from 2 steps on), the first frame moved half way towards
    the last one (acts at 1 step too; smoother, less exact), or not at all."""
    batch: int = 1
    """Chunks to decode together, where no seam ties them; faster on a GPU for small frames."""


@dataclass(frozen=True)
class RateOptions:
    """How many 1D latents are kept, by a model that has such (One-DVA); by default what the motion asks for.
    One of these at most."""

    num_latents: Annotated[str | None, arg(metavar="N|P%", help_behavior_hint="")] = None
    """N for every chunk, or a share of those that it can have: 320, 25%."""
    values_per_second: Annotated[float | None, arg(metavar="VALUES", help_behavior_hint="")] = None
    """Numbers in the latents for each second of the video, more for busy chunks; the video is read twice."""
    target_psnr: Annotated[float | None, arg(metavar="DB", help_behavior_hint="")] = None
    """As few as give this PSNR, region by region; decodes about ten times for it. `encode` aims at decoding
    in one step with seed 0."""


@dataclass(frozen=True)
class FrameOptions:
    """Which frames to decode; by default those that were encoded."""

    fps: Annotated[str | None, arg(metavar="RATE", help_behavior_hint="")] = None
    """A constant frame rate, such as 60 or 30000/1001, with frames generated between the encoded ones."""
    interpolate: Annotated[int, arg(metavar="N")] = 1
    """N frames for every encoded one."""
    extrapolate_before: Annotated[int, arg(metavar="N")] = 0
    """Generate N frames before the first one; the sound starts later."""
    extrapolate_after: Annotated[int, arg(metavar="N")] = 0
    """Generate N frames after the last one."""
    every_chunk: FlagCreatePairsOff[bool] = False
    """Extrapolate around every chunk in turn, without sound; to study the model."""


def _path_or_nothing() -> PrimitiveConstructorSpec[Path | None]:
    return PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[PATH]",
        instance_from_str=lambda values: Path(values[0]) if values else SOME_PATH,
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


Input = Annotated[Positional[Path], arg(metavar="INPUT")]
Output = Annotated[Path, arg(name="output", aliases=("-o",), metavar="PATH")]
SizeText = Annotated[str | None, arg(metavar="N|HxW", help_behavior_hint="")]
Model = Annotated[ModelOptions, arg(name="")]
Sampling = Annotated[DecoderOptions, arg(name="")]
Which = Annotated[FrameOptions, arg(name="")]
HowMany = Annotated[RateOptions, arg(name="")]
Json = Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")]
Compare = Annotated[Path | None, _path_or_nothing(), arg(help_behavior_hint="")]

DEFAULT_USING = ModelOptions()
DEFAULT_DECODING = DecoderOptions()
DEFAULT_FRAMES = FrameOptions()
DEFAULT_AMOUNT = RateOptions()


def load_model(using: ModelOptions) -> "Autoencoder":
    """The model to use, in evaluation mode on its device; raises ValueError when there is none."""
    from regen.pretrained import load, silence_logging
    from regen.runtime import pick_device, pick_dtype

    silence_logging()
    device = pick_device(using.device)
    model = load(using.model, device, pick_dtype(using.dtype, device))
    if using.compile:
        import torch._dynamo.config

        # Lengths and batches of 0, of 1 and of more, and regions of each shape, are compiled apart.
        torch._dynamo.config.recompile_limit = 64
        for network in model.children():
            network.compile(fullgraph=True)
    return model


def memory_budget(using: ModelOptions) -> int | None:
    """Bytes to stay within; raises ValueError for what is no amount of memory."""
    from regen.codec.memory import parse_memory

    return None if using.memory is None else parse_memory(using.memory)


def decode_options(sampling: DecoderOptions) -> "DecodeOptions":
    """What a decoding session needs to know; raises ValueError for impossible values."""
    from regen.codec.sessions import DecodeOptions

    return DecodeOptions(**asdict(sampling))


def rate_target(amount: RateOptions, options: "DecodeOptions") -> "Lengths | Budget | None":
    """How many 1D latents to keep; raises ValueError for impossible values, and for two of them at once."""
    from regen.codec.rate_control import Budget, TargetPsnr, parse_length
    from regen.codec.sessions import SOLVERS

    if sum(value is not None for value in asdict(amount).values()) > 1:
        raise ValueError("Give only one of --num-latents, --values-per-second and --target-psnr.")
    if amount.num_latents is not None:
        return parse_length(amount.num_latents)
    if amount.values_per_second is not None:
        return Budget(amount.values_per_second)
    if amount.target_psnr is None:
        return None
    return TargetPsnr(amount.target_psnr, options.steps, options.seed, SOLVERS[options.solver])


def timeline(frames: FrameOptions) -> "Timeline":
    """Which frames to decode; raises ValueError for impossible rates and values that exclude each other."""
    from regen.codec.timeline import Timeline

    try:
        rate = None if frames.fps is None else Fraction(frames.fps).limit_denominator(100_000)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"{frames.fps!r} is no frame rate; give a number or a fraction, such as 60 or 24000/1001."
        ) from None
    return Timeline(
        fps=rate,
        interpolate=frames.interpolate,
        extrapolate_before=frames.extrapolate_before,
        extrapolate_after=frames.extrapolate_after,
        every_chunk=frames.every_chunk,
    )
