"""The chunks of a video: latents, 8-bit frames.

A short last chunk repeats its last frame, and sides that are not a multiple of the spatial ratio (8 or 16
pixels) repeat their border; both are cropped after decoding. A single frame is an image and has one latent
frame (docs/method.md, Sec. 1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.embedders.interface import Embedder
from regen.latents import Latents
from regen.media.pixels import uint8_to_signed


@dataclass(frozen=True)
class ChunkLatents:
    """Normalised latents (on the CPU) of chunk number `index`, which holds `frames` frames of the video."""

    index: int
    latents: Latents
    frames: int


def to_clip(
    frames: UInt8[Tensor, "t h w 3"], device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "1 3 t h w"]:
    """Convert 8-bit frames to a clip with values in [-1, 1]."""
    return uint8_to_signed(rearrange(frames.to(device), "t h w c -> 1 c t h w")).to(dtype)


def to_float(frame: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w 3"]:
    """Convert a decoded frame to values in [0, 1] in fp32; values outside are clamped."""
    return rearrange((frame.float().clamp(-1, 1) + 1) / 2, "c h w -> h w c")


def to_image(frame: Float[Tensor, "3 h w"]) -> UInt8[Tensor, "h w 3"]:
    """Convert a decoded frame to 8 bits; values outside [-1, 1] are clamped."""
    values = (frame.float().clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)
    return rearrange(values, "c h w -> h w c")


def check_size(model: Embedder, latents: Sequence[int], height: int, width: int) -> None:
    """Raises ValueError unless `latents` (c n y x) is the shape of those of frames of `height` x `width`."""
    side = model.spatial_compression_ratio
    expected = (model.latent_channels, -(-height // side), -(-width // side))
    needed, got = (" x ".join(map(str, shape)) for shape in (expected, (latents[0], *latents[-2:])))
    if needed != got:
        raise ValueError(
            f"Frames of {width}x{height} pixels need latents of {needed} (channels, rows, columns), got "
            f"{got}; give the size that was encoded."
        )


def check_finite(frames: Tensor, part: str) -> None:
    """Raises ValueError unless the frames that `part` was decoded to are finite."""
    if not bool(torch.isfinite(frames).all()):
        raise ValueError(f"{part} decoded to values that are not finite; try --dtype fp32.")


def decoded_together(own: list[float], wanted: Iterable[float]) -> list[list[float]]:
    """The encoded frames, and after them the other wanted ones in pieces of at most as many."""
    others, size = sorted({*wanted} - {*own}), len(own)
    return [own, *(others[start : start + size] for start in range(0, len(others), size))]
