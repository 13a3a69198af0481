"""Encoded videos as a LATENT of ComfyUI, and back.

Its `samples` are the grids of all chunks, "1 c f y x" in fp32, so that other nodes can change them. Under
the key `regen` it has what else decoding needs.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from einops import rearrange

from regen.codec.chunks import ChunkLatents
from regen.latents import Latents
from regen.pretrained.models import Autoencoder

KEY = "regen"


@dataclass(frozen=True)
class EncodedVideo:
    """The latents of all chunks, as a batch on the CPU, and the frames that they stand for."""

    latents: Latents
    frames: int
    height: int
    width: int
    frame_rate: Fraction
    chunk_frames: int
    """Frames of a chunk of the embedder."""

    def chunks(self) -> list[ChunkLatents]:
        """The latents chunk by chunk; the last one may hold fewer frames."""
        starts = range(0, len(self.latents) * self.chunk_frames, self.chunk_frames)
        counts = [min(self.chunk_frames, self.frames - start) for start in starts]
        return [ChunkLatents(index, self.latents[index], count) for index, count in enumerate(counts)]

    def coded_size(self, ratio: int) -> tuple[int, int]:
        """Height and width to decode, in pixels: those of the frames, or more where the latents have more."""
        sides = zip((self.height, self.width), self.latents.shape[-2:], strict=True)
        height, width = (side if -(-side // ratio) == cells else cells * ratio for side, cells in sides)
        return height, width


def as_latent(video: EncodedVideo) -> dict[str, Any]:
    """The LATENT of a video."""
    return {"samples": rearrange(video.latents.grid.float(), "m c n y x -> 1 c (m n) y x"), KEY: video}


def from_latent(latent: dict[str, Any], model: Autoencoder) -> EncodedVideo:
    """The video of a LATENT with its samples as they are now. Raises ValueError for any other LATENT."""
    video, samples = latent.get(KEY), latent["samples"]
    if not isinstance(video, EncodedVideo):
        raise ValueError("The latent must come from Regen Encode or Regen Generate, got one of another node.")
    m, c, n, y, x = video.latents.shape
    if samples.shape != (1, c, m * n, y, x) or video.chunk_frames != model.chunk_frames:
        raise ValueError(
            f"The latent must keep its shape {(1, c, m * n, y, x)} and be decoded by a model with chunks of "
            f"{video.chunk_frames} frames, got {tuple(samples.shape)} and {model.chunk_frames}."
        )
    grid = rearrange(samples.cpu(), "1 c (m n) y x -> m c n y x", m=m)
    return replace(video, latents=replace(video.latents, grid=grid))
