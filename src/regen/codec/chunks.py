"""A video of any length and size through an embedder, one chunk of k + 1 frames at a time.

Every chunk is coded on its own (spec A3): a short last chunk repeats its last frame, sides that are no
multiple of 8 repeat their border, and both are cut off again after decoding. A single frame is an image and
has one latent frame instead of two. Nothing is kept between chunks, and the noise of chunk i depends on
(seed, i) alone, so memory is bounded by the chunk and no result depends on what came before.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional

from regen.runtime import generator_for


@runtime_checkable
class Embedder(Protocol):
    """What this package needs of a model: every class in `regen.embedders` has it, as diffusers names it."""

    @property
    def temporal_compression_ratio(self) -> int: ...

    @property
    def spatial_compression_ratio(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def encode(self, video: Tensor) -> Any: ...

    def decode(self, latents: Tensor, *, steps: int, generator: Generator) -> Any: ...


@dataclass(frozen=True)
class Chunk:
    """Frames that are coded together: `frames` as in the video, `length` once padded (1 or k + 1)."""

    index: int
    frames: UInt8[Tensor, "t h w 3"]
    length: int


@dataclass(frozen=True)
class ChunkLatents:
    """The normalised latents (on the CPU) that stand for the next `frames` frames of a video."""

    index: int
    latents: Float[Tensor, "c n h w"]
    frames: int


def split_into_chunks(frames: Iterable[UInt8[Tensor, "h w 3"]], length: int) -> Iterator[Chunk]:
    """Chunks of `length` frames in order; the last may hold fewer. A video of one frame is an image.

    Raises ValueError when the size of the frames changes on the way.
    """
    rest = iter(frames)
    index, shape = 0, None
    while taken := list(islice(rest, length)):
        shape = shape or taken[0].shape
        changed = next((frame for frame in taken if frame.shape != shape), None)
        if changed is not None:
            raise ValueError(
                f"The picture changes from {shape[1]}x{shape[0]} to {changed.shape[1]}x{changed.shape[0]} "
                "pixels within the video; give one size with --size HxW."
            )
        is_image = index == 0 and len(taken) == 1
        yield Chunk(index, torch.stack(taken), 1 if is_image else length)
        index += 1


@torch.inference_mode()
def encode_chunk(model: Embedder, chunk: Chunk) -> ChunkLatents:
    """Latents of one chunk, in the model's precision; deterministic (the mode of the posterior)."""
    clip = _to_clip(chunk.frames, model.device, model.dtype)
    clip = _pad(clip, chunk.length, model.spatial_compression_ratio)
    height, width = clip.shape[-2:]
    with _memory_hint(width, height):
        latents = model.encode(clip).latent_dist.mode()[0].cpu()
    return ChunkLatents(chunk.index, latents, len(chunk.frames))


@torch.inference_mode()
def decode_chunk(
    model: Embedder, chunk: ChunkLatents, *, height: int, width: int, steps: int, seed: int
) -> UInt8[Tensor, "t h w 3"]:
    """The frames of one chunk, re-generated in `steps` denoising steps from the noise of (seed, index)."""
    latents = chunk.latents[None].to(model.device, model.dtype)
    ratio = model.spatial_compression_ratio
    with _memory_hint(latents.shape[-1] * ratio, latents.shape[-2] * ratio):
        generator = generator_for(seed, chunk.index)
        clip = model.decode(latents, steps=steps, generator=generator).sample
        return _to_frames(clip[:, :, : chunk.frames, :height, :width])


def encode_frames(model: Embedder, frames: Iterable[UInt8[Tensor, "h w 3"]]) -> Iterator[ChunkLatents]:
    """Latents of a whole video, chunk by chunk, read from `frames` as they are needed."""
    for chunk in split_into_chunks(frames, model.temporal_compression_ratio + 1):
        yield encode_chunk(model, chunk)


def decode_chunks(
    model: Embedder, chunks: Iterable[ChunkLatents], *, height: int, width: int, steps: int = 1, seed: int = 0
) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames of a whole video, one by one, cropped to `height` x `width` pixels."""
    for chunk in chunks:
        yield from decode_chunk(model, chunk, height=height, width=width, steps=steps, seed=seed)


def _to_clip(
    frames: UInt8[Tensor, "t h w 3"], device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "1 3 t h w"]:
    clip = rearrange(frames.to(device), "t h w c -> 1 c t h w")
    return (clip.float() / 127.5 - 1).to(dtype)


def _to_frames(clip: Float[Tensor, "1 3 t h w"]) -> UInt8[Tensor, "t h w 3"]:
    values = (clip.float().clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)
    return rearrange(values, "1 c t h w -> t h w c").cpu()


def _pad(clip: Float[Tensor, "1 3 t h w"], length: int, multiple: int) -> Float[Tensor, "1 3 T H W"]:
    """Repeat the last frame up to `length`, and the right and lower border up to a multiple of `multiple`."""
    height, width = clip.shape[-2:]
    sides = (0, -width % multiple, 0, -height % multiple, 0, length - clip.shape[2])
    return functional.pad(clip, sides, mode="replicate")


@contextmanager
def _memory_hint(width: int, height: int) -> Iterator[None]:
    """Turn torch's "out of memory", of a GPU or of the CPU, into one sentence that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(
                f"Not enough memory for a chunk of {width}x{height} pixels; choose a smaller --size, "
                "--dtype bf16, or a device with more memory."
            ) from None
        raise
