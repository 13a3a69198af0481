"""Reconstruction quality of whole clips: read, fit to the measuring size, reconstruct, compare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import Embedder
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.data.video import VideoReader
from regen.evaluate.cost import Stopwatch
from regen.evaluate.metrics import Psnr, Sharpness, Ssim
from regen.evaluate.protocol import Size, fit
from regen.evaluate.seams import SeamRatio

DEFAULTS = DecodeOptions()


@dataclass(frozen=True)
class ClipResult:
    """What one clip gave: mean PSNR in dB and SSIM over its frames, and the seconds spent in the model.

    `psnr_pooled` is the PSNR of the mean squared error over the whole clip. `sharpness` is 1 where the
    reconstruction has as much fine detail as the original, `seam_ratio` is 1 where the seams between chunks
    can't be seen, and None for a clip of one chunk (`regen.evaluate.metrics` and `regen.evaluate.seams`).
    """

    name: str
    frames: int
    psnr: float
    psnr_pooled: float
    ssim: float
    sharpness: float
    seam_ratio: float | None
    encode_seconds: float
    decode_seconds: float

    @property
    def seconds(self) -> float:
        """Seconds spent in the model, reading and measuring apart."""
        return self.encode_seconds + self.decode_seconds


class ClipMetrics:
    """All metrics of one clip; the originals wait here until their reconstructions come."""

    def __init__(self, chunk_frames: int) -> None:
        self.psnr, self.ssim, self.sharpness = Psnr(), Ssim(), Sharpness()
        self.seams = SeamRatio(chunk_frames)
        self._waiting: list[UInt8[Tensor, "h w 3"]] = []

    def expect(self, frame: UInt8[Tensor, "h w 3"]) -> None:
        """Take the next original."""
        self._waiting.append(frame)

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next reconstructions, any number, of originals that are waiting."""
        if len(frames) == 0:
            return
        originals = torch.stack(self._waiting[: len(frames)])
        del self._waiting[: len(frames)]
        for metric in (self.psnr, self.ssim, self.sharpness, self.seams):
            metric.update(originals, frames)


def evaluate_quality(
    model: Embedder,
    files: Iterable[Path],
    size: Size | None = None,
    options: DecodeOptions = DEFAULTS,
    max_frames: int | None = None,
) -> Iterator[ClipResult]:
    """One result per file, each as soon as it is there, by the protocol of `regen.evaluate.metrics`.

    Every clip is fitted to `size`, reconstructed chunk by chunk (the last one padded and cropped back),
    rounded to 8 bits and compared with the fitted frames. The noise depends on the seed and the chunk alone,
    so a clip's figure does not depend on the other files. `max_frames` measures only the first frames.
    Memory is bounded by the chunk. Raises VideoError for a file without any readable frame.
    """
    for file in files:
        with VideoReader(file) as reader:
            frames = (fit(frame.image, size) for frame in islice(reader, max_frames))
            yield evaluate_clip(model, frames, file.stem, options)


def evaluate_clip(
    model: Embedder,
    frames: Iterable[UInt8[Tensor, "h w 3"]],
    name: str,
    options: DecodeOptions = DEFAULTS,
) -> ClipResult:
    """Reconstruct one clip from its 8-bit RGB frames and compare; ValueError when there is no frame."""
    metrics = ClipMetrics(model.temporal_compression_ratio + 1)
    encoding, decoding = Stopwatch(), Stopwatch()
    encoder, decoder = EncodeSession(model), None
    for frame in frames:
        if decoder is None:
            height, width = frame.shape[:2]
            decoder = DecodeSession(model, height=height, width=width, options=options)
        metrics.expect(frame)
        with encoding:
            chunks = encoder.feed([frame])
        for chunk in chunks:
            with decoding:
                decoded = decoder.feed(chunk)
            metrics.update(decoded)
    if decoder is None:
        raise ValueError(f"There is no frame of {name} to measure; give at least one.")
    with encoding:
        chunks = encoder.flush()
    with decoding:
        rest = torch.cat([*map(decoder.feed, chunks), decoder.flush()])
    metrics.update(rest)
    return ClipResult(
        name=name,
        frames=metrics.psnr.frames,
        psnr=metrics.psnr.compute(),
        psnr_pooled=metrics.psnr.compute_pooled(),
        ssim=metrics.ssim.compute(),
        sharpness=metrics.sharpness.compute(),
        seam_ratio=metrics.seams.compute(),
        encode_seconds=encoding.seconds,
        decode_seconds=decoding.seconds,
    )
