"""Video files and contact sheets: what `regen generate` runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from regen.codec.rate_control import FixedLength
from regen.codec.sessions import DecodeOptions
from regen.console import OnProgress
from regen.generate.sampling import GivenFrames, SampleOptions, nfe
from regen.generate.video_generator import DEFAULT_SAMPLING, ONE_STEP, GeneratedLatents, VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.io import atomic_path, check_output
from regen.latents import Latents
from regen.media.files import is_image, read_image
from regen.media.pixels import Size
from regen.media.reader import VideoReader, VideoWriter
from regen.media.writer import SUFFIXES
from regen.runtime import generator_for

OnWarning = Callable[[str], None]
RATE_TOLERANCE = 0.02
SHEET_FRAMES = 5  # of each video on a contact sheet, evenly spaced
MAX_ROWS = 6  # of a contact sheet; more videos are in two columns
GAP, GREY = 6, (235, 235, 235)


@dataclass(frozen=True)
class VideoRequest:
    """Videos to generate: `num_videos` of each prompt or class, or `num_videos` unconditional ones.

    Video i of a prompt is a function of `seed` and i alone for `batch` 1; larger batches are faster on a GPU
    and change rounding. `negative_prompts`: one for all, or one for each prompt. A video starts with `image`,
    or continues the video `continue_from`.
    """

    prompts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
    num_videos: int = 1
    frames: int | None = None
    size: Size | None = None
    seed: int = 0
    image: Path | None = None
    continue_from: Path | None = None
    num_latents: FixedLength | None = None
    batch: int = 1
    options: SampleOptions = DEFAULT_SAMPLING
    decoding: DecodeOptions = ONE_STEP

    def __post_init__(self) -> None:
        if self.num_videos < 1 or self.batch < 1:
            raise ValueError(f"num_videos and batch must be >= 1, got {self.num_videos} and {self.batch}.")
        if self.image is not None and self.continue_from is not None:
            raise ValueError("A video starts with an image or continues a video; give one of the two.")
        if len(self.negative_prompts) > 1 and len(self.negative_prompts) != len(self.prompts):
            raise ValueError("Give one negative prompt for all, or one for each prompt.")

    def of_videos(self, texts: Sequence[str]) -> list[str]:
        """Texts, one for each prompt or class, for each video."""
        return [text for text in texts for _ in range(self.num_videos)]


@dataclass(frozen=True)
class GenerationReport:
    """The videos written: for each of `files` its prompt or class, and its seed with its index.

    `nfe`: number of function evaluations of the generator per video. `seconds`: of all videos.
    """

    files: list[str]
    prompts: list[str]
    seeds: list[tuple[int, int]]
    frames: int
    width: int
    height: int
    fps: float
    steps: int
    nfe: int
    seconds: float
    grid: str | None


def generate_files(
    video_generator: VideoGenerator,
    request: VideoRequest,
    output: Path,
    grid: Path | None = None,
    on_progress: OnProgress = lambda done, total: None,
    on_warning: OnWarning = lambda text: None,
) -> GenerationReport:
    """Generate the requested videos and write them to `output`, or to OUTPUT-1, OUTPUT-2 ... for several.

    `grid` receives a contact sheet of all. Raises ValueError or OSError; complete files stay, and there are
    no others.
    """
    started, captions = perf_counter(), request.of_videos((*request.prompts, *request.classes) or ("",))
    frames = 1 if request.frames is None and is_image(output) else request.frames
    check_files(request, output, grid)
    shape = video_generator.shape(frames, request.size, request.continue_from is not None)
    files = [output.with_stem(f"{output.stem}-{number}") for number in range(1, len(captions) + 1)]
    files = files if len(files) > 1 else [output]
    _check_targets(files, shape)
    _check_inputs(request, files)
    video_generator.condition(request.prompts, request.classes)  # raises before any work
    rate = Fraction(video_generator.latent_spec.frame_rate).limit_denominator(10_000)
    given = _given_frames(video_generator, request, shape, rate, on_warning)
    texts = (*request.prompts, *request.negative_prompts)
    for warning in [*shape.notes, *video_generator.prompt_warnings(texts)]:
        on_warning(warning)
    done, total = 0, len(captions) * (request.options.steps * shape.num_segments + shape.frames)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    picked = torch.linspace(0, shape.frames - 1, SHEET_FRAMES).round().long().tolist()
    strips: list[list[Tensor]] = [[] for _ in files]
    sampled = _sample(video_generator, request, shape, given, len(files), advance)
    for path, latents, strip in zip(files, sampled, strips, strict=True):
        with VideoWriter(path, shape.width, shape.height, rate) as writer:
            for index, image in enumerate(latents.decode(video_generator.embedder, request.decoding)):
                writer.write(image)
                advance(1)
                if grid is not None and index in picked:
                    strip.append(image)
    if grid is not None:
        write_contact_sheet(grid, zip(map(torch.stack, strips), captions, strict=True))
    return GenerationReport(
        files=[str(path) for path in files],
        prompts=captions,
        seeds=[(request.seed, i % request.num_videos) for i in range(len(captions))],
        frames=shape.frames,
        width=shape.width,
        height=shape.height,
        fps=float(rate),
        steps=request.options.steps,
        nfe=nfe(request.options, video_generator.model) * shape.num_segments,
        seconds=perf_counter() - started,
        grid=None if grid is None else str(grid),
    )


def check_files(request: VideoRequest, output: Path, grid: Path | None) -> None:
    """Raise ValueError for outputs that can't be written and inputs that can't be read.

    To be called before a generator is loaded.
    """
    check_output(output, SUFFIXES)
    if grid is not None:
        if not is_image(grid):
            raise ValueError(f"The contact sheet must be an image such as .png, got {grid}.")
        check_output(grid)
    _check_inputs(request, [output, *filter(None, [grid])])
    if request.image is not None:
        if not is_image(request.image):
            raise ValueError(f"image must be an image, got {request.image}; use --continue for a video.")
        read_image(request.image)
    if request.continue_from is not None:
        VideoReader(request.continue_from).close()


def _check_targets(files: Sequence[Path], shape: VideoShape) -> None:
    """Raise ValueError for files that can't hold videos of this shape."""
    for path in files:
        VideoWriter(path, shape.width, shape.height, Fraction(1))
        if is_image(path) and shape.frames > 1:
            raise ValueError(f"{path} holds 1 frame, got {shape.frames}; use .mp4, or --frames 1.")
        check_output(path)


