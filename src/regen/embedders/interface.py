"""Embedder: the interface of a video embedder."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from regen.diffusion import Noise, Solver
from regen.tiling import Tile


@runtime_checkable
class Embedder(Protocol):
    """The interface of a video embedder, named as in diffusers; all of `regen.embedders` have it."""

    @property
    def temporal_compression_ratio(self) -> int: ...

    @property
    def spatial_compression_ratio(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

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
