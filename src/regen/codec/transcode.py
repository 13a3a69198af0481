"""Encoding, decoding and reconstruction of video files.

Everything streams: reading, computing and writing overlap, and only a few chunks of frames are in memory.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from regen.codec.chunks import ChunkLatents
from regen.codec.latent_file import LatentVideo
from regen.codec.memory import largest_tile
from regen.codec.rate_control import Budget, Lengths, check_lengths, two_pass
from regen.codec.report import LatentCounter, Report, make_report
from regen.codec.sequence import OpenVideo, SequenceDecodeSession, open_sequence
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.codec.timeline import SOURCE_FRAMES, Timeline, blend_frames, offsets_per_chunk, output_frames
from regen.console import OnProgress
from regen.embedders.interface import Embedder
from regen.latents import collate
from regen.media.audio import extract_audio
from regen.media.files import BLACK, Blob, Colour
from regen.media.pixels import Size, resize_center_crop
from regen.media.prefetch import background_writer, prefetch
from regen.media.reader import VideoReader, VideoWriter
from regen.metrics.cost import PeakMemory
from regen.metrics.psnr_ssim import Psnr, Ssim
from regen.metrics.seams import SeamRatio
from regen.tiling import Tile

Frame = UInt8[Tensor, "h w 3"]
TimedFrame = tuple[Frame, float]  # with its time in seconds
OnWarning = Callable[[str], None]

DEFAULTS = DecodeOptions()
LABEL_HEIGHT = 20  # pixels; even, so that two of them keep the height even
GREY, WHITE = (32, 32, 32), (230, 230, 230)


def reconstruct_video(
    model: Embedder,
    source: Path,
    output: Path,
    *,
    name: str,
    size: Size | None = None,
    options: DecodeOptions = DEFAULTS,
    memory: int | None = None,
    lengths: Lengths | Budget | None = None,
    compare: Path | None = None,
    background: Colour = BLACK,
    on_progress: OnProgress = lambda done, total: None,
    on_warning: OnWarning = lambda text: None,
) -> Report:
    """Encode and decode `source`; write the result, with its sound and frame times, to `output`.

    Frames are resized and cropped to `size` first. `memory` is a budget in bytes (see `codec.memory`), `name`
    that of the model in the report, `compare` a second output, with the original above. Transparent parts lie
    over `background`. For a `Budget` of 1D latents the video is read twice. Raises ValueError or OSError.
    """
    given = [path.resolve() for path in (output, source, compare) if path is not None]
    if len(set(given)) < len(given):
        raise ValueError("Input, output and comparison must be different files; choose another name for one.")
    peak, latents, done = PeakMemory(model.device), LatentCounter(), 0
    originals: deque[TimedFrame] = deque()
    with _open(source, size, background) as reader, ExitStack() as files:
        stream = FrameStream(reader, size)
        options = with_tile(options, model, stream.height, stream.width, memory)
        lengths = _resolve_lengths(lengths, model, source, size, background)
        encoder = EncodeSession(model, options.tile, lengths)
        decoder = DecodeSession(model, height=stream.height, width=stream.width, options=options)
        writer, pairs = files.enter_context(stream.writer(output)), None
        if compare is not None:
            pairs = files.enter_context(stream.writer(compare, 2 * (stream.height + LABEL_HEIGHT)))
        sink = ReconstructionSink(model.chunk_frames, writer, pairs, name)
        hand_out = files.enter_context(background_writer(sink.take))
        frames = files.enter_context(prefetch(stream, depth=2 * model.chunk_frames))

        def chunks() -> Iterator[tuple[ChunkLatents, None]]:
            for chunk in encoder.encode(_images(frames, originals.append)):
                latents.add(chunk.latents)
                yield chunk, None

        for images in decoder.decode(chunks()):
            if len(images):
                done += len(images)
                hand_out([originals.popleft() for _ in images], images)
                on_progress(done, reader.info.frames)
    _warn_of(source, on_warning, *reader.notes, reader.damage, *writer.notes)
    return make_report(
        *(name, (done, stream.height, stream.width), stream.frame_rate, latents),
        psnr=sink.psnr.compute(),
        ssim=sink.ssim.compute(),
        seam_ratio=sink.seams.compute(),
        encode_seconds=encoder.stopwatch.seconds,
        decode_seconds=decoder.stopwatch.seconds,
        tile=_sides(decoder.oom_retry.tile),
        peak_memory_mb=peak.megabytes(),
    )


def encode_video(
    model: Embedder,
    source: Path,
    *,
    name: str,
    weights: str,
    size: Size | None = None,
    memory: int | None = None,
    lengths: Lengths | Budget | None = None,
    background: Colour = BLACK,
    on_progress: OnProgress = lambda done, total: None,
    on_warning: OnWarning = lambda text: None,
) -> tuple[LatentVideo, Report]:
    """Encode `source`, with the hash `weights`; the other arguments are those of `reconstruct_video`."""
    peak = PeakMemory(model.device)
    chunks: list[ChunkLatents] = []
    times: list[float] = []
    with _open(source, size, background) as reader, ExitStack() as files:
        stream = FrameStream(reader, size)
        tile = with_tile(DEFAULTS, model, stream.height, stream.width, memory).tile
        session = EncodeSession(model, tile, _resolve_lengths(lengths, model, source, size, background))
        frames = files.enter_context(prefetch(stream, depth=2 * model.chunk_frames))
        for chunk in session.encode(_images(frames, lambda frame: times.append(frame[1]))):
            chunks.append(chunk)
            on_progress(len(times), reader.info.frames)
        audio, sound_note = extract_audio(source) if reader.info.has_audio else (None, None)
        _warn_of(source, on_warning, *reader.notes, reader.damage, sound_note)
    video = LatentVideo(
        latents=collate([chunk.latents for chunk in chunks]),
        times=torch.tensor(times, dtype=torch.float64),
        height=stream.height,
        width=stream.width,
        source_height=reader.info.height,
        source_width=reader.info.width,
        frame_rate=stream.frame_rate,
        model=name,
        weights=weights,
        audio=audio,
        pixel_aspect=reader.info.pixel_aspect,
    )
    return video, _latent_report(video, session, peak, encode_seconds=session.stopwatch.seconds)


def decode_video(
    model: Embedder,
    video: LatentVideo,
    output: Path,
    *,
    timeline: Timeline = SOURCE_FRAMES,
    options: DecodeOptions = DEFAULTS,
    memory: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Report:
    """Decode latents to `output`, with the sound and the frame times of the source.

    The default `timeline` gives what `reconstruct_video` writes for the same source, size, model, precision
    and options; others interpolate or extrapolate (see `codec.timeline`).
    """
    peak = PeakMemory(model.device)
    options = with_tile(options, model, video.height, video.width, memory)
    session, parts, sources = open_sequence(model, video, options, timeline) or _open_chunks(
        model, video, options
    )
    frames, rate = output_frames(video.times, video.frame_rate, model.chunk_frames, timeline, sources)
    offsets = offsets_per_chunk(frames, len(parts))
    pending, done = iter(frames), 0
    with ExitStack() as files:
        audio = None if timeline.every_chunk or not video.audio else Blob("audio.m4a", video.audio)
        delay = timeline.extrapolate_before / video.frame_rate if audio else Fraction(0)
        place = output, video.width, video.height, rate, audio, delay
        writer = files.enter_context(VideoWriter(*place, pixel_aspect=video.pixel_aspect))
        hand_out = files.enter_context(background_writer(writer.write))
        decoded = session.decode(zip(parts, offsets, strict=True))
        for images in blend_frames(frames, offsets, decoded):
            for image, frame in zip(images, pending, strict=False):
                hand_out(image, frame.seconds)
            done += len(images)
            on_progress(done, len(frames))
    report = _latent_report(video, session, peak, decode_seconds=session.stopwatch.seconds)
    return replace(report, frames=done, fps=float(rate))


def _open_chunks(model: Embedder, video: LatentVideo, options: DecodeOptions) -> OpenVideo:
    session = DecodeSession(model, height=video.height, width=video.width, options=options)
    return session, [*video.chunks(model.chunk_frames)], None


class FrameStream:
    """The frames of an open video at the coded size."""

    def __init__(self, reader: VideoReader, size: Size | None) -> None:
        self.reader, self.size = reader, size
        self.height = size.height if size else reader.info.height
        self.width = size.width if size else reader.info.width
        self.frame_rate = reader.info.frame_rate

    def __iter__(self) -> Iterator[TimedFrame]:
        for frame in self.reader:
            yield resize_center_crop(frame.image, self.size), frame.time

    def writer(self, path: Path, height: int | None = None) -> VideoWriter:
        """A writer for a video with the stream's width, frame rate, sound and (unless given) height."""
        audio = self.reader.path if self.reader.info.has_audio else None
        aspect = self.reader.info.pixel_aspect
        height = height or self.height
        return VideoWriter(path, self.width, height, self.frame_rate, audio, pixel_aspect=aspect)


