"""From a request to video files, one after another: what `regen generate` does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from uuid import uuid4

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.rate_control import FixedLength
from regen.codec.sessions import DecodeOptions
from regen.generate.contact_sheet import FRAMES, write_contact_sheet
from regen.generate.decoding import ONE_STEP, GeneratedLatents
from regen.generate.sampling import GivenFrames, SampleOptions, evaluations
from regen.generate.video_generator import VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.latents import Latents
from regen.media.files import IMAGE_SUFFIXES, is_image
from regen.media.reader import VideoError, VideoReader, VideoWriter
from regen.media.sizes import Size
from regen.runtime import generator_for

OnProgress = Callable[[int, int | None], None]  # steps and frames done, and all of them
OnWarning = Callable[[str], None]
THIRTY_STEPS = SampleOptions()
RATE_TOLERANCE = 0.02


@dataclass(frozen=True)
class VideoRequest:
    """Which videos to make: `count` of each prompt, or of each class, or `count` where there is neither.

    Video number i of a prompt (from 0) follows from `seed` and i alone, whatever is made beside it, if
    `batch` is 1: more videos at once are faster on a GPU and differ by rounding. `negative`: one text, or one
    for each prompt. `image` is the first frame, `continues` a video that is gone on with.
    """

    prompts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    count: int = 1
    frames: int | None = None
    size: Size | None = None
    seed: int = 0
    image: Path | None = None
    continues: Path | None = None
    length: FixedLength | None = None
    batch: int = 1
    options: SampleOptions = THIRTY_STEPS
    decoding: DecodeOptions = ONE_STEP

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise ValueError(f"Make 1 video or more, 1 or more at once, not {self.count} and {self.batch}.")
        if self.image is not None and self.continues is not None:
            raise ValueError("A video begins with an image or goes on with a video; give one of the two.")

    def told(self) -> list[str]:
        """What each video is made of: its prompt or class, or nothing."""
        return [what for what in (*self.prompts, *self.classes) or ("",) for _ in range(self.count)]


@dataclass(frozen=True)
class GenerationReport:
    """What was made: for each of `files` what it was `told` and its `seeds`, the seed and its number in it.

    `evaluations`: how often the generator's network saw a sample for one video. `seconds` of all videos.
    """

    files: list[str]
    told: list[str]
    seeds: list[tuple[int, int]]
    frames: int
    width: int
    height: int
    fps: float
    steps: int
    evaluations: int
    seconds: float
    grid: str | None


def generate_files(
    maker: VideoGenerator,
    request: VideoRequest,
    output: Path,
    grid: Path | None = None,
    on_progress: OnProgress = lambda done, total: None,
    on_warning: OnWarning = lambda text: None,
) -> GenerationReport:
    """Make the videos of a request and write them to `output`, or OUTPUT-1, OUTPUT-2 ... where they are more.

    `grid` receives a picture of all: for each video a row of frames, and what it was told. Raises ValueError
    or OSError in one sentence; files that are complete by then stay, and there are no others.
    """
    started, told = perf_counter(), request.told()
    frames = 1 if request.frames is None and is_image(output) else request.frames
    shape = maker.shape(frames, request.size, request.continues is not None)
    files = [output] if len(told) == 1 else [_numbered(output, i + 1) for i in range(len(told))]
    check_targets(files, grid, shape)
    maker.condition(request.prompts, request.classes)  # what it raises comes before the work
    known = _known(maker, request, shape, on_warning)
    for sentence in [*shape.notes, *maker.truncation_warnings((*request.prompts, *request.negative))]:
        on_warning(sentence)
    progress = Progress(request.options.steps * shape.parts, shape.frames, len(told), on_progress)
    rows: list[Tensor] = []
    for path, sampled in zip(files, _sampled(maker, request, shape, known, progress), strict=True):
        picked = torch.linspace(0, shape.frames - 1, FRAMES).round().long().tolist()
        kept: dict[int, Tensor] = {}
        with VideoWriter(path, shape.width, shape.height, _rate(maker)) as writer:
            for index, image in enumerate(maker.decode(sampled, request.decoding)):
                writer.write(image)
                progress.add(1)
                if grid is not None and index in picked:
                    kept[index] = image
        if grid is not None:
            rows.append(torch.stack([kept[index] for index in picked]))
    if grid is not None:
        write_whole_contact_sheet(grid, list(zip(rows, told, strict=True)))
    return GenerationReport(
        files=[str(path) for path in files],
        told=told,
        seeds=[(request.seed, i % request.count) for i in range(len(told))],
        frames=shape.frames,
        width=shape.width,
        height=shape.height,
        fps=float(_rate(maker)),
        steps=request.options.steps,
        evaluations=evaluations(request.options, maker.model) * shape.parts,
        seconds=perf_counter() - started,
        grid=None if grid is None else str(grid),
    )


class Progress:
    """Counts the steps of all videos and their frames as one row of work."""

    def __init__(self, steps: int, frames: int, videos: int, tell: OnProgress) -> None:
        self.done, self.total, self.tell = 0, (steps + frames) * videos, tell

    def add(self, count: int) -> None:
        self.done += count
        self.tell(self.done, self.total)


def check_targets(files: Sequence[Path], grid: Path | None, shape: VideoShape) -> None:
    """Raises ValueError where videos of this shape can't be written, before hours of work."""
    for path in files:
        VideoWriter(path, shape.width, shape.height, Fraction(1))
        if is_image(path) and shape.frames > 1:
            raise ValueError(
                f"{path} holds one frame, and {shape.frames} are asked for; choose a name that ends in .mp4, "
                "or ask for 1 frame."
            )
    if grid is not None and not is_image(grid):
        raise ValueError(f"The picture of all videos can't be {grid}; choose a name that ends in .png.")
    for path in [*files, *([] if grid is None else [grid])]:
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise VideoError(f"{path} can't be written: give the name of a file in a folder that exists.")


