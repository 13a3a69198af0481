"""The command generate: videos from a prompt or a class."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import UseAppendAction, arg

from regen.cli.options import Device, Json, Output, SizeText, Threads
from regen.console import progress_bar, warn

if TYPE_CHECKING:
    from regen.generate.run import GenerationReport, VideoRequest

Texts = UseAppendAction[tuple[str, ...]]
Name = arg(metavar="NAME", help_behavior_hint="")
File = arg(metavar="FILE", help_behavior_hint="")


@dataclass(frozen=True)
class Told:
    """What the videos show. A generator reads prompts or knows classes; `regen models` tells which."""

    prompt: Annotated[Texts, arg(metavar="TEXT", help_behavior_hint="")] = ()
    """A sentence such as "a red circle moves to the left". Repeat it for videos of several."""
    class_name: Annotated[Texts, arg(name="class", metavar="NAME", help_behavior_hint="")] = ()
    """The name of a class; a wrong one is answered with the nearest. Repeat it for several."""
    negative_prompt: Annotated[Texts, arg(metavar="TEXT", help_behavior_hint="")] = ()
    """What the videos shall not show: guidance leads away from it. Once for all, or once for each prompt."""
    image: Annotated[Path | None, File] = None
    """An image that becomes the first frame, scaled to cover it and cut at the centre."""
    continues: Annotated[Path | None, arg(name="continue", metavar="FILE", help_behavior_hint="")] = None
    """A video to go on with, from its last frames on; only the new frames are written."""


@dataclass(frozen=True)
class Form:
    """How many videos, how long and how large."""

    n: Annotated[int, arg(metavar="N")] = 1
    """Videos of each prompt, in OUT-1.mp4, OUT-2.mp4 and so on."""
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Frames of a video; by default one chunk, as many as the embedder takes at a time. 1 is an image. More
    than the training had in a row are made in parts that go on from each other."""
    size: SizeText = None
    """Height x width in pixels, such as 48x80; by default the most frequent size of the training."""
    length: Annotated[str | None, arg(metavar="N|P%", help_behavior_hint="")] = None
    """1D latents of every chunk, where the embedder has such (One-DVA): a number, or a share such as 50%; by
    default drawn as often as in training."""
    grid: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Also write a PNG of all: for each video a row of 5 frames, and its prompt."""


@dataclass(frozen=True)
class Steering:
    """How the generator samples."""

    steps: Annotated[int, arg(metavar="N")] = 30
    """Denoising steps: more follow the path of the latents more exactly, and take longer."""
    guidance: float = 4.0
    """How strongly the videos follow the prompt; 1 means no guidance, and takes half of the time."""
    guidance_interval: Annotated[tuple[float, float], arg(metavar="LO HI")] = (0.0, 1.0)
    """Noise levels between which there is guidance: 1 is noise, 0 the finished latents."""
    solver: Literal["euler", "heun"] = "euler"
    """heun is of second order and takes about twice as long a step."""
    seed: int = 0
    """Video i of a prompt follows from this and i, whatever is made beside it."""
    batch: Annotated[int, arg(metavar="N")] = 1
    """Videos to make at once; faster on a GPU, and other by rounding."""
    decode_steps: Annotated[int, arg(metavar="N")] = 1
    """Denoising steps of the embedder's decoder."""
    seams: Literal["extend", "match", "none"] = "extend"
    """How the decoder joins chunks: extend (acts from 2 decode steps on), match or none."""


@dataclass(frozen=True)
class Machine:
    """Which generator, and where it runs."""

    model: str = "t2v-world"
    """A generator's name from `regen models`, a folder (of a training run as well), or owner/name on the
    Hub."""
    embedder: Annotated[str | None, Name] = None
    """The embedder of its latents, when it is not where it was in the training."""
    text_encoder: Annotated[str | None, Name] = None
    """Its text encoder, when it is not where it was in the training."""
    device: Device = None
    """cpu, cuda, cuda:1 or mps; by default the best one here."""
    threads: Threads = None
    """CPU threads; by default one for each core."""
    dtype: Annotated[str | None, Name] = None
    """bf16, fp16 or fp32; by default bf16 where the hardware has it."""


def generate(
    output: Output,
    told: Annotated[Told, arg(name="")] = Told(),
    form: Annotated[Form, arg(name="")] = Form(),
    steering: Annotated[Steering, arg(name="")] = Steering(),
    machine: Annotated[Machine, arg(name="")] = Machine(),
    json: Json = False,
) -> None:
    """Generate videos from a prompt or a class.

    Example: regen generate --prompt "a red circle moves to the left" -o out.mp4

    Four, and a picture of all: regen generate --prompt "a green square" --n 4 --grid all.png -o out.mp4

    Long, and of another size: regen generate --prompt "a green square" --frames 36 --size 64x96 -o out.mp4

    From an image: regen generate --prompt "a cross moves up" --image first.png -o out.mp4

    On from a video: regen generate --prompt "a cross moves up" --continue out.mp4 -o more.mp4

    An image alone: regen generate --prompt "a yellow triangle" --frames 1 -o out.png

    Of a class, by a model of yours: regen generate --model runs/mine --class "circle moving left" -o out.mp4

    Args:
        output: The video (.mp4, .m4v, .mov, .mkv), or for one frame an image (.png, .jpg).
        json: Let the last line of the output be one JSON object.
    """
    from regen.generate.load import load_video_generator
    from regen.generate.run import generate_files
    from regen.pretrained.models import silence_logging
    from regen.runtime import pick_device, pick_dtype, set_threads

    request = _request(told, form, steering)
    silence_logging()
    set_threads(machine.threads)
    device = pick_device(machine.device)
    dtype = pick_dtype(machine.dtype, device)
    maker = load_video_generator(machine.model, device, dtype, machine.embedder, machine.text_encoder)
    with progress_bar("generate") as on_progress:
        report = generate_files(maker, request, output, form.grid, on_progress, warn)
    _show(report, json)


def _request(told: Told, form: Form, steering: Steering) -> "VideoRequest":
    """Raises ValueError for impossible values, before anything is loaded."""
    from regen.codec.rate_control import parse_length
    from regen.codec.sessions import DecodeOptions
    from regen.generate.run import VideoRequest
    from regen.generate.sampling import SampleOptions
    from regen.media.sizes import parse_size

    return VideoRequest(
        prompts=told.prompt,
        classes=told.class_name,
        negative=told.negative_prompt,
        count=form.n,
        frames=form.frames,
        size=None if form.size is None else parse_size(form.size),
        seed=steering.seed,
        image=told.image,
        continues=told.continues,
        length=None if form.length is None else parse_length(form.length),
        batch=steering.batch,
        options=SampleOptions(steering.steps, steering.guidance, steering.guidance_interval, steering.solver),
        decoding=DecodeOptions(steps=steering.decode_steps, seed=steering.seed, seams=steering.seams),
    )


def _show(report: "GenerationReport", as_json: bool) -> None:
    """What was made, as lines for people or as one of JSON."""
    import json

    if as_json:
        print(json.dumps(asdict(report)))
        return
    for file, told in zip(report.files, report.told, strict=True):
        print(f"{file}: {told}" if told else file)
    if report.grid is not None:
        print(f"{report.grid}: all of them")
    print(
        f"{report.frames} frames of {report.width}x{report.height} at {report.fps:.5g} per second, by "
        f"{report.evaluations} network evaluations each, in {report.seconds:.1f} s"
    )
