"""Sessions: a video goes in and comes out in pieces of any length, and what is in between stays here.

A session belongs to its caller; the model knows nothing of it, so two sessions on one model do not touch
each other. What comes out depends on the frames and the options alone, not on how they were split into calls:
chunks (and batches of them) begin at fixed frames, and the noise of chunk i depends on (seed, i).
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
from regen.latents import Latents, batch_of
from regen.runtime import generator_for
from regen.tiling import Tile

SolverName = Literal["euler", "heun"]
Seams = Literal["extend", "match", "none"]
SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun}


@dataclass(frozen=True)
class DecodeOptions:
    """How a `DecodeSession` samples."""

    steps: int = 1
    """Denoising steps: 1 is closest to the original; more draw samples, not means."""
    seed: int = 0
    """The noise of chunk i follows from this and i."""
    solver: SolverName = "euler"
    """Heun's method is of second order and evaluates the network about twice a step."""
    seams: Seams = "extend"
    """How a chunk is joined to the one before it. "extend": latent extension, from 2 steps on (with 1 step it
    can't act and is left out). "match": half of the difference between the last frame as it was shown and as
    this chunk would have it is added to this chunk's first frame; acts at 1 step too. "none": not at all."""
    batch: int = 1
    """Chunks that go through the model together, where none waits for the one before it; faster on a GPU
    for small frames. Frames come out a batch at a time."""
    tile: Tile | None = None
    """The largest part of the picture to work on at once; by default what the model's `enable_tiling` set."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Decoding takes at least 1 step, not {self.steps}; 1 is the default.")
        if self.solver not in SOLVERS or self.seams not in get_args(Seams):
            raise ValueError(
                f"There are the solvers {', '.join(SOLVERS)} and the seams {', '.join(get_args(Seams))}, "
                f"not {self.solver!r} and {self.seams!r}."
            )
        if self.batch < 1:
            raise ValueError(f"A batch has at least 1 chunk, not {self.batch}.")

    @property
    def extends(self) -> bool:
        """Whether latent extension is used: with one step it has nothing to act on."""
        return self.seams == "extend" and self.steps > 1

    @property
    def overlaps(self) -> bool:
        """Whether a chunk is decoded together with the last frame of the one before it."""
        return self.extends or self.seams == "match"


class EncodeSession:
    """Frames in, latents out, one chunk at a time (spec A3).

    `lengths` says how many 1D latents chunks keep, of a model that has such; by default what the model finds
    by itself. Raises ValueError when the model's latents have one length.
    """

    def __init__(self, model: Embedder, tile: Tile | None = None, lengths: Lengths | None = None) -> None:
        check_lengths(model, lengths)
        self.model, self.oom_retry, self.lengths = model, OomRetry(tile), lengths
        self.reset()

    def reset(self) -> None:
        """Forget what was fed; the next frame begins a new video."""
        self._waiting: list[UInt8[Tensor, "h w 3"]] = []
        self._index = 0
        self._shape: torch.Size | None = None

    def feed(self, frames: Iterable[UInt8[Tensor, "h w 3"]]) -> list[ChunkLatents]:
        """Take the next frames, 8-bit RGB; answer the chunks that are complete now.

        Raises ValueError when the size of the frames changes within a video.
        """
        done = []
        for frame in frames:
            self._check(frame)
            self._waiting.append(frame)
            if len(self._waiting) == self.model.chunk_frames:
                done.append(self._encode(len(self._waiting)))
        return done

    def flush(self) -> list[ChunkLatents]:
        """The video ends here: answer what is left of it, and be ready for another.

        A short last chunk repeats its last frame; a video of one frame is an image.
        """
        is_image = self._index == 0 and len(self._waiting) == 1
        length = 1 if is_image else self.model.chunk_frames
        done = [self._encode(length)] if self._waiting else []
        self.reset()
        return done

    @torch.inference_mode()
    def _encode(self, length: int) -> ChunkLatents:
        frames, model, index = torch.stack(self._waiting), self.model, self._index
        self._waiting, self._index = [], index + 1
        clip = pad(to_clip(frames, model.device, model.dtype), length, model.spatial_compression_ratio)
        height, width = clip.shape[-2:]
        latents = self.oom_retry.run(lambda tile: self._latents(clip, index, tile), height, width)
        return ChunkLatents(index, latents[0].cpu(), len(frames))

    def _latents(self, clip: Float[Tensor, "1 3 t h w"], index: int, tile: Tile | None) -> Latents:
        if self.lengths is None:
            return self.model.encode(clip, tile=tile).latent_dist.mode()
        return truncate_to(self.lengths, self.model, clip, index, tile)

    def _check(self, frame: UInt8[Tensor, "h w 3"]) -> None:
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            before, now = (f"{shape[1]}x{shape[0]}" for shape in (self._shape, frame.shape))
            raise ValueError(
                f"The picture changes from {before} to {now} pixels within the video; "
                "give one size with --size HxW."
            )


@dataclass(frozen=True)
class _Request:
    """One chunk and the frames that are wanted of it, counted from its first; `order` is what is decoded."""

    chunk: ChunkLatents
    at: list[float]
    order: list[float]


@dataclass(frozen=True)
class _Ended:
    """What a chunk leaves to the next one: its number, and the path and the pixels of its last frame."""

    index: int
    trajectory: Trajectory
    frame: Float[Tensor, "b 3 h w"]


class DecodeSession:
    """Latents in, frames out, `height` x `width` pixels.

    Chunks of a model that knows no frame before its chunk are not joined, whatever `options.seams` says.
    """

    def __init__(
        self, model: Embedder, *, height: int, width: int, options: DecodeOptions = DecodeOptions()
    ) -> None:
        self.model, self.height, self.width = model, height, width
        self.options = options if model.extrapolates else replace(options, seams="none")
        self.oom_retry = OomRetry(options.tile)
        self.reset()

    def reset(self) -> None:
        """Forget what was fed; the next chunk begins anew, whatever its number."""
        self._waiting: list[_Request] = []
        self._before: _Ended | None = None

    def feed(self, chunk: ChunkLatents, offsets: Sequence[float] | None = None) -> UInt8[Tensor, "t h w 3"]:
        """Take the latents of the next chunk; answer the frames that are ready now, 8-bit RGB on the CPU.

        `at`: which frames are wanted, counted from the chunk's first, any real numbers in any order: 0.5 lies
        between the first two, -1 one frame before the chunk. By default the frames that
        were encoded. Those are always decoded along with what is wanted, because they are what the model
        knows best. Raises ValueError when the latents do not fit the size of the frames.
        """
        request = self._request(chunk, offsets)
        same = [(r.order, r.chunk.latents.shape) for r in self._waiting[:1]]
        ready = [] if same in ([], [(request.order, chunk.latents.shape)]) else self._decode_waiting()
        self._waiting.append(request)
        if len(self._waiting) == (1 if self.options.overlaps else self.options.batch):
            ready += self._decode_waiting()
        return self._together(ready)

    def flush(self) -> UInt8[Tensor, "t h w 3"]:
        """The video ends here: answer the frames that are left, and be ready for another."""
        ready = self._decode_waiting()
        self.reset()
        return self._together(ready)

    def _request(self, chunk: ChunkLatents, at: Sequence[float] | None) -> _Request:
        side = self.model.spatial_compression_ratio
        places = (-(-self.height // side), -(-self.width // side))
        if chunk.latents.shape[-2:] != places:
            raise ValueError(
                f"Frames of {self.width}x{self.height} pixels have {places[1]}x{places[0]} latents, not "
                f"{chunk.latents.shape[-1]}x{chunk.latents.shape[-2]}; give the size that was encoded."
            )
        own = [float(i) for i in range(self._last(chunk) + 1)]
        wanted = own[: chunk.frames] if at is None else [float(value) for value in at]
        joined = self.options.overlaps and self._before is not None and self._before.index + 1 == chunk.index
        return _Request(chunk, wanted, sorted({*own, *wanted, *([-1.0] if joined else [])}))

    def _last(self, chunk: ChunkLatents) -> int:
        """Number of the last frame of a chunk, counted from 0; 0 for an image."""
        return self.model.chunk_frames - 1 if chunk.latents.shape[1] > 1 else 0

    def _decode_waiting(self) -> list[UInt8[Tensor, "h w 3"]]:
        requests, self._waiting = self._waiting, []
        if not requests:
            return []
        clips = self._decode(requests)
        return [
            to_image(clip[:, request.order.index(at), : self.height, : self.width])
            for clip, request in zip(clips, requests, strict=True)
            for at in request.at
        ]

    @torch.inference_mode()
    def _decode(self, requests: list[_Request]) -> Float[Tensor, "b 3 t h w"]:
        model, options, order = self.model, self.options, requests[0].order
        chunk, last = requests[0].chunk, self._last(requests[0].chunk)
        latents = batch_of([request.chunk.latents for request in requests]).to(model.device, model.dtype)
        solver, before = SOLVERS[options.solver], self._before
        joined = before is not None and before.index + 1 == chunk.index
        if options.extends:
            stored = before.trajectory if before is not None and joined else None
            solver = LatentExtension(solver, order.index(last), order.index(-1.0) if joined else 0, stored)

        def decode(tile: Tile | None) -> Float[Tensor, "b 3 t h w"]:
            noise = [generator_for(options.seed, request.chunk.index) for request in requests]
            times = torch.tensor(order) / max(1, last)
            answer = model.decode(
                latents, times, steps=options.steps, generator=noise, solver=solver, tile=tile
            )
            return answer.sample

        height, width = (side * model.spatial_compression_ratio for side in latents.shape[-2:])
        clip = self.oom_retry.run(decode, height, width)
        if not bool(torch.isfinite(clip).all()):
            raise ValueError(
                f"The model's answer for chunk {chunk.index} has values that are not finite (such as NaN); "
                "try --dtype fp32, or another model."
            )
        if options.seams == "match" and before is not None and joined:
            clip = offset_correction(clip, order, before.frame)
        if options.overlaps:
            trajectory = solver.trajectory if isinstance(solver, LatentExtension) else []
            self._before = _Ended(chunk.index, trajectory, clip[:, :, order.index(last)].clone())
        return clip

    def _together(self, images: list[UInt8[Tensor, "h w 3"]]) -> UInt8[Tensor, "t h w 3"]:
        none = torch.empty(0, self.height, self.width, 3, dtype=torch.uint8)
        return torch.stack(images).cpu() if images else none


def encode_frames(
    model: Embedder,
    frames: Iterable[UInt8[Tensor, "h w 3"]],
    tile: Tile | None = None,
    lengths: Lengths | None = None,
) -> Iterator[ChunkLatents]:
    """Latents of a whole video, chunk by chunk, read from `frames` as they are needed."""
    session = EncodeSession(model, tile, lengths)
    for frame in frames:
        yield from session.feed([frame])
    yield from session.flush()


def decode_chunks(
    model: Embedder,
    chunks: Iterable[ChunkLatents],
    *,
    height: int,
    width: int,
    options: DecodeOptions = DecodeOptions(),
) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames of a whole video, one by one, cropped to `height` x `width` pixels."""
    session = DecodeSession(model, height=height, width=width, options=options)
    for chunk in chunks:
        yield from session.feed(chunk)
    yield from session.flush()