def _sample(
    video_generator: VideoGenerator,
    request: VideoRequest,
    shape: VideoShape,
    given: GivenFrames | None,
    count: int,
    advance: Callable[[int], None],
) -> Iterator[GeneratedLatents]:
    """The latents of all `count` videos in order, one batch at a time."""
    prompts, classes = map(request.of_videos, (request.prompts, request.classes))
    for start in range(0, count, request.batch):
        videos = slice(start, start + request.batch)
        generators = [generator_for(request.seed, i % request.num_videos) for i in range(count)[videos]]
        negatives = list(request.negative_prompts)
        negatives = negatives if len(negatives) == 1 else request.of_videos(negatives)[videos]

        def on_step(step: int, latents: Latents) -> Latents:
            advance(len(latents))
            return latents

        yield from video_generator.sample(
            shape,
            video_generator.condition(prompts[videos], classes[videos]),
            generators,
            request.options,
            given,
            video_generator.negative_condition(negatives, len(generators)),
            request.num_latents,
            on_step,
        )


def _check_inputs(request: VideoRequest, outputs: Sequence[Path]) -> None:
    """Raise ValueError when an output would replace an input."""
    inputs = [path.resolve() for path in (request.image, request.continue_from) if path is not None]
    overwritten = next((path for path in outputs if path.resolve() in inputs), None)
    if overwritten is not None:
        raise ValueError(f"{overwritten} is an input; choose another name for the output.")


def _given_frames(
    video_generator: VideoGenerator,
    request: VideoRequest,
    shape: VideoShape,
    rate: Fraction,
    on_warning: OnWarning,
) -> GivenFrames | None:
    """The latents of the image or the chunk that the videos start from."""
    if request.image is not None:
        return video_generator.encode_images([read_image(request.image)[0]], shape)
    if request.continue_from is None:
        return None
    with VideoReader(request.continue_from) as reader:
        times = reader.frame_times()[-video_generator.latent_spec.chunk_frames :].tolist()
        frames, given_rate = reader.read_at(times), reader.info.frame_rate
    if abs(given_rate / rate - 1) > RATE_TOLERANCE:
        on_warning(
            f"{request.continue_from} has {float(given_rate):.5g} frames per second, its continuation "
            f"{float(rate):.5g}."
        )
    return video_generator.encode_last_chunk(frames, shape, request.num_latents)


def write_contact_sheet(path: Path, videos: Iterable[tuple[UInt8[Tensor, "t h w 3"], str]]) -> None:
    """Write an image (its format follows from the suffix) of videos of one size with their captions."""
    strips = [(_strip(video), caption) for video, caption in videos]
    width, height = strips[0][0].size
    texts = [_wrap(caption, width) for _, caption in strips]
    font = ImageFont.load_default()
    lines = max(len(text) for text in texts)
    line = sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else 11
    columns = 2 if len(strips) > MAX_ROWS else 1
    rows = -(-len(strips) // columns)
    step = width + GAP, height + lines * line + GAP
    sheet = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP), GREY)
    draw = ImageDraw.Draw(sheet)
    for number, ((strip, _), text) in enumerate(zip(strips, texts, strict=True)):
        left, top = GAP + number // rows * step[0], GAP + number % rows * step[1]
        sheet.paste(strip, (left, top))
        for index, words in enumerate(text):
            draw.text((left, top + height + index * line), words, (0, 0, 0), font)
    with atomic_path(path) as temporary:
        sheet.save(temporary, Image.registered_extensions()[path.suffix.lower()])


def _strip(video: UInt8[Tensor, "t h w 3"]) -> Image.Image:
    picked = np.linspace(0, len(video) - 1, SHEET_FRAMES).round().astype(int)
    return Image.fromarray(rearrange(video[picked], "t h w c -> h (t w) c").contiguous().numpy())


def _wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, without splitting words."""
    font, lines = ImageFont.load_default(), [""]
    for word in text.encode("latin-1", errors="replace").decode("latin-1").split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
