"""Videos of any length and size as the clips of a model, and latents of many chunks as those of one each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from regen.latents import LatentPosterior, Latents, collate, pack

SNAP = 1e-3  # of a frame: times are fractions of a chunk in fp32


@dataclass(frozen=True)
class PointPosterior:
    """The posterior of an embedder without variances: the latents themselves."""

    parameters: Tensor

    @property
    def mean(self) -> Tensor:
        return self.parameters

    def mode(self) -> Tensor:
        return self.parameters

    def sample(self, generator: Generator | list[Generator] | None = None) -> Tensor:
        return self.parameters


def check_video(video: Any, name: str) -> None:
    """Raise ValueError unless it is a video as the embedder `name` takes it; only the shape is looked at."""
    is_video = _is_filled(video) and video.ndim == 5 and video.shape[1] == 3
    if not is_video:
        raise ValueError(
            f"{name} encodes floating-point tensors b 3 t h w, RGB in [-1, 1], got {_described(video)}."
        )


def check_latents(latents: Any, channels: int, name: str) -> None:
    """Raise ValueError unless they are latents of so many channels; only the shape is looked at."""
    is_latent = isinstance(latents, Latents) or _is_filled(latents)
    if not is_latent or len(latents.shape) != 5 or latents.shape[1] != channels:
        raise ValueError(
            f"{name} decodes floating-point tensors b c n y x with {channels} channels, got "
            f"{_described(latents)}."
        )


def _is_filled(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and 0 not in value.shape


def _described(value: Any) -> str:
    if not isinstance(value, Tensor | Latents):
        return type(value).__name__
    shape = " x ".join(map(str, value.shape)) or "a number"
    return f"{shape} of {str(value.dtype).removeprefix('torch.')}" if isinstance(value, Tensor) else shape


def pad(clip: Float[Tensor, "b 3 t h w"], length: int, multiple: int) -> Float[Tensor, "b 3 T H W"]:
    """Repeat the last frame up to `length` frames, and the right and lower border up to `multiple` pixels."""
    height, width = clip.shape[-2:]
    sides = (0, -width % multiple, 0, -height % multiple, 0, length - clip.shape[2])
    return F.pad(clip, sides, mode="replicate")


def join_posteriors(posteriors: Sequence[Any], dim: int) -> Any:
    """The posterior of a batch from those of its clips (`dim` 0), or of a video from its chunks (2)."""
    first = posteriors[0]
    if len(posteriors) == 1:
        return first
    if not isinstance(first, LatentPosterior):
        return type(first)(torch.cat([posterior.parameters for posterior in posteriors], dim=dim))
    if dim == 2:  # each chunk has regions of its own
        parts = [part for posterior in posteriors for part in posterior.parts]
    else:
        parts = [torch.cat(rows) for rows in zip(*(posterior.parts for posterior in posteriors), strict=True)]
    grid = torch.cat([posterior.grid for posterior in posteriors], dim=dim)
    lengths = torch.cat([posterior.lengths for posterior in posteriors], dim=dim // 2)
    return LatentPosterior(grid, parts, lengths, first.channels)


def split_chunks(latents: Tensor | Latents, latent_frames: int) -> list[Any]:
    """The latents of each chunk of `latent_frames` latent frames, from those of a batch of videos."""
    if isinstance(latents, Tensor):
        return list(latents.split(latent_frames, dim=2))
    grids = latents.grid.split(latent_frames, dim=2)
    if len(grids) == 1:
        return [latents]
    parts, lengths = [part for part, _ in latents.regions()], latents.lengths.chunk(len(grids), dim=1)
    regions = len(parts) // len(grids)
    own = (parts[i * regions : (i + 1) * regions] for i in range(len(grids)))
    return [pack(*chunk) for chunk in zip(grids, own, lengths, strict=True)]


def split_rows(latents: Tensor | Latents) -> list[Any]:
    """Each entry of a batch as a batch of one."""
    if isinstance(latents, Tensor):
        return list(latents.split(1))
    return [collate([latents[i]]) for i in range(len(latents))]


def frames_at(times: Float[Tensor, " t"], last: int) -> list[float]:
    """Times as positions in frames. Raises ValueError outside of the video."""
    frames = [time * last for time in times.double().tolist()]
    frames = [float(round(frame)) if abs(frame - round(frame)) < SNAP else frame for frame in frames]
    if not all(0 <= frame <= last for frame in frames) or (last == 0 and any(times.tolist())):
        raise ValueError("Times must be from 0 to 1, and 0 for an image: this decoder does not extrapolate.")
    return frames