def label(text: str, width: int) -> UInt8[Tensor, "h width 3"]:
    """A dark strip of `width` x LABEL_HEIGHT pixels with `text`, cut off where it is too long."""
    strip = Image.new("RGB", (width, LABEL_HEIGHT), GREY)
    ImageDraw.Draw(strip).text((4, 3), text, fill=WHITE, font=ImageFont.load_default(12))
    return torch.from_numpy(np.array(strip))


class ReconstructionSink:
    """Measures decoded frames and writes them; to `pairs` with the originals above, both labelled."""

    def __init__(self, chunk_frames: int, writer: VideoWriter, pairs: VideoWriter | None, name: str) -> None:
        self.psnr, self.ssim, self.seams = Psnr(), Ssim(), SeamRatio(chunk_frames)
        self.writer, self.pairs = writer, pairs
        self.labels = label("original", writer.width), label(name, writer.width)

    def take(self, originals: list[TimedFrame], decoded: UInt8[Tensor, "t h w 3"]) -> None:
        targets = torch.stack([image for image, _ in originals])
        for metric in (self.psnr, self.ssim, self.seams):
            metric.update(targets, decoded)
        for (original, time), image in zip(originals, decoded, strict=True):
            self.writer.write(image, time)
            if self.pairs is not None:
                above, below = self.labels
                self.pairs.write(torch.cat([above, original, below, image]), time)


