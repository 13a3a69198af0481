"""Whole videos through an embedder: file to file, file to latents, latents to file, with figures on the way.

Everything streams: one chunk of frames is in memory at a time, however long the video is.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import Chunk, Embedder, decode_chunk, encode_chunk, split_into_chunks
from regen.codec.latent_file import LatentVideo
from regen.data.audio import SUFFIX, extract_audio
from regen.data.video import VideoReader, VideoWriter
from regen.evaluate.comparison import STRIP, Comparison
from regen.evaluate.cost import PeakMemory, Stopwatch
from regen.evaluate.metrics import Psnr, Ssim
from regen.evaluate.protocol import Size, fit

OnProgress = Callable[[int, int | None], None]  # frames done; frames in all, when the file says so
OnWarning = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done and how well; None for what a run did not measure.

    `compression` is values in the video per value in the latents. PSNR (dB) and SSIM are means over the
    frames of 8-bit original against 8-bit reconstruction, before video coding. The seconds are those inside
    the model. `peak_memory_mb` (10^6 bytes) is that of the GPU when one is used, else of the process.
    """

    model: str
    frames: int
    width: int
    height: int
    fps: float
    latent_shape: list[int]
    compression: float
    psnr: float | None = None
    ssim: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    peak_memory_mb: float


def reconstruct_video(
    model: Embedder,
    source: Path,
    output: Path,
    *,
    name: str,
    size: Size | None = None,
    steps: int = 1,
    seed: int = 0,
    compare: Path | None = None,
    on_progress: OnProgress | None = None,
    on_warning: OnWarning | None = None,
) -> Report:
    """Encode and decode `source`; write the result, with the source's sound and frame times, to `output`.

    Frames are fitted to `size` first (see `protocol.fit`) when one is given. `compare` also writes a video
    with the original above and the reconstruction below. `name` is what the report calls the model. Raises
    ValueError or OSError in one sentence, and then leaves no partial file.
    """
    _check(steps, source, output, compare)
    memory, encoding, decoding = PeakMemory(model.device), Stopwatch(), Stopwatch()
    psnr, ssim, latent_shape = Psnr(), Ssim(), [0]
    with VideoReader(source) as reader, ExitStack() as files:
        stream = FrameStream(reader, size)
        write = files.enter_context(stream.writer(output, source)).write
        write_pair = files.enter_context(_comparison_writer(stream, source, compare, name))
        for chunk, times in stream.chunks(model.temporal_compression_ratio + 1, on_progress):
            with encoding:
                latents = encode_chunk(model, chunk)
            with decoding:
                height, width = chunk.frames.shape[1:3]
                decoded = decode_chunk(model, latents, height=height, width=width, steps=steps, seed=seed)
            latent_shape = [chunk.index + 1, *latents.latents.shape]
            psnr.update(chunk.frames, decoded)
            ssim.update(chunk.frames, decoded)
            for original, image, at in zip(chunk.frames, decoded, times, strict=True):
                write(image, at)
                write_pair(original, image, at)
        _pass_on_damage(reader, on_warning)
    return Report(
        model=name,
        frames=stream.frames,
        width=stream.width,
        height=stream.height,
        fps=float(stream.frame_rate),
        latent_shape=latent_shape,
        compression=_compression(stream.frames, stream.height, stream.width, latent_shape),
        psnr=psnr.compute(),
        ssim=ssim.compute(),
        encode_seconds=encoding.seconds,
        decode_seconds=decoding.seconds,
        peak_memory_mb=memory.megabytes(),
    )


