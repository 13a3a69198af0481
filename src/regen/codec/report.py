"""Figures of a run: compression, quality, speed and memory."""

from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.embedders.clips import pad
from regen.embedders.hybrid import HybridAutoencoder
from regen.embedders.interface import Embedder
from regen.latents import Latents


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures of `regen reconstruct`, `encode` or `decode`; None for what was not measured."""

    model: str
    frames: int
    width: int
    height: int
    fps: float
    latent_shape: list[int]
    compression: float
    """Values in the video (3 a pixel) for each value in the latents."""
    values_per_second: float
    """Values in the latents for each second of the video."""
    lengths: list[int] | None = None
    """1D latents of each chunk, for models that have them."""
    psnr: float | None = None
    """Mean PSNR (dB) over the frames, 8-bit original against 8-bit reconstruction, before video coding."""
    ssim: float | None = None
    """Mean SSIM over the same frames."""
    seam_ratio: float | None = None
    """Jumps between chunks over those inside, relative to the original: 1 is seamless (`metrics.seams`)."""
    encode_seconds: float | None = None
    """Seconds inside the encoder."""
    decode_seconds: float | None = None
    """Seconds inside the decoder."""
    tile: list[int] | None = None
    """Height and width of the tiles in pixels; None for whole frames."""
    peak_memory_mb: float | None = None
    """Peak memory (10^6 bytes) of the GPU where one is used, else of the process."""


class LatentCounter:
    """Counts the latents of a video, chunk by chunk."""

    def __init__(self) -> None:
        self.values, self.chunks = 0, 0
        self.shape: list[int] = []
        self.lengths: list[int] = []

    def add(self, latents: Latents) -> None:
        """Count the latents of the next chunk (without batch axis)."""
        self.values += latents.numel()
        self.chunks += 1
        self.shape = list(latents.shape)
        if latents.has_sequence:
            self.lengths.append(latents.length)


def make_report(
    model: str, size: tuple[int, int, int], frame_rate: Fraction, latents: LatentCounter, **measured: Any
) -> Report:
    """The report of a video of `size` (frames, height, width); `measured` are the fields with a default."""
    frames, height, width = size
    return Report(
        model=model,
        frames=frames,
        width=width,
        height=height,
        fps=float(frame_rate),
        latent_shape=[latents.chunks, *latents.shape],
        compression=frames * height * width * 3 / latents.values,
        values_per_second=latents.values * float(frame_rate) / frames,
        lengths=latents.lengths or None,
        **measured,
    )


@dataclass(frozen=True)
class Compression:
    """How much a model compresses a full chunk, or a clip where the length of the latents is adaptive.

    The nominal ratio alone hides the cost: a chunk of REGEN at ratio 4 is 5 frames in 2 latent frames, while
    a causal autoencoder of ratio 4 keeps 33 frames in 9.
    """

    ratio: int
    """Nominal temporal compression ratio."""
    compression_factor: float
    """Values in the frames (3 a pixel) for each value in the latents."""
    nominal_compression_factor: float
    """C H W (T - 1) / (c h w t), REGEN's factor (supplement, Fig. 12): the first of the T frames of a chunk
    is not counted, its latents are. An image counts as one frame. REGEN, 8 channels: 48, 96, 192, 384."""
    latent_frames_per_frame: float
    """Latent frames for each frame of the video; 1D latents are not counted."""
    frames_per_latent: float
    """The inverse of `latent_frames_per_frame`."""


def model_compression(model: Embedder, height: int, width: int) -> Compression:
    """Compression of a full chunk without padding, from shapes alone (see also `clip_compression`)."""
    assert not isinstance(model, HybridAutoencoder), "the compression depends on the clip"
    frames, latents = model.chunk_frames, LatentCounter()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        clip = torch.zeros(1, 3, frames, height, width, device=model.device, dtype=model.dtype)
        clip = pad(clip, frames, model.spatial_compression_ratio)
        latents.add(Latents.of(model.encode(clip).latent_dist.mode())[0])
    return clip_compression(model, latents, frames, height, width)


def clip_compression(
    model: Embedder, latents: LatentCounter, frames: int, height: int, width: int
) -> Compression:
    """The compression of a clip of `frames` x `height` x `width` pixels into these `latents`.

    A chunk's values count in proportion to its real frames, so the padding of the last chunk costs nothing;
    with one length for all chunks this is the figure of a full chunk.
    """
    chunk = model.chunk_frames if frames > 1 else 1  # a single frame is an image
    structural, values = prod(latents.shape), 0.0
    for index, length in enumerate(latents.lengths or [0] * latents.chunks):
        real_frames = min(chunk, frames - index * chunk)
        values += (structural + length * latents.shape[0]) * real_frames / chunk
    latent_frames, factor = latents.shape[1], 3 * frames * height * width / values
    return Compression(
        ratio=model.temporal_compression_ratio,
        compression_factor=factor,
        nominal_compression_factor=factor * max(chunk - 1, 1) / chunk,
        latent_frames_per_frame=latent_frames / chunk,
        frames_per_latent=chunk / latent_frames,
    )