def _warn_of(source: Path, on_warning: OnWarning, *texts: str | None) -> None:
    for text in filter(None, texts):
        on_warning(f"{source}: {text}.")


def _open(source: Path, size: Size | None, background: Colour) -> VideoReader:
    """In the pixels of the file; for a `size` in square ones, which keeps the proportions."""
    return VideoReader(source, square_pixels=size is not None, background=background)


def _resolve_lengths(
    lengths: Lengths | Budget | None, model: Embedder, source: Path, size: Size | None, background: Colour
) -> Lengths | None:
    """Turn a budget into the lengths of each chunk, which reads the whole video."""
    if not isinstance(lengths, Budget):
        return lengths
    check_lengths(model, lengths)
    with _open(source, size, background) as reader:
        stream = FrameStream(reader, size)
        return two_pass(model, (image for image, _ in stream), stream.frame_rate, lengths)


def _images(frames: Iterable[TimedFrame], on_frame: Callable[[TimedFrame], None]) -> Iterator[Frame]:
    """The images alone; every frame with its time also goes to `on_frame`."""
    for frame in frames:
        on_frame(frame)
        yield frame[0]


def with_tile(
    options: DecodeOptions, model: Embedder, height: int, width: int, memory: int | None
) -> DecodeOptions:
    """The options with the largest tile that fits the memory, unless they have a tile."""
    if options.tile is not None:
        return options
    # An overlapping frame; with several steps, frames in between are decoded beside those of their chunk.
    frames = (model.chunk_frames + 1) * max(options.batch, 2 if options.steps > 1 else 1)
    return replace(options, tile=largest_tile(model, frames, height, width, memory))


def _sides(tile: Tile | None) -> list[int] | None:
    return None if tile is None else [tile.height, tile.width]


def _latent_report(
    video: LatentVideo,
    session: EncodeSession | DecodeSession | SequenceDecodeSession,
    peak: PeakMemory,
    **seconds: float,
) -> Report:
    latents = LatentCounter()
    for index in range(len(video.latents)):
        latents.add(video.latents[index])
    size = (len(video.times), video.height, video.width)
    figures = {"tile": _sides(session.oom_retry.tile), "peak_memory_mb": peak.megabytes(), **seconds}
    return make_report(video.model, size, video.frame_rate, latents, **figures)
