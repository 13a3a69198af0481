"""Whole videos through an embedder: file to file, file to latents, latents to file, with figures on the way.

Everything streams, and reading, computing and writing go on at the same time: a few chunks of frames are in
memory, however long the video is.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import ChunkLatents, Embedder
from regen.codec.latent_file import LatentVideo
from regen.codec.memory import largest_tile
from regen.codec.rate_control import Budget, Lengths, check_lengths, two_pass
from regen.codec.report import LatentCounter, Report, make_report
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.codec.streams import FrameStream, Image, audio_file, comparison_writer
from regen.codec.timeline import SOURCE_FRAMES, Timeline, blend_frames, offsets_per_chunk, output_frames
from regen.console import OnProgress
from regen.latents import batch_of
from regen.media.audio import extract_audio
from regen.media.prefetch import ahead, behind
from regen.media.reader import VideoReader, VideoWriter
from regen.media.sizes import Size
from regen.metrics.cost import PeakMemory, Stopwatch
from regen.metrics.psnr_ssim import Psnr, Ssim
from regen.metrics.seams import SeamRatio
from regen.tiling import Tile

OnWarning = Callable[[str], None]
DEFAULTS = DecodeOptions()


class MetricSink:
    """Takes frames as they come out, compares them with what went in, and hands them on, in order."""

    def __init__(self, chunk_frames: int, writers: Sequence[Callable[[Image, Image, float], None]]) -> None:
        self.psnr, self.ssim, self.seams = Psnr(), Ssim(), SeamRatio(chunk_frames)
        self.writers = writers

    def take(self, originals: list[tuple[Image, float]], decoded: UInt8[Tensor, "t h w 3"]) -> None:
        before = torch.stack([image for image, _ in originals])
        for metric in (self.psnr, self.ssim, self.seams):
            metric.update(before, decoded)
        for (original, at), image in zip(originals, decoded, strict=True):
            for write in self.writers:
                write(original, image, at)


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
    on_progress: OnProgress | None = None,
    on_warning: OnWarning | None = None,
) -> Report:
    """Encode and decode `source`; write the result, with the source's sound and frame times, to `output`.

    Frames are fitted to `size` first (see `protocol.fit`) when one is given. `compare` also writes a video
    with the original above and the reconstruction below. `name` is what the report calls the model. `memory`
    is a budget in bytes (see `codec.memory`). `lengths` says how many 1D latents are kept (see
    `codec.lengths`); for a `Budget` the video is read twice. Raises ValueError or OSError in one sentence,
    and then leaves no partial file.
    """
    _check(source, output, compare)
    peak, encoding, decoding = PeakMemory(model.device), Stopwatch(), Stopwatch()
    tally, done = LatentCounter(), 0
    with VideoReader(source) as reader, ExitStack() as files:
        stream = FrameStream(reader, size)
        height, width = stream.height, stream.width
        options = _fitted(model, options, height, width, memory)
        encoder = EncodeSession(model, options.tile, _planned(lengths, model, source, size))
        decoder = DecodeSession(model, height=height, width=width, options=options)
        writer = files.enter_context(stream.writer(output, source))
        write_pair = files.enter_context(comparison_writer(stream, source, compare, name))
        chunk_frames = model.chunk_frames
        judge = MetricSink(chunk_frames, [lambda _, image, at: writer.write(image, at), write_pair])
        hand_out = files.enter_context(behind(judge.take))
        frames = files.enter_context(ahead(stream, depth=2 * chunk_frames))
        waiting: deque[tuple[Image, float]] = deque()

        def requests() -> Iterator[tuple[ChunkLatents, None]]:
            for chunk in _encoded(encoder, frames, encoding, waiting.append):
                tally.add(chunk.latents)
                yield chunk, None

        for images in _decoded(decoder, requests(), decoding):
            done += len(images)
            hand_out([waiting.popleft() for _ in images], images)
            _tell(on_progress, done, reader.info.frames)
        _pass_on_damage(reader, on_warning)
    report = make_report(name, done, height, width, stream.frame_rate, tally)
    return replace(
        report,
        psnr=judge.psnr.compute(),
        ssim=judge.ssim.compute(),
        seam_ratio=judge.seams.compute(),
        encode_seconds=encoding.seconds,
        decode_seconds=decoding.seconds,
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
    on_progress: OnProgress | None = None,
    on_warning: OnWarning | None = None,
) -> tuple[LatentVideo, Report]:
    """The latents of `source`, ready for `latent_file.write`; `weights` is the hash of the weights.

    `lengths` as for `reconstruct_video`.
    """
    peak, encoding = PeakMemory(model.device), Stopwatch()
    chunks: list[ChunkLatents] = []
    times: list[float] = []
    with VideoReader(source) as reader, ExitStack() as files:
        stream = FrameStream(reader, size)
        tile = _fitted(model, DEFAULTS, stream.height, stream.width, memory).tile
        session = EncodeSession(model, tile, _planned(lengths, model, source, size))
        frames = files.enter_context(ahead(stream, depth=2 * model.chunk_frames))
        for chunk in _encoded(session, frames, encoding, lambda frame: times.append(frame[1])):
            chunks.append(chunk)
            _tell(on_progress, len(times), reader.info.frames)
        _pass_on_damage(reader, on_warning)
    video = LatentVideo(
        latents=batch_of([chunk.latents for chunk in chunks]),
        times=torch.tensor(times, dtype=torch.float64),
        height=stream.height,
        width=stream.width,
        source_height=reader.info.height,
        source_width=reader.info.width,
        frame_rate=stream.frame_rate,
        model=name,
        weights=weights,
        audio=extract_audio(source) if reader.info.has_audio else None,
    )
    report = _report_of(video)
    return video, replace(
        report,
        encode_seconds=encoding.seconds,
        tile=_sides(session.oom_retry.tile),
        peak_memory_mb=peak.megabytes(),
    )


def decode_video(
    model: Embedder,
    video: LatentVideo,
    output: Path,
    *,
    timeline: Timeline = SOURCE_FRAMES,
    options: DecodeOptions = DEFAULTS,
    memory: int | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Write the video that the latents stand for, with its sound and frame times, to `output`.

    With the default `timeline` it is what `reconstruct_video` writes for the same source, size, model,
    precision and options; others ask for frames between, before and after those that were encoded (see
    `codec.timeline`).
    """
    _check(None, output, None)
    peak, decoding = PeakMemory(model.device), Stopwatch()
    chunk_frames = model.chunk_frames
    shown, rate = output_frames(video.times, video.frame_rate, chunk_frames, timeline)
    wanted = offsets_per_chunk(shown, len(video.latents))
    most = max(len({*range(chunk_frames), *at}) for at in wanted) + 1  # and the frame before the chunk
    options = _fitted(model, options, video.height, video.width, memory, frames=most)
    session = DecodeSession(model, height=video.height, width=video.width, options=options)
    sound = None if timeline.every_chunk else video.audio
    delay = timeline.extrapolate_before / video.frame_rate
    due, done = iter(shown), 0
    with ExitStack() as files:
        audio = files.enter_context(audio_file(sound))
        writer = VideoWriter(output, video.width, video.height, rate, audio, delay if audio else 0 * delay)
        hand_out = files.enter_context(behind(files.enter_context(writer).write))

        requests = zip(video.chunks(chunk_frames), wanted, strict=True)
        for images in blend_frames(shown, wanted, _decoded(session, requests, decoding)):
            for image, moment in zip(images, due, strict=False):
                hand_out(image, moment.seconds)
            done += len(images)
            _tell(on_progress, done, len(shown))
    return replace(
        _report_of(video),
        frames=done,
        fps=float(rate),
        decode_seconds=decoding.seconds,
        tile=_sides(session.oom_retry.tile),
        peak_memory_mb=peak.megabytes(),
    )


