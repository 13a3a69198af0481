"""How much an embedder compresses, in the three forms in which papers state it.

A nominal ratio hides what it costs: a chunk of REGEN at ratio 4 is 5 frames in 2 latent frames, and a causal
autoencoder of ratio 4 keeps 33 frames in 9. So the numbers that are stored are counted, too. Latents of
adaptive length (One-DVA) have no figure of their model, only one of each clip.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.codec.chunks import Embedder, pad
from regen.codec.report import LatentCounter
from regen.embedders.hybrid import HybridAutoencoder


@dataclass(frozen=True)
class Compression:
    """The three forms, for a full chunk of a video, or the chunks of a clip where the length is adaptive."""

    ratio: int
    """The nominal temporal ratio, as the model's name has it."""
    compression_factor: float
    """Numbers of the frames, 3 for a pixel, for each number of the latents."""
    latent_frames_per_frame: float
    """Latent frames for each frame of the video; of the structural grid, beside which there are others."""
    frames_per_latent: float
    """The inverse: how many times fewer latent frames there are."""


def model_compression(model: Embedder, height: int, width: int) -> Compression:
    """What `model` makes of frames of `height` x `width` pixels; nothing is computed for it.

    Sides are padded as a session pads them, and only the pixels of the frame itself are counted. Not for a
    model whose latents have an adaptive length: see `compression_of_clip`.
    """
    assert not isinstance(model, HybridAutoencoder), "how much it compresses depends on the clip"
    frames = model.chunk_frames
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        clip = torch.zeros(1, 3, frames, height, width, device=model.device, dtype=model.dtype)
        clip = pad(clip, frames, model.spatial_compression_ratio)
        latents = model.encode(clip).latent_dist.mode()
    latent_frames = latents.shape[2]
    return Compression(
        ratio=model.temporal_compression_ratio,
        compression_factor=3 * frames * height * width / latents.numel(),
        latent_frames_per_frame=latent_frames / frames,
        frames_per_latent=frames / latent_frames,
    )


def clip_compression(
    model: HybridAutoencoder, latents: LatentCounter, frames: int, height: int, width: int
) -> Compression:
    """What `model` made of a clip of `frames` x `height` x `width` pixels that has these `latents`.

    Each frame is charged its part of its own chunk. So what fills up the last chunk is not counted, as it is
    not for other models, and with one length for all chunks this is the figure of a full chunk.
    """
    chunk = model.chunk_frames if frames > 1 else 1  # a clip of one frame is an image
    structural, values = prod(latents.shape), 0.0
    for index, length in enumerate(latents.lengths):
        real = min(chunk, frames - index * chunk)
        values += (structural + length * latents.shape[0]) * real / chunk
    latent_frames = latents.shape[1]
    return Compression(
        ratio=model.temporal_compression_ratio,
        compression_factor=3 * frames * height * width / values,
        latent_frames_per_frame=latent_frames / chunk,
        frames_per_latent=chunk / latent_frames,
    )