def write_whole_contact_sheet(path: Path, videos: list[tuple[UInt8[Tensor, "t h w 3"], str]]) -> None:
    """The picture of all videos, complete or not there at all."""
    temporary = path.with_name(f".{path.stem[:100]}.{uuid4().hex[:8]}{path.suffix}")
    try:
        write_contact_sheet(temporary, videos)
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def read_last_frames(path: Path, count: int) -> tuple[UInt8[Tensor, "t h w 3"], Fraction]:
    """The last frames of a video, as many as there are up to `count`, and its frame rate."""
    with VideoReader(path) as reader:
        times = reader.frame_times()[-count:].tolist()
        return reader.read_at(times), reader.info.frame_rate


def _sampled(
    maker: VideoGenerator,
    request: VideoRequest,
    shape: VideoShape,
    known: GivenFrames | None,
    progress: Progress,
) -> Iterator[GeneratedLatents]:
    """The latents of all videos, in their order, a batch at a time."""
    total, each = len(request.told()), request.count
    if len(request.negative) > 1 and len(request.negative) != len(request.prompts):
        raise ValueError("Give one negative prompt for all, or one for each prompt.")
    for start in range(0, total, request.batch):
        numbers = range(total)[start : start + request.batch]

        def on_step(step: int, latents: Latents, videos: int = len(numbers)) -> Latents:
            progress.add(videos)
            return latents

        def own(values: tuple[str, ...], numbers: range = numbers) -> list[str]:
            return [values[i // each] for i in numbers] if values else []

        negative = own(request.negative) if len(request.negative) > 1 else list(request.negative)
        yield from maker.sample(
            shape,
            maker.condition(own(request.prompts), own(request.classes)),
            [generator_for(request.seed, i % each) for i in numbers],
            request.options,
            known,
            maker.without(negative, len(numbers)),
            request.length,
            on_step,
        )


def _known(
    maker: VideoGenerator, request: VideoRequest, shape: VideoShape, on_warning: OnWarning
) -> GivenFrames | None:
    """The image or the chunk that the videos begin with."""
    if request.image is not None:
        if request.image.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"{request.image} is no image; to go on with a video give it by --continue.")
        with VideoReader(request.image) as reader:
            return maker.encode_images([frame.image for frame in reader], shape)
    if request.continues is None:
        return None
    frames, rate = read_last_frames(request.continues, maker.latent_spec.chunk_frames)
    own = _rate(maker)
    if abs(rate / own - 1) > RATE_TOLERANCE:
        on_warning(
            f"{request.continues} has {float(rate):.5g} frames per second, and what goes on from it "
            f"{float(own):.5g}."
        )
    return maker.encode_last_chunk(frames, shape, request.length)


def _rate(maker: VideoGenerator) -> Fraction:
    return Fraction(maker.latent_spec.frame_rate).limit_denominator(10_000)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")
