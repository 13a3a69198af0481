"""Reconstruction quality of whole clips: reconstruct and compare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import ChunkLatents
from regen.codec.rate_control import Lengths
from regen.codec.report import LatentCounter
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.embedders.interface import Embedder
from regen.metrics.borders import BorderRatio
from regen.metrics.cost import Stopwatch
from regen.metrics.efficientnet import EfficientNetLite0, FeatureComparison
from regen.metrics.ghosting import GhostingRate, TemporalMae
from regen.metrics.lpips import Lpips, LpipsMean
from regen.metrics.memory import peak_bytes
from regen.metrics.psnr_ssim import Psnr, Sharpness, Ssim
from regen.metrics.seams import SeamRatio

DEFAULTS = DecodeOptions()
FramePairs = tuple[UInt8[Tensor, "t h w 3"], UInt8[Tensor, "t h w 3"]]


@dataclass(frozen=True, kw_only=True)
class ClipResult:
    """Quality of one clip, and the seconds in the model.

    PSNR (dB), SSIM and `lpips` are means over frames; `psnr_pooled` is the PSNR of the mean squared error.
    `sharpness`, `seam_ratio` and `border_ratio` are relative to the original: 1 is as sharp, and without
    visible borders. `temporal_mae` is in 8-bit levels, `ghosting_rate` between 0 and 1. None: one chunk
    (`seam_ratio`), one patch (`border_ratio`), one frame (`temporal_mae`), no motion (`ghosting_rate`), no
    network (`lpips`, `feature_distance`). See `regen.metrics`.
    """

    name: str
    frames: int
    psnr: float
    psnr_pooled: float
    ssim: float
    sharpness: float
    seam_ratio: float | None
    border_ratio: float | None
    temporal_mae: float | None
    ghosting_rate: float | None
    lpips: float | None
    feature_distance: float | None
    encode_seconds: float
    decode_seconds: float

    @property
    def seconds(self) -> float:
        return self.encode_seconds + self.decode_seconds


class CodingStats:
    """Cost of a reconstruction: seconds in the model, and the size of its latents."""

    def __init__(self) -> None:
        self.encoding, self.decoding, self.latents = Stopwatch(), Stopwatch(), LatentCounter()


class ClipMetrics:
    """All metrics of one clip; without `chunk_frames`, when they are unknown, there is no seam ratio."""

    def __init__(
        self,
        chunk_frames: int | None,
        lpips: Lpips | None = None,
        efficientnet: EfficientNetLite0 | None = None,
    ) -> None:
        self.psnr = Psnr()
        self.features = None if efficientnet is None else FeatureComparison(efficientnet)
        self.metrics: dict[str, Any] = {
            "psnr": self.psnr,
            "ssim": Ssim(),
            "sharpness": Sharpness(),
            "seam_ratio": None if chunk_frames is None else SeamRatio(chunk_frames),
            "border_ratio": BorderRatio(),
            "temporal_mae": TemporalMae(),
            "ghosting_rate": GhostingRate(),
            "lpips": None if lpips is None else LpipsMean(lpips),
            "feature_distance": self.features,
        }

    def update(self, originals: UInt8[Tensor, "t h w 3"], frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Add originals and their reconstructions, any number."""
        for metric in filter(None, self.metrics.values()):
            metric.update(originals, frames)

    def result(self, name: str, stats: CodingStats) -> ClipResult:
        """Raises ValueError before the first frame."""
        if self.psnr.frames == 0:
            raise ValueError(f"{name} must have at least one frame, got none.")
        values = {key: metric and metric.compute() for key, metric in self.metrics.items()}
        return ClipResult(
            name=name,
            frames=self.psnr.frames,
            psnr_pooled=self.psnr.compute_pooled(),
            encode_seconds=stats.encoding.seconds,
            decode_seconds=stats.decoding.seconds,
            **values,
        )


def reconstruct_pairs(
    model: Embedder,
    frames: Iterable[UInt8[Tensor, "h w 3"]],
    options: DecodeOptions,
    stats: CodingStats,
    lengths: Lengths | None = None,
) -> Iterator[FramePairs]:
    """Originals and reconstructions, some frames at a time; `stats` is complete after the last pair."""
    encoder, frames = EncodeSession(model, lengths=lengths), iter(frames)
    first = next(frames, None)
    if first is None:
        return
    height, width = first.shape[:2]
    decoder = DecodeSession(model, height=height, width=width, options=options)
    stats.encoding, stats.decoding = encoder.stopwatch, decoder.stopwatch
    pending: list[Tensor] = []

    def originals() -> Iterator[UInt8[Tensor, "h w 3"]]:
        for frame in chain([first], frames):
            pending.append(frame)
            yield frame

    def chunks() -> Iterator[tuple[ChunkLatents, None]]:
        for chunk in encoder.encode(originals()):
            stats.latents.add(chunk.latents)
            yield chunk, None

    for decoded in decoder.decode(chunks()):
        if len(decoded):
            yield torch.stack(pending[: len(decoded)]), decoded
            del pending[: len(decoded)]


def decode_bytes(model: Embedder, frames: int, height: int, width: int, options: DecodeOptions) -> int:
    """Most bytes of tensors besides the weights while a chunk of `frames` (or of all it has) is decoded."""
    black = torch.zeros(min(frames, model.chunk_frames), height, width, 3, dtype=torch.uint8)
    chunk = next(EncodeSession(model).encode(black))
    decoder = DecodeSession(model, height=height, width=width, options=options)
    return peak_bytes(lambda: list(decoder.decode([(chunk, None)])))


def evaluate_clip(
    model: Embedder,
    frames: Iterable[UInt8[Tensor, "h w 3"]],
    name: str,
    options: DecodeOptions = DEFAULTS,
) -> ClipResult:
    """Reconstruct one clip from 8-bit RGB frames and compare. Raises ValueError without frames."""
    metrics, stats = ClipMetrics(model.chunk_frames), CodingStats()
    for originals, decoded in reconstruct_pairs(model, frames, options, stats):
        metrics.update(originals, decoded)
    return metrics.result(name, stats)