def _planned(
    lengths: Lengths | Budget | None, model: Embedder, source: Path, size: Size | None
) -> Lengths | None:
    """The lengths themselves; a budget is shared out among the chunks of the video, which is read for it."""
    if not isinstance(lengths, Budget):
        return lengths
    check_lengths(model, lengths)
    with VideoReader(source) as reader:
        stream = FrameStream(reader, size)
        return two_pass(model, (image for image, _ in stream), stream.frame_rate, lengths)


def _encoded(
    session: EncodeSession,
    frames: Iterable[tuple[Image, float]],
    watch: Stopwatch,
    seen: Callable[[tuple[Image, float]], None],
) -> Iterator[ChunkLatents]:
    """Chunks as they get complete; every frame and its time also go to `seen`."""
    for frame in frames:
        seen(frame)
        with watch:
            ready = session.feed(frame[:1])
        yield from ready
    with watch:
        ready = session.flush()
    yield from ready


def _decoded(
    session: DecodeSession, requests: Iterable[tuple[ChunkLatents, list[float] | None]], watch: Stopwatch
) -> Iterator[UInt8[Tensor, "t h w 3"]]:
    """Frames as they are ready; a request is a chunk and the frames wanted of it."""
    for chunk, at in requests:
        with watch:
            images = session.feed(chunk, at)
        if len(images):
            yield images
    with watch:
        images = session.flush()
    if len(images):
        yield images


def _fitted(
    model: Embedder, options: DecodeOptions, height: int, width: int, memory: int | None, frames: int = 0
) -> DecodeOptions:
    """The options with the largest tile for the budget, unless they name one."""
    if options.tile is not None:
        return options
    frames = max(frames, model.chunk_frames + 1) * options.batch
    return replace(options, tile=largest_tile(model, frames, height, width, memory))


def _sides(tile: Tile | None) -> list[int] | None:
    return None if tile is None else [tile.height, tile.width]


def _tell(on_progress: OnProgress | None, done: int, total: int | None) -> None:
    if on_progress is not None:
        on_progress(done, total)


def _check(source: Path | None, output: Path, compare: Path | None) -> None:
    places = [path.resolve() for path in (source, output, compare) if path is not None]
    if len(set(places)) < len(places):
        raise ValueError("Input, output and comparison must be different files; choose another name for one.")


def _pass_on_damage(reader: VideoReader, on_warning: OnWarning | None) -> None:
    if reader.damage is not None and on_warning is not None:
        on_warning(f"{reader.path}: {reader.damage}.")


def _report_of(video: LatentVideo) -> Report:
    tally = LatentCounter()
    for index in range(len(video.latents)):
        tally.add(video.latents[index])
    return make_report(video.model, len(video.times), video.height, video.width, video.frame_rate, tally)