def encode_video(
    model: Embedder,
    source: Path,
    *,
    name: str,
    weights: str,
    size: Size | None = None,
    on_progress: OnProgress | None = None,
    on_warning: OnWarning | None = None,
) -> tuple[LatentVideo, Report]:
    """The latents of `source`, ready for `latent_file.write`; `weights` is the hash of the weights."""
    memory, encoding = PeakMemory(model.device), Stopwatch()
    latents, times = [], []
    with VideoReader(source) as reader:
        stream = FrameStream(reader, size)
        for chunk, chunk_times in stream.chunks(model.temporal_compression_ratio + 1, on_progress):
            with encoding:
                latents.append(encode_chunk(model, chunk).latents)
            times += chunk_times
        _pass_on_damage(reader, on_warning)
    video = LatentVideo(
        latents=torch.stack(latents),
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
    return video, replace(_report_of(video, memory), encode_seconds=encoding.seconds)


def decode_video(
    model: Embedder,
    video: LatentVideo,
    output: Path,
    *,
    steps: int = 1,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Report:
    """Write the video that the latents stand for, with its sound and frame times, to `output`.

    Equal to what `reconstruct_video` writes for the same source, size, model, precision, steps and seed.
    """
    _check(steps, None, output, None)
    memory, decoding = PeakMemory(model.device), Stopwatch()
    times, height, width = video.times.tolist(), video.height, video.width
    done = 0
    with ExitStack() as files:
        audio = files.enter_context(_audio_file(video.audio))
        writer = files.enter_context(VideoWriter(output, width, height, video.frame_rate, audio))
        for chunk in video.chunks(model.temporal_compression_ratio + 1):
            with decoding:
                decoded = decode_chunk(model, chunk, height=height, width=width, steps=steps, seed=seed)
            for image in decoded:
                writer.write(image, times[done])
                done += 1
            if on_progress is not None:
                on_progress(done, len(times))
    return replace(_report_of(video, memory), decode_seconds=decoding.seconds)


class FrameStream:
    """The frames of an opened video at the size that is coded, in chunks, with the time of each."""

    def __init__(self, reader: VideoReader, size: Size | None) -> None:
        self.reader, self.size = reader, size
        self.height = size.height if size else reader.info.height
        self.width = size.width if size else reader.info.width
        self.frame_rate = reader.info.frame_rate
        self.frames = 0

    def chunks(self, length: int, on_progress: OnProgress | None) -> Iterator[tuple[Chunk, list[float]]]:
        """Chunks of `length` frames and their times; reports progress when a chunk has been dealt with."""
        times: list[float] = []
        for chunk in split_into_chunks(self._images(times), length):
            yield chunk, times[-len(chunk.frames) :]
            self.frames += len(chunk.frames)
            times.clear()
            if on_progress is not None:
                on_progress(self.frames, self.reader.info.frames)

    def writer(self, path: Path, source: Path, extra_height: int = 0) -> VideoWriter:
        """A video of this size, rate and sound."""
        audio = source if self.reader.info.has_audio else None
        return VideoWriter(path, self.width, self.height + extra_height, self.frame_rate, audio)

    def _images(self, times: list[float]) -> Iterator[UInt8[Tensor, "h w 3"]]:
        for frame in self.reader:
            times.append(frame.time)
            yield fit(frame.image, self.size)


WritePair = Callable[[UInt8[Tensor, "h w 3"], UInt8[Tensor, "h w 3"], float], None]


@contextmanager
def _comparison_writer(
    stream: FrameStream, source: Path, path: Path | None, name: str
) -> Iterator[WritePair]:
    if path is None:
        yield lambda original, image, at: None
        return
    comparison = Comparison(stream.width, "original", name)
    with stream.writer(path, source, stream.height + 2 * STRIP) as writer:
        yield lambda original, image, at: writer.write(comparison.stack(original, image), at)


@contextmanager
def _audio_file(audio: bytes | None) -> Iterator[Path | None]:
    """The sound of a latent file as a file of its own while it is needed."""
    if audio is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "audio").with_suffix(SUFFIX)
        path.write_bytes(audio)
        yield path


def _check(steps: int, source: Path | None, output: Path, compare: Path | None) -> None:
    if steps < 1:
        raise ValueError(f"Decoding takes at least 1 step, not {steps}; --steps 1 is the default.")
    places = [path.resolve() for path in (source, output, compare) if path is not None]
    if len(set(places)) < len(places):
        raise ValueError("Input, output and comparison must be different files; choose another name for one.")


def _pass_on_damage(reader: VideoReader, on_warning: OnWarning | None) -> None:
    if reader.damage is not None and on_warning is not None:
        on_warning(f"{reader.path}: {reader.damage}.")


def _report_of(video: LatentVideo, memory: PeakMemory) -> Report:
    frames, shape = len(video.times), list(video.latents.shape)
    return Report(
        model=video.model,
        frames=frames,
        width=video.width,
        height=video.height,
        fps=float(video.frame_rate),
        latent_shape=shape,
        compression=_compression(frames, video.height, video.width, shape),
        peak_memory_mb=memory.megabytes(),
    )


def _compression(frames: int, height: int, width: int, latent_shape: list[int]) -> float:
    return frames * height * width * 3 / prod(latent_shape)
