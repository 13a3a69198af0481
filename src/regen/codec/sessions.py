"""Streaming encoder and decoder: frames or latents in, in pieces of any length.

The state of a video lies in the session, never in the model, so several sessions can share one model. The
result depends on the frames and the options, not on how they were split into calls: chunks, and batches of
them, begin at fixed frames. Encoded frames are decoded by themselves, whichever others are asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from regen.codec.chunks import ChunkLatents, check_finite, check_size, decoded_together, to_clip, to_image
from regen.codec.extension import LatentExtension, Trajectory, offset_correction
from regen.codec.memory import OomRetry
from regen.codec.rate_control import Lengths, check_lengths, truncate_to
from regen.diffusion import Noise, Solver, euler, heun
from regen.embedders.clips import pad
from regen.embedders.interface import Embedder
from regen.latents import Latents, collate
from regen.metrics.cost import Stopwatch
from regen.networks.linear import blend_frames
from regen.runtime import generator_for
from regen.tiling import Tile

SolverName = Literal["euler", "heun"]
Seams = Literal["extend", "match", "none"]
Convert = Callable[[Tensor], Tensor]  # a decoded frame "3 h w" -> "h w 3"
SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun}


@dataclass(frozen=True)
class DecodeOptions:
    """Sampling options of a `DecodeSession`."""

    steps: int = 1
    """Denoising steps: 1 is closest to the original; more draw samples instead of means."""
    seed: int = 0
    """The noise of a frame depends on (seed, number of the chunk, time in the chunk)."""
    solver: SolverName = "euler"
    """Heun's method is of second order and evaluates the network about twice a step."""
    seams: Seams = "extend"
    """How a chunk is joined to the one before. "extend": latent extension (REGEN, Sec. 3.4), which acts from
    2 steps on. "match": offset correction. "none": chunks are independent."""
    batch: int = 1
    """Chunks decoded together where they are independent; faster on a GPU for small frames."""
    tile: Tile | None = None
    """Largest part of the picture to work on at once; by default what the model's `enable_tiling` set."""
    noise: Noise | None = None
    """Where decoding starts; by default from zero with 1 step, which is then the same for any seed."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}.")
        choices = {"solver": SOLVERS, "seams": get_args(Seams), "noise": (None, *get_args(Noise))}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}.")

    @property
    def extends(self) -> bool:
        """Whether latent extension acts: a single step evaluates the network at pure noise only."""
        return self.seams == "extend" and self.steps > 1

    @property
    def overlaps(self) -> bool:
        """Whether a chunk is decoded together with the last frame of the one before it."""
        return self.extends or self.seams == "match"


class EncodeSession:
    """Encoder of a stream of frames, chunk by chunk.

    `lengths` sets the number of 1D latents of each chunk, for models that have them; by default it follows
    the motion of the chunk. Raises ValueError for `lengths` with another model. `stopwatch` has the seconds
    inside the encoder.
    """

    def __init__(self, model: Embedder, tile: Tile | None = None, lengths: Lengths | None = None) -> None:
        check_lengths(model, lengths)
        self.model, self.lengths, self.oom_retry, self.stopwatch = model, lengths, OomRetry(tile), Stopwatch()
        self.reset()

    def reset(self) -> None:
        """Forget all frames; the next one begins a new video."""
        self._pending: list[UInt8[Tensor, "h w 3"]] = []
        self._index = 0
        self._shape: torch.Size | None = None

    def feed(self, frames: Iterable[UInt8[Tensor, "h w 3"]]) -> list[ChunkLatents]:
        """Take the next frames (8-bit RGB) and return the chunks that they complete.

        Raises ValueError when the size of the frames changes within a video.
        """
        chunks = []
        for frame in frames:
            self._shape = self._shape or frame.shape
            if frame.shape != self._shape:
                before, now = (f"{shape[1]}x{shape[0]}" for shape in (self._shape, frame.shape))
                raise ValueError(
                    f"The frame size changes from {before} to {now} pixels; set one with --size HxW."
                )
            self._pending.append(frame)
            if len(self._pending) == self.model.chunk_frames:
                chunks.append(self._encode(len(self._pending)))
        return chunks

    def flush(self) -> list[ChunkLatents]:
        """End the video: return its last chunk, if any, and reset the session.

        A short last chunk repeats its last frame; a video of one frame is an image.
        """
        is_image = self._index == 0 and len(self._pending) == 1
        length = 1 if is_image else self.model.chunk_frames
        chunks = [self._encode(length)] if self._pending else []
        self.reset()
        return chunks

    def encode(self, frames: Iterable[UInt8[Tensor, "h w 3"]]) -> Iterator[ChunkLatents]:
        """Encode a whole video chunk by chunk, reading `frames` as needed."""
        for frame in frames:
            yield from self.feed([frame])
        yield from self.flush()

    @torch.inference_mode()
    def _encode(self, length: int) -> ChunkLatents:
        model, index, count = self.model, self._index, len(self._pending)
        with self.stopwatch:
            clip = to_clip(torch.stack(self._pending), model.device, model.dtype)
            self._pending, self._index = [], index + 1
            clip = pad(clip, length, model.spatial_compression_ratio)

            def encode(tile: Tile | None) -> Latents:
                if self.lengths is not None:
                    return truncate_to(self.lengths, model, clip, index, tile)
                return Latents.of(model.encode(clip, tile=tile).latent_dist.mode())

            latents = self.oom_retry.run(encode, *clip.shape[-2:])[0].cpu()
        return ChunkLatents(index, latents, count)


@dataclass(frozen=True)
class _PreviousChunk:
    """Number of the last decoded chunk, with the trajectory and the pixels of its last frame."""

    index: int
    trajectory: Trajectory
    frame: Float[Tensor, "b 3 h w"]


class DecodeSession:
    """Decoder of a stream of latents into frames of `height` x `width` pixels.

    For models that can't extrapolate, chunks are independent whatever `options.seams` is. `convert` makes the
    frames of a decoder's, 8-bit RGB by default. `stopwatch` has the seconds inside the decoder.
    """

    def __init__(
        self, model: Embedder, *, height: int, width: int, options: DecodeOptions = DecodeOptions(),
        convert: Convert = to_image,
    ) -> None:  # fmt: skip
        self.model, self.height, self.width, self.convert = model, height, width, convert
        self.options = options if model.extrapolates else replace(options, seams="none")
        self.oom_retry, self.stopwatch = OomRetry(options.tile), Stopwatch()
        self._others_oom_retry = OomRetry(options.tile)  # of its own: encoded frames keep their tile
        self.reset()

    def reset(self) -> None:
        """Forget all chunks; the next one is not joined to them."""
        self._pending: list[tuple[ChunkLatents, list[float]]] = []
        self._previous: _PreviousChunk | None = None

    def feed(self, chunk: ChunkLatents, offsets: Sequence[float] | None = None) -> Shaped[Tensor, "t h w 3"]:
        """Take the latents of the next chunk and return the frames that are ready, on the CPU.

        `offsets` are the frames to return, counted from the chunk's first: real numbers in any order, so 0.5
        lies between the first two frames and -1 before the chunk. The default is the encoded frames, which
        are the same to the bit whatever `offsets` are. Raises ValueError for latents of another size.
        """
        check_size(self.model, chunk.latents.shape, self.height, self.width)
        wanted = range(min(chunk.frames, self._last(chunk) + 1)) if offsets is None else offsets
        ready = [self._empty()]
        if self._pending and self._pending[0][0].latents.shape != chunk.latents.shape:
            ready.append(self._decode_pending())
        self._pending.append((chunk, [float(offset) for offset in wanted]))
        if len(self._pending) == (1 if self.options.overlaps else self.options.batch):
            ready.append(self._decode_pending())
        return torch.cat(ready)

    def flush(self) -> Shaped[Tensor, "t h w 3"]:
        """End the video: return the remaining frames and reset the session."""
        ready = self._decode_pending() if self._pending else self._empty()
        self.reset()
        return ready

    def decode(
        self, chunks: Iterable[tuple[ChunkLatents, Sequence[float] | None]]
    ) -> Iterator[Shaped[Tensor, "t h w 3"]]:
        """Decode a whole video, given chunks with their `offsets`, as many frames at a time as are ready."""
        for chunk, offsets in chunks:
            yield self.feed(chunk, offsets)
        yield self.flush()

    def _empty(self) -> Shaped[Tensor, "0 h w 3"]:
        return self.convert(torch.zeros(3, self.height, self.width))[None][:0]

    def _last(self, chunk: ChunkLatents) -> int:
        """Offset of the last frame of a chunk; 0 for an image."""
        return self.model.chunk_frames - 1 if chunk.latents.shape[1] > 1 else 0

    def _decode_pending(self) -> Shaped[Tensor, "t h w 3"]:
        pending, self._pending = self._pending, []
        with self.stopwatch:
            decoded = zip(pending, self._decode(pending), strict=True)
            images = [frames[offset] for (_, offsets), frames in decoded for offset in offsets]
            return torch.stack(images).cpu() if images else self._empty()

    @torch.inference_mode()
    def _decode(self, pending: list[tuple[ChunkLatents, list[float]]]) -> list[dict[float, Tensor]]:
        """Frames of each chunk by offset: its own (encoded, overlap), decoded by themselves, and others."""
        chunks = [chunk for chunk, _ in pending]
        index, last, solver = chunks[0].index, self._last(chunks[0]), SOLVERS[self.options.solver]
        previous = self._previous if self._previous and self._previous.index + 1 == index else None
        own = [float(i) for i in range(-1 if previous else 0, last + 1)]
        extension = LatentExtension(solver, own.index(last), stored=previous.trajectory if previous else None)
        solver = extension if self.options.extends else solver
        clip = self._sample(chunks, own, solver, self.oom_retry)
        jump = previous.frame - clip[:, :, 0] if previous and self.options.seams == "match" else None
        if self.options.overlaps:
            self._previous = _PreviousChunk(index, extension.trajectory, clip[:, :, -1].clone())
        context = own if self.options.steps > 1 else []  # samples agree only when they are decoded together
        images: list[dict[float, Tensor]] = [{} for _ in chunks]
        for (chunk, offsets), found, frames in zip(pending, images, clip.split(1), strict=True):
            for piece in decoded_together(own, offsets):
                if piece is own:
                    part = frames
                elif self.model.extrapolates:
                    part = self._sample([chunk], [*context, *piece], solver, self._others_oom_retry)
                    part = part[:, :, len(context) :]
                else:
                    part = blend_frames(frames, torch.tensor(piece))
                part = part if jump is None else offset_correction(part, piece, jump)
                cropped = part[0, :, :, : self.height, : self.width].unbind(1)
                found |= zip(piece, map(self.convert, cropped), strict=True)
        return images

    def _sample(
        self, chunks: Sequence[ChunkLatents], offsets: list[float], solver: Solver, oom_retry: OomRetry
    ) -> Float[Tensor, "b 3 t h w"]:
        """Decode frames of several chunks together. Raises ValueError when they are not finite."""
        model, options = self.model, self.options
        latents = collate([chunk.latents for chunk in chunks]).to(model.device, model.dtype)
        times = torch.tensor(offsets) / max(1, self._last(chunks[0]))

        def decode(tile: Tile | None) -> Float[Tensor, "b 3 t h w"]:
            generators = [generator_for(options.seed, chunk.index) for chunk in chunks]
            return model.decode(
                latents.for_decoder(), times, steps=options.steps, generator=generators, solver=solver,
                tile=tile, noise=options.noise,
            ).sample  # fmt: skip

        height, width = (side * model.spatial_compression_ratio for side in latents.shape[-2:])
        clip = oom_retry.run(decode, height, width)
        check_finite(clip, f"Chunk {chunks[0].index}")
        return clip


def encode_frames(
    model: Embedder,
    frames: Iterable[UInt8[Tensor, "h w 3"]],
    tile: Tile | None = None,
    lengths: Lengths | None = None,
) -> Iterator[ChunkLatents]:
    """Encode a whole video chunk by chunk, reading `frames` as needed."""
    return EncodeSession(model, tile, lengths).encode(frames)


def decode_chunks(
    model: Embedder, chunks: Iterable[ChunkLatents], *, height: int, width: int,
    options: DecodeOptions = DecodeOptions(), convert: Convert = to_image,
) -> Iterator[Shaped[Tensor, "h w 3"]]:  # fmt: skip
    """Decode a whole video, frame by frame, cropped to `height` x `width` pixels (see `DecodeSession`)."""
    session = DecodeSession(model, height=height, width=width, options=options, convert=convert)
    for images in session.decode((chunk, None) for chunk in chunks):
        yield from images
