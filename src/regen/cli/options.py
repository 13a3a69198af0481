"""Options that several commands share, and the objects made of them."""

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
    from regen.embedders.diffusers_adapter import DiffusersAdapter
    from regen.generate.sampling import SampleOptions
    from regen.media.files import Colour
    from regen.pretrained.models import Autoencoder

DEFAULT_PATH = Path()  # stands for `--compare` without a path


def _optional_path() -> PrimitiveConstructorSpec[Path | None]:
    return PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[PATH]",
        instance_from_str=lambda values: Path(values[0]) if values else DEFAULT_PATH,
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


Input = Annotated[Positional[Path], arg(metavar="INPUT")]
Output = Annotated[Path, arg(name="output", aliases=("-o",), metavar="PATH")]
Compare = Annotated[Path | None, _optional_path(), arg(help_behavior_hint="")]
Strict = Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")]
Background = Annotated[str, arg(metavar="COLOUR")]
SizeText = Annotated[str | None, arg(metavar="N|HxW", help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
Device = Name
Threads = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Json = Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")]


# The help shows each line of a field's docstring as a line of its own.
@dataclass(frozen=True)
class ModelOptions:
    """The model, and how it runs."""

    model: str = "regen-small-4x"
    """A name from `regen models`, a folder, or owner/name on the Hugging Face Hub; of diffusers, too."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here."""
    threads: Threads = None
    """CPU threads; by default one for each core."""
    dtype: Name = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""
    memory: Annotated[str | None, arg(metavar="SIZE", help_behavior_hint="")] = None
    """Memory limit, such as 8GB: large frames are processed in tiles that fit. By default what is free."""
    compile: FlagCreatePairsOff[bool] = False
    """Compile the networks: minutes at the start, faster afterwards."""


@dataclass(frozen=True)
class DecodeModelOptions(ModelOptions):
    """The model that made the latents, and how it runs."""

    model: Annotated[str, arg(metavar="NAME", help_behavior_hint="")] = ""
    """A name, a folder, or owner/name on the Hub; by default the one that the latent file names."""


@dataclass(frozen=True)
class DecoderOptions:
    """How the decoder samples."""

    steps: int = 1
    """Denoising steps: 1 is closest to the original; more draw samples instead of means."""
    seed: int = 0
    """The noise of a frame depends on this, the number of its chunk and its time in the chunk."""
    solver: Literal["euler", "heun"] = "euler"
    """heun is of second order and takes about twice as long a step."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How chunks are joined. extend: latent extension, which needs 2 steps or more.
    match: the first frame is moved half way to the last one; smoother, less exact, at any number of steps."""
    batch: int = 1
    """Chunks to decode together where they are independent; faster on a GPU for small frames."""
    noise: Annotated[Literal["normal", "zero"] | None, arg(help_behavior_hint="")] = None
    """Where decoding starts; by default zero with 1 step, which needs no seed, and normal with more."""


@dataclass(frozen=True)
class RateOptions:
    """Number of 1D latents of One-DVA models; by default it follows the motion. Give at most one."""

    num_latents: Annotated[str | None, arg(metavar="N|P%", help_behavior_hint="")] = None
    """The number in every chunk, such as 320, or a share of the maximum, such as 25%."""
    values_per_second: Annotated[float | None, arg(metavar="N", help_behavior_hint="")] = None
    """Values in all latents for each second of video, more for busy chunks. Reads the video twice."""
    target_psnr: Annotated[float | None, arg(metavar="DB", help_behavior_hint="")] = None
    """The fewest with this PSNR in each region. Slow; `encode` assumes decoding in 1 step."""


@dataclass(frozen=True)
class FrameOptions:
    """The frames to decode; by default the encoded ones."""

    fps: Annotated[str | None, arg(metavar="RATE", help_behavior_hint="")] = None
    """A constant frame rate, such as 60 or 30000/1001; frames between the encoded ones are generated."""
    interpolate: Annotated[int, arg(metavar="N")] = 1
    """Output frames for every encoded frame."""
    extrapolate_before: Annotated[int, arg(metavar="N")] = 0
    """Frames to generate before the first one; the sound starts later."""
    extrapolate_after: Annotated[int, arg(metavar="N")] = 0
    """Frames to generate after the last one."""
    every_chunk: FlagCreatePairsOff[bool] = False
    """Extrapolate around every chunk in turn, without sound; to study the model."""


@dataclass(frozen=True)
class SamplingOptions:
    """How the generator samples."""

    steps: Annotated[int, arg(metavar="N")] = 30
    """Denoising steps."""
    guidance_scale: float = 4.0
    """How strongly the videos follow the prompt; 1 disables guidance and takes half the time."""
    guidance_interval: Annotated[tuple[float, float], arg(metavar="LO HI")] = (0.0, 1.0)
    """Noise levels between which guidance acts: 1 is pure noise, 0 the final latents."""
    solver: Literal["euler", "heun"] = "euler"
    """heun is of second order and takes about twice as long a step."""
    seed: int = 0
    """Video i of a prompt depends on this and i alone."""
    batch: Annotated[int, arg(metavar="N")] = 1
    """Videos sampled together; faster on a GPU, with other rounding."""
    decode_steps: Annotated[int, arg(metavar="N")] = 1
    """Denoising steps of the embedder's decoder."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How the decoder joins chunks; extend needs 2 decode steps or more."""


@dataclass(frozen=True)
class GeneratorOptions:
    """The parts of the generator, and how they run."""

    embedder: Name = None
    """The embedder of its latents, if it has moved since the training."""
    text_encoder: Name = None
    """Its text encoder, if it has moved since the training."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here."""
    dtype: Name = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""
    threads: Threads = None
    """CPU threads; by default one for each core."""


def load_model(options: ModelOptions) -> "Autoencoder | DiffusersAdapter":
    """Load the model onto its device, in evaluation mode. Raises ValueError when it can't be loaded."""
    from regen.pretrained.models import load_embedder, silence_logging
    from regen.runtime import pick_device, pick_dtype, set_threads

    silence_logging()
    set_threads(options.threads)
    device = pick_device(options.device)
    model = load_embedder(options.model, device, pick_dtype(options.dtype, device))
    if options.compile:
        import torch._dynamo.config

        from regen.embedders.frozen_encoder import networks_of

        # Lengths and batches of 0, 1 and more, and regions of each shape, are compiled separately.
        torch._dynamo.config.recompile_limit = 64
        for network in networks_of(model):
            for part in network.children():
                part.compile(fullgraph=True)
    return model


def check_strict(strict: bool, skipped: int) -> None:
    """Raise ValueError when files were skipped, if `strict`."""
    if strict and skipped:
        files = "1 file was" if skipped == 1 else f"{skipped} files were"
        raise ValueError(f"{files} skipped, and --strict allows none; see above.")


def parse_colour(text: str) -> "Colour":
    """Parse a colour: a name of CSS such as white, or #rrggbb. Raises ValueError."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ValueError(f"--background must be a colour such as white or #20a0ff, got {text!r}.") from None
    return red, green, blue


def memory_limit(options: ModelOptions) -> int | None:
    """The memory limit in bytes. Raises ValueError when it can't be parsed."""
    from regen.codec.memory import parse_memory

    return None if options.memory is None else parse_memory(options.memory)


def decode_options(options: DecoderOptions) -> "DecodeOptions":
    """The options of a decoding session. Raises ValueError for values out of range."""
    from regen.codec.sessions import DecodeOptions

    return DecodeOptions(**asdict(options))


def samplers(options: SamplingOptions) -> "tuple[SampleOptions, DecodeOptions]":
    """The options of a generator and of its embedder. Raises ValueError for values out of range."""
    from regen.codec.sessions import DecodeOptions
    from regen.generate.sampling import SampleOptions

    generator = (options.steps, options.guidance_scale, options.guidance_interval, options.solver)
    decoding = DecodeOptions(steps=options.decode_steps, seed=options.seed, seams=options.seams)
    return SampleOptions(*generator), decoding


def rate_target(rate: RateOptions, decoding: "DecodeOptions") -> "Lengths | Budget | None":
    """The rate control of the options. Raises ValueError for values out of range, and for two options."""
    from regen.codec.rate_control import Budget, TargetPsnr, parse_length
    from regen.codec.sessions import SOLVERS

    if sum(value is not None for value in asdict(rate).values()) > 1:
        raise ValueError("Give only one of --num-latents, --values-per-second and --target-psnr.")
    if rate.num_latents is not None:
        return parse_length(rate.num_latents)
    if rate.values_per_second is not None:
        return Budget(rate.values_per_second)
    if rate.target_psnr is None:
        return None
    solver = SOLVERS[decoding.solver]
    return TargetPsnr(rate.target_psnr, decoding.steps, decoding.seed, solver, decoding.noise)


def timeline(frames: FrameOptions) -> "Timeline":
    """The output frames of the options. Raises ValueError for values out of range."""
    from regen.codec.timeline import Timeline

    return Timeline(**asdict(frames) | {"fps": None if frames.fps is None else parse_fps(frames.fps)})


def parse_fps(text: str) -> Fraction:
    """Parse a frame rate such as 24 or 24000/1001. Raises ValueError."""
    try:
        return Fraction(text).limit_denominator(100_000)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"A frame rate must be a number such as 24 or 24000/1001, got {text!r}.") from None
