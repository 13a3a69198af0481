"""Reconstruction quality of whole clips: read, fit to the measuring size, reconstruct, compare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import Embedder
from regen.codec.rate_control import Lengths
from regen.codec.report import LatentCounter
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.media.reader import VideoReader
from regen.media.sizes import Size, resize_center_crop
from regen.metrics.cost import Stopwatch
from regen.metrics.ghosting import GhostingRate, TemporalMae
from regen.metrics.lpips import Lpips, LpipsMean
from regen.metrics.psnr_ssim import Psnr, Sharpness, Ssim
from regen.metrics.seams import SeamRatio

DEFAULTS = DecodeOptions()
FramePairs = tuple[UInt8[Tensor, "t h w 3"], UInt8[Tensor, "t h w 3"]]


@dataclass(frozen=True)
class ClipResult:
    """What one clip gave: mean PSNR in dB and SSIM over its frames, and the seconds spent in the model.

    `psnr_pooled` is the PSNR of the mean squared error over the whole clip. `sharpness` is 1 where the
    reconstruction has as much fine detail as the original, `seam_ratio` is 1 where the seams between chunks
    can't be seen, and None for a clip of one chunk (`regen.metrics.psnr_ssim` and `regen.metrics.seams`).
    `temporal_mae` (8-bit levels) and `ghosting_rate` tell of ghosts (`regen.metrics.ghosting`); they are
    None for a single frame, and the share where nothing moves. `lpips` is None where none was asked for.
    """

    name: str
    frames: int
    psnr: float
    psnr_pooled: float
    ssim: float
    sharpness: float
    seam_ratio: float | None
    temporal_mae: float | None
    ghosting_rate: float | None
    lpips: float | None
    encode_seconds: float
    decode_seconds: float

    @property
    def seconds(self) -> float:
        """Seconds spent in the model, reading and measuring apart."""
        return self.encode_seconds + self.decode_seconds


class ClipMetrics:
    """All metrics of one clip.

    Without `chunk_frames`, for frames of which nobody knows where a chunk ends, there is no `seam_ratio`.
    """

    def __init__(self, chunk_frames: int | None, lpips: Lpips | None = None) -> None:
        self.psnr, self.ssim, self.sharpness = Psnr(), Ssim(), Sharpness()
        self.temporal_mae, self.ghosting_rate = TemporalMae(), GhostingRate()
        self.seams = None if chunk_frames is None else SeamRatio(chunk_frames)
        self.lpips = None if lpips is None else LpipsMean(lpips)

    def update(self, originals: UInt8[Tensor, "t h w 3"], frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next originals and their reconstructions, any number."""
        fixed = (self.psnr, self.ssim, self.sharpness, self.temporal_mae, self.ghosting_rate)
        for metric in (*fixed, *(each for each in (self.seams, self.lpips) if each is not None)):
            metric.update(originals, frames)

    def result(self, name: str, encode_seconds: float, decode_seconds: float) -> ClipResult:
        """All figures; ValueError when there was no frame."""
        if self.psnr.frames == 0:
            raise ValueError(f"There is no frame of {name} to measure; give at least one.")
        return ClipResult(
            name=name,
            frames=self.psnr.frames,
            psnr=self.psnr.compute(),
            psnr_pooled=self.psnr.compute_pooled(),
            ssim=self.ssim.compute(),
            sharpness=self.sharpness.compute(),
            seam_ratio=None if self.seams is None else self.seams.compute(),
            temporal_mae=self.temporal_mae.compute(),
            ghosting_rate=self.ghosting_rate.compute(),
            lpips=None if self.lpips is None else self.lpips.compute(),
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
        )


def reconstruct_pairs(
    model: Embedder,
    frames: Iterable[UInt8[Tensor, "h w 3"]],
    options: DecodeOptions,
    encoding: Stopwatch,
    decoding: Stopwatch,
    latents: LatentCounter | None = None,
    lengths: Lengths | None = None,
) -> Iterator[FramePairs]:
    """Originals with their reconstructions, some frames at a time; memory is bounded by the chunk.

    `latents` counts what was encoded, with `lengths` as `EncodeSession` takes them. It is complete when the
    pairs are.
    """
    waiting: list[UInt8[Tensor, "h w 3"]] = []
    encoder, decoder = EncodeSession(model, lengths=lengths), None
    tally = LatentCounter() if latents is None else latents

    def pair(decoded: UInt8[Tensor, "t h w 3"]) -> Iterator[FramePairs]:
        if len(decoded):
            yield torch.stack(waiting[: len(decoded)]), decoded
            del waiting[: len(decoded)]

    for frame in frames:
        if decoder is None:
            height, width = frame.shape[:2]
            decoder = DecodeSession(model, height=height, width=width, options=options)
        waiting.append(frame)
        with encoding:
            chunks = encoder.feed([frame])
        for chunk in chunks:
            tally.add(chunk.latents)
            with decoding:
                decoded = decoder.feed(chunk)
            yield from pair(decoded)
    if decoder is None:
        return
    with encoding:
        chunks = encoder.flush()
    for chunk in chunks:
        tally.add(chunk.latents)
    with decoding:
        rest = torch.cat([*map(decoder.feed, chunks), decoder.flush()])
    yield from pair(rest)


def evaluate_files(
    model: Embedder,
    files: Iterable[Path],
    size: Size | None = None,
    options: DecodeOptions = DEFAULTS,
    max_frames: int | None = None,
) -> Iterator[ClipResult]:
    """One result per file, each as soon as it is there, by the protocol of `regen.metrics.psnr_ssim`.

    Every clip is fitted to `size`, reconstructed chunk by chunk (the last one padded and cropped back),
    rounded to 8 bits and compared with the fitted frames. The noise depends on the seed and the chunk alone,
    so a clip's figure does not depend on the other files. `max_frames` measures only the first frames.
    Memory is bounded by the chunk. Raises VideoError for a file without any readable frame.
    """
    for file in files:
        with VideoReader(file) as reader:
            frames = (resize_center_crop(frame.image, size) for frame in islice(reader, max_frames))
            yield evaluate_clip(model, frames, file.stem, options)


def evaluate_clip(
    model: Embedder,
    frames: Iterable[UInt8[Tensor, "h w 3"]],
    name: str,
    options: DecodeOptions = DEFAULTS,
) -> ClipResult:
    """Reconstruct one clip from its 8-bit RGB frames and compare; ValueError when there is no frame."""
    metrics, encoding, decoding = ClipMetrics(model.chunk_frames), Stopwatch(), Stopwatch()
    for originals, decoded in reconstruct_pairs(model, frames, options, encoding, decoding):
        metrics.update(originals, decoded)
    return metrics.result(name, encoding.seconds, decoding.seconds)
