"""How much an embedder compresses, in the three forms in which papers state it.

A nominal ratio hides what it costs: a chunk of REGEN at ratio 4 is 5 frames in 2 latent frames, and a causal
autoencoder of ratio 4 keeps 33 frames in 9. So the numbers that are stored are counted, too.
"""

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.codec.chunks import Embedder, pad


@dataclass(frozen=True)
class Compression:
    """The three forms, for a full chunk of a video."""

    ratio: int
    """The nominal temporal ratio, as the model's name has it."""
    values_per_value: float
    """Numbers of the frames, 3 for a pixel, for each number of the latents."""
    latent_frames_per_frame: float
    """Latent frames for each frame of the video."""
    frames_per_latent: float
    """The inverse: how many times fewer latent frames there are."""


def compression(model: Embedder, height: int, width: int) -> Compression:
    """What `model` makes of frames of `height` x `width` pixels; nothing is computed for it.

    Sides are padded as a session pads them, and only the pixels of the frame itself are counted.
    """
    frames = model.chunk_frames
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        clip = torch.zeros(1, 3, frames, height, width, device=model.device, dtype=model.dtype)
        clip = pad(clip, frames, model.spatial_compression_ratio)
        latents = model.encode(clip).latent_dist.mode()
    latent_frames = latents.shape[2]
    return Compression(
        ratio=model.temporal_compression_ratio,
        values_per_value=3 * frames * height * width / latents.numel(),
        latent_frames_per_frame=latent_frames / frames,
        frames_per_latent=frames / latent_frames,
    )
