"""What the tabs of the app do, on files: reconstruct, compare, interpolate and generate."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from regen.app.limits import Limits
from regen.app.models import AppModels
from regen.codec.rate_control import FixedLength
from regen.codec.report import Report
from regen.codec.sessions import DecodeOptions, Seams
from regen.codec.timeline import Timeline
from regen.codec.transcode import FrameStream, OnWarning, decode_video, encode_video, reconstruct_video
from regen.console import OnProgress
from regen.data.shape_world import EXAMPLE, VALUES, ShapeScene
from regen.evaluate.html import PlayedVideo, player_page
from regen.generate.run import VideoRequest, generate_files
from regen.generate.sampling import SampleOptions
from regen.media.files import is_image
from regen.media.pixels import Size
from regen.media.reader import VideoReader
from regen.runtime import interruptible

MAX_PROMPT = 500  # characters


@dataclass(frozen=True)
class Coding:
    """Options of a reconstruction. `share` of the 1D latents (One-DVA only): None follows the motion."""

    short_side: int | None = 192
    steps: int = 1
    seams: Seams = "extend"
    share: float | None = None

    @property
    def options(self) -> DecodeOptions:
        return DecodeOptions(steps=self.steps, seams=self.seams)

    @property
    def lengths(self) -> FixedLength | None:
        return None if self.share is None else FixedLength(share=self.share)


class CancelledError(Exception):
    """Nobody waits for the work any more."""


@dataclass(frozen=True)
class Job:
    """The folder that receives the files of one piece of work, and where its progress and warnings go.

    `check` raises CancelledError once the work should stop.
    """

    folder: Path
    on_progress: OnProgress
    on_warning: OnWarning
    check: Callable[[], None]


@dataclass(frozen=True)
class Result:
    """A page with the players, the figures of each model (by name), and files to download."""

    page: str
    figures: dict[str, dict[str, str]]
    files: list[str]


@dataclass(frozen=True)
class Wish:
    """A video to generate: `prompt` is a sentence, or the name of a class."""

    prompt: str
    image: Path | None = None
    frames: int = 33
    guidance_scale: float = 4.0
    steps: int = 30
    seed: int = 0


@dataclass(frozen=True)
class App:
    """The work of the tabs, with these models within these limits. Methods raise ValueError or OSError."""

    models: AppModels
    limits: Limits

    def reconstruct(self, clip: Path | None, names: Sequence[str | None], coding: Coding, job: Job) -> Result:
        """A clip through each model of `names`, beside the original."""
        clip = _given(clip)
        size, _ = self.limits.check_clip(clip, coding.short_side)
        if len(set(names)) < len(names):
            raise ValueError(
                "Both models are the same; choose two different ones, or start the app with more by --model."
            )
        embedders = [self.models.embedder(name) for name in names]
        original, videos = _write_original(clip, size, job), []
        compare = job.folder / "comparison.mp4" if len(names) == 1 else None
        for number, (name, embedder) in enumerate(zip(names, embedders, strict=True), 1):
            order = f"{number}-" if len(names) > 1 else ""
            output = job.folder / f"reconstruction-{order}{Path(str(name)).name}.mp4"
            with interruptible(embedder, job.check):
                report = reconstruct_video(
                    embedder,
                    clip,
                    output,
                    name=str(name),
                    size=size,
                    options=coding.options,
                    lengths=coding.lengths if name in self.models.adaptive else None,
                    compare=compare,
                    on_progress=job.on_progress,
                    on_warning=job.on_warning,
                )
            videos.append(PlayedVideo(output, str(name), report))
        files = [*(video.path for video in videos), *([compare] if compare else [])]
        page = player_page(clip.name, original, videos, size)
        figures = {video.name: _figures(video.report) for video in videos}
        return Result(page, figures, [str(path) for path in files])

    def interpolate(
        self, clip: Path | None, name: str | None, factor: int, coding: Coding, job: Job
    ) -> Result:
        """A clip at `factor` times its frame rate, beside the original."""
        clip = _given(clip)
        size, frames = self.limits.check_clip(clip, coding.short_side)
        if frames == 1:
            raise ValueError(f"{clip.name} is an image, with nothing to interpolate between; give a video.")
        what = f"{clip.name} at {factor} times its frame rate"
        self.limits.check_frames(frames * factor, what, "choose a smaller multiple")
        embedder = self.models.embedder(name)
        original, output = _write_original(clip, size, job), job.folder / "interpolated.mp4"
        with interruptible(embedder, job.check):
            latents, before = encode_video(
                embedder,
                clip,
                name=str(name),
                weights="",
                size=size,
                on_progress=job.on_progress,
                on_warning=job.on_warning,
            )
            after = decode_video(
                embedder,
                latents,
                output,
                timeline=Timeline(interpolate=factor),
                options=coding.options,
                on_progress=job.on_progress,
            )
        note = f"{after.frames} frames, {after.fps:.5g} per second"
        played = PlayedVideo(output, f"{factor}× by {name}", after, note)
        figures = {
            "before": f"{before.frames} frames, {before.fps:.5g} per second",
            "after": note,
            "encoding": _speed(before.frames, before.encode_seconds),
            "decoding": _speed(after.frames, after.decode_seconds),
        }
        page = player_page(clip.name, original, [played], size)
        return Result(page, {played.name: figures}, [str(output)])

    def generate(self, name: str | None, wish: Wish, job: Job) -> tuple[str, str, str]:
        """The paths of a generated video and of its contact sheet, and a sentence about them."""
        prompt = wish.prompt.strip()
        if len(prompt) > MAX_PROMPT:
            raise ValueError(f"A prompt has at most {MAX_PROMPT} characters, got {len(prompt)}; shorten it.")
        self.limits.check_frames(wish.frames, "The video", "choose fewer")
        if wish.image is not None:
            self.limits.check_upload(wish.image)
            if not is_image(wish.image):
                raise ValueError(f"{wish.image.name} is not an image; give one such as a PNG or a JPEG.")
        generator = self.models.generator(name)
        config = generator.model.config
        if not prompt and config.text_width:
            raise ValueError(f'The prompt is empty; write one such as "{EXAMPLE}".')
        given = (prompt,) if prompt else ()
        request = VideoRequest(
            prompts=() if config.classes else given,
            classes=given if config.classes else (),
            frames=wish.frames,
            seed=wish.seed,
            image=wish.image,
            options=SampleOptions(steps=wish.steps, guidance_scale=wish.guidance_scale),
        )
        video, sheet = job.folder / "generated.mp4", job.folder / "contact-sheet.png"
        with interruptible(generator.model, job.check), interruptible(generator.embedder, job.check):
            report = generate_files(generator, request, video, sheet, job.on_progress, job.on_warning)
        text = (
            f"{report.frames} frames of {report.width}x{report.height} at {report.fps:.5g} per second, by "
            f"{report.nfe} network evaluations in {report.seconds:.1f} s"
        )
        return str(video), str(sheet), text


def random_prompt() -> str:
    """A caption of the shape world, another one each time."""
    return ShapeScene(*(random.choice(words) for words in VALUES.values())).caption()


def _given(clip: Path | None) -> Path:
    if clip is None:
        raise ValueError("There is no clip yet; upload one, or choose the example.")
    return clip


def _write_original(clip: Path, size: Size, job: Job) -> Path:
    """The clip at the size of its reconstruction, as browsers play it."""
    path = job.folder / "original.mp4"
    with VideoReader(clip) as reader:
        stream = FrameStream(reader, size)
        with stream.writer(path) as writer:
            for image, time in stream:
                job.check()
                writer.write(image, time)
    return path


def _figures(report: Report) -> dict[str, str]:
    lengths = report.lengths
    return {
        "PSNR": f"{report.psnr:.2f} dB",
        "SSIM": f"{report.ssim:.4f}",
        "compression": f"{report.compression:.1f}×",
        "rate": f"{report.values_per_second:,.0f} values/s",
        "1D latents": f"{min(lengths)} to {max(lengths)} in a chunk" if lengths else "-",
        "encoding": _speed(report.frames, report.encode_seconds),
        "decoding": _speed(report.frames, report.decode_seconds),
    }


def _speed(frames: int, seconds: float | None) -> str:
    return f"{seconds:.1f} s, {frames / seconds:.1f} frames/s" if seconds else "-"
