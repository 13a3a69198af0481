"""Streaming encoder and decoder: frames or latents in, in pieces of any length.

The state of a video lies in the session, never in the model, so several sessions can share one model. The
result depends on the frames and the options, not on how they were split into calls: chunks, and batches of
them, begin at fixed frames, and the noise of chunk i depends on (seed, i).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.codec.chunks import ChunkLatents, Embedder, pad, to_clip, to_image
from regen.codec.extension import LatentExtension, Trajectory, offset_correction
from regen.codec.memory import OomRetry
from regen.codec.rate_control import Lengths, check_lengths, truncate_to
from regen.diffusion import Solver, euler, heun
from regen.latents import Latents, collate
from regen.metrics.cost import Stopwatch
from regen.runtime import generator_for
from regen.tiling import Tile

SolverName = Literal["euler", "heun"]
Seams = Literal["extend", "match", "none"]
SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun}


@dataclass(frozen=True)
class DecodeOptions:
    """Sampling options of a `DecodeSession`."""

    steps: int = 1
    """Denoising steps: 1 is closest to the original; more draw samples instead of means."""
    seed: int = 0
    """The noise of chunk i depends on (seed, i)."""
    solver: SolverName = "euler"
    """Heun's method is of second order and evaluates the network about twice a step."""
    seams: Seams = "extend"
    """How a chunk is joined to the one before it. "extend": latent extension (REGEN, Sec. 3.4), which needs 2
    steps or more and is skipped with 1. "match": offset correction. "none": chunks are independent."""
    batch: int = 1
    """Chunks decoded together where they are independent; faster on a GPU for small frames."""
    tile: Tile | None = None
    """Largest part of the picture to work on at once; by default what the model's `enable_tiling` set."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}.")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}.")
        if self.seams not in get_args(Seams):
            raise ValueError(f"seams must be one of {', '.join(get_args(Seams))}, got {self.seams!r}.")

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
        self.model, self.oom_retry, self.lengths = model, OomRetry(tile), lengths
        self.stopwatch = Stopwatch()
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
class _Request:
    """A chunk, the frame offsets to return, and those to decode (which include the encoded frames)."""

    chunk: ChunkLatents
    offsets: list[float]
    decoded: list[float]


@dataclass(frozen=True)
class _PreviousChunk:
    """Number of the last decoded chunk, with the trajectory and the pixels of its last frame."""

    index: int
    trajectory: Trajectory
    frame: Float[Tensor, "b 3 h w"]


class DecodeSession:
    """Decoder of a stream of latents into frames of `height` x `width` pixels.

    For models that can't extrapolate, chunks are independent whatever `options.seams` is. `stopwatch` has the
    seconds inside the decoder.
    """

    def __init__(
        self, model: Embedder, *, height: int, width: int, options: DecodeOptions = DecodeOptions()
    ) -> None:
        self.model, self.height, self.width = model, height, width
        self.options = options if model.extrapolates else replace(options, seams="none")
        self.oom_retry, self.stopwatch = OomRetry(options.tile), Stopwatch()
        self.reset()

    def reset(self) -> None:
        """Forget all chunks; the next one is not joined to them."""
        self._pending: list[_Request] = []
        self._previous: _PreviousChunk | None = None

    def feed(self, chunk: ChunkLatents, offsets: Sequence[float] | None = None) -> UInt8[Tensor, "t h w 3"]:
        """Take the latents of the next chunk and return the frames that are ready, 8-bit RGB on the CPU.

        `offsets` are the frames to return, counted from the chunk's first: real numbers in any order, so 0.5
        lies between the first two frames and -1 before the chunk. The default is the encoded frames, which
        are always decoded too, because the model knows them best. Raises ValueError when the latents do not
        fit the size of the frames.
        """
        request = self._request(chunk, offsets)
        ready, first = [self._empty()], (self._pending or [request])[0]
        if (first.decoded, first.chunk.latents.shape) != (request.decoded, chunk.latents.shape):
            ready.append(self._decode_pending())
        self._pending.append(request)
        if len(self._pending) == (1 if self.options.overlaps else self.options.batch):
            ready.append(self._decode_pending())
        return torch.cat(ready)

    def flush(self) -> UInt8[Tensor, "t h w 3"]:
        """End the video: return the remaining frames and reset the session."""
        ready = self._decode_pending() if self._pending else self._empty()
        self.reset()
        return ready

    def decode(
        self, chunks: Iterable[tuple[ChunkLatents, Sequence[float] | None]]
    ) -> Iterator[UInt8[Tensor, "t h w 3"]]:
        """Decode a whole video, given chunks with their `offsets`, as many frames at a time as are ready."""
        for chunk, offsets in chunks:
            yield self.feed(chunk, offsets)
        yield self.flush()

    def _empty(self) -> UInt8[Tensor, "0 h w 3"]:
        return torch.empty(0, self.height, self.width, 3, dtype=torch.uint8)

    def _request(self, chunk: ChunkLatents, offsets: Sequence[float] | None) -> _Request:
        ratio = self.model.spatial_compression_ratio
        expected = (-(-self.height // ratio), -(-self.width // ratio))
        if chunk.latents.shape[-2:] != expected:
            raise ValueError(
                f"Frames of {self.width}x{self.height} pixels need {expected[1]}x{expected[0]} latents, got "
                f"{chunk.latents.shape[-1]}x{chunk.latents.shape[-2]}; give the size that was encoded."
            )
        encoded = [float(i) for i in range(self._last(chunk) + 1)]
        wanted = encoded[: chunk.frames] if offsets is None else [float(value) for value in offsets]
        overlap = [-1.0] if self.options.overlaps and self._follows(chunk) else []
        return _Request(chunk, wanted, sorted({*encoded, *wanted, *overlap}))

    def _last(self, chunk: ChunkLatents) -> int:
        """Offset of the last frame of a chunk; 0 for an image."""
        return self.model.chunk_frames - 1 if chunk.latents.shape[1] > 1 else 0

    def _follows(self, chunk: ChunkLatents) -> bool:
        return self._previous is not None and self._previous.index + 1 == chunk.index

    def _decode_pending(self) -> UInt8[Tensor, "t h w 3"]:
        requests, self._pending = self._pending, []
        with self.stopwatch:
            images = [
                to_image(clip[:, request.decoded.index(offset), : self.height, : self.width])
                for clip, request in zip(self._decode(requests), requests, strict=True)
                for offset in request.offsets
            ]
            return torch.stack(images).cpu() if images else self._empty()

    @torch.inference_mode()
    def _decode(self, requests: list[_Request]) -> Float[Tensor, "b 3 t h w"]:
        model, options, offsets = self.model, self.options, requests[0].decoded
        chunk, last = requests[0].chunk, self._last(requests[0].chunk)
        latents = collate([request.chunk.latents for request in requests]).to(model.device, model.dtype)
        solver, previous = SOLVERS[options.solver], self._previous if self._follows(chunk) else None
        if options.extends:
            overlap, stored = (offsets.index(-1.0), previous.trajectory) if previous else (0, None)
            solver = LatentExtension(solver, offsets.index(last), overlap, stored)

        def decode(tile: Tile | None) -> Float[Tensor, "b 3 t h w"]:
            noise = [generator_for(options.seed, request.chunk.index) for request in requests]
            times = torch.tensor(offsets) / max(1, last)
            return model.decode(
                latents.for_decoder(), times, steps=options.steps, generator=noise, solver=solver, tile=tile
            ).sample

        height, width = (side * model.spatial_compression_ratio for side in latents.shape[-2:])
        clip = self.oom_retry.run(decode, height, width)
        if not bool(torch.isfinite(clip).all()):
            raise ValueError(
                f"The decoded chunk {chunk.index} is not finite (such as NaN); try --dtype fp32."
            )
        if options.seams == "match" and previous is not None:
            clip = offset_correction(clip, offsets, previous.frame)
        if options.overlaps:
            trajectory = solver.trajectory if isinstance(solver, LatentExtension) else []
            self._previous = _PreviousChunk(chunk.index, trajectory, clip[:, :, offsets.index(last)].clone())
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
    model: Embedder,
    chunks: Iterable[ChunkLatents],
    *,
    height: int,
    width: int,
    options: DecodeOptions = DecodeOptions(),
) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """Decode a whole video, frame by frame, cropped to `height` x `width` pixels."""
    session = DecodeSession(model, height=height, width=width, options=options)
    for images in session.decode((chunk, None) for chunk in chunks):
        yield from images
