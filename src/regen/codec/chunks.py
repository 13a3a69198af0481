"""The chunks of a video: the model's interface, latents, 8-bit frames.

A short last chunk repeats its last frame, and sides that are not a multiple of the spatial ratio (8 or 16
pixels) repeat their border; both are cropped after decoding. A single frame is an image and has one latent
frame (docs/method.md, Sec. 1).
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

from regen.diffusion import Noise, Solver
from regen.latents import Latents
from regen.media.pixels import uint8_to_signed
from regen.tiling import Tile


@runtime_checkable
class Embedder(Protocol):
    """The interface of a video embedder, named as in diffusers; all of `regen.embedders` have it."""

    @property
    def temporal_compression_ratio(self) -> int: ...

    @property
    def spatial_compression_ratio(self) -> int: ...

    @property
    def chunk_frames(self) -> int: ...

    @property
    def denoises(self) -> bool: ...

    @property
    def extrapolates(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, video: Tensor, *, tile: Tile | None = None) -> Any: ...

    def decode(
        self,
        latents: Any,
        times: Tensor,
        *,
        steps: int,
        generator: list[Generator],
        solver: Solver,
        tile: Tile | None = None,
        noise: Noise | None = None,
    ) -> Any: ...

    def activation_bytes(self, frames: int, height: int, width: int) -> int: ...


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
