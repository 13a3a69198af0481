"""The command generate."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction, arg

from regen.cli.options import GeneratorOptions, Json, Output, SamplingOptions, SizeText, samplers
from regen.console import print_json, progress_bar, warn

if TYPE_CHECKING:
    from regen.generate.run import VideoRequest

DEFAULT_SAMPLING, DEFAULT_GENERATOR = SamplingOptions(), GeneratorOptions()
Texts = UseAppendAction[tuple[str, ...]]
File = arg(metavar="FILE", help_behavior_hint="")


# The help shows each line of a field's docstring as a line of its own.
@dataclass(frozen=True)
class PromptOptions:
    """What the videos show. A generator reads prompts or has classes (see `regen models`)."""

    prompts: Annotated[Texts, arg(name="prompt", metavar="TEXT", help_behavior_hint="")] = ()
    """A sentence such as "a red circle moves to the left". Repeat it for several."""
    classes: Annotated[Texts, arg(name="class", metavar="NAME", help_behavior_hint="")] = ()
    """The name of a class. Repeat it for several."""
    negative_prompts: Annotated[
        Texts, arg(name="negative-prompt", metavar="TEXT", help_behavior_hint="")
    ] = ()
    """What guidance moves away from: one for all videos, or one for each prompt."""
    image: Annotated[Path | None, File] = None
    """An image as the first frame, resized to cover the video and cropped at the centre."""
    continue_from: Annotated[Path | None, arg(name="continue", metavar="FILE", help_behavior_hint="")] = None
    """A video to continue; only the new frames are written."""


@dataclass(frozen=True)
class VideoOptions:
    """How many videos, how long and how large."""

    num_videos: Annotated[int, arg(metavar="N")] = 1
    """Videos of each prompt, in OUT-1.mp4, OUT-2.mp4 and so on."""
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Frames of a video, 1 for an image; by default one chunk of the embedder.
    Whole chunks are generated, and what exceeds this is cut off: with t2v-world, whose chunks have 33 frames,
    36 take as long as 66. Longer videos than in training are made in segments, each continuing the last."""
    size: SizeText = None
    """Height x width in pixels, such as 48x80; by default the most frequent size in training."""
    num_latents: Annotated[str | None, arg(metavar="N|P%", help_behavior_hint="")] = None
    """1D latents of every chunk (One-DVA): a number, or a share of the maximum such as 50%.
    By default drawn as frequently as in training."""
    grid: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Also write a contact sheet: 5 frames and the prompt of each video."""


def generate(
    output: Output,
    prompt: PromptOptions = PromptOptions(),
    video: VideoOptions = VideoOptions(),
    sampling: SamplingOptions = DEFAULT_SAMPLING,
    model: Annotated[str, arg(metavar="NAME")] = "t2v-world",
    runtime: GeneratorOptions = DEFAULT_GENERATOR,
    json: Json = False,
) -> None:
    """Generate videos from a prompt or a class.

    Example: regen generate --prompt "a red circle moves to the left" -o out.mp4

    Four with a contact sheet: regen generate --prompt "a green square" --num-videos 4 --grid all.png -o
    out.mp4

    Long, at another size: regen generate --prompt "a green square" --frames 36 --size 64x96 -o out.mp4

    From an image: regen generate --prompt "a cross moves up" --image first.png -o out.mp4

    Continue a video: regen generate --prompt "a cross moves up" --continue out.mp4 -o more.mp4

    An image: regen generate --prompt "a yellow triangle" --frames 1 -o out.png

    Of a class: regen generate --model runs/mine --class "circle moving left" -o out.mp4

    Args:
        output: The video (.mp4, .m4v, .mov, .mkv), or for one frame an image (.png, .jpg).
        model: The generator: a name from `regen models`, a folder (also of a run), or owner/name on the Hub.
        json: Print one JSON object as the last line of the output.
    """
    from regen.generate.load import load_video_generator
    from regen.generate.run import check_files, generate_files
    from regen.pretrained.models import silence_logging
    from regen.runtime import pick_device, pick_dtype, set_threads

    set_threads(runtime.threads)
    request = _request(prompt, video, sampling)
    check_files(request, output, video.grid)
    silence_logging()
    device = pick_device(runtime.device)
    dtype = pick_dtype(runtime.dtype, device)
    generator = load_video_generator(model, device, dtype, runtime.embedder, runtime.text_encoder)
    with progress_bar("generate") as on_progress:
        report = generate_files(generator, request, output, video.grid, on_progress, warn)
    if json:
        print_json(asdict(report))
        return
    for file, text in zip(report.files, report.prompts, strict=True):
        print(f"{file}: {text}" if text else file)
    if report.grid is not None:
        print(f"{report.grid}: all of them")
    print(
        f"{report.frames} frames of {report.width}x{report.height} at {report.fps:.5g} per second, by "
        f"{report.nfe} network evaluations each, in {report.seconds:.1f} s"
    )


def _request(prompt: PromptOptions, video: VideoOptions, sampling: SamplingOptions) -> "VideoRequest":
    """Raises ValueError for impossible values, before anything is loaded."""
    from regen.codec.rate_control import parse_length
    from regen.generate.run import VideoRequest
    from regen.media.pixels import parse_size

    options, decoding = samplers(sampling)
    return VideoRequest(
        **vars(prompt),
        num_videos=video.num_videos,
        frames=video.frames,
        size=None if video.size is None else parse_size(video.size),
        seed=sampling.seed,
        num_latents=None if video.num_latents is None else parse_length(video.num_latents),
        batch=sampling.batch,
        options=options,
        decoding=decoding,
    )
