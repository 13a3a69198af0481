"""Output times of a decoded video: frame rate, interpolation, extrapolation.

The decoder generates a chunk at any times, so it interpolates and extrapolates (docs/method.md, Sec. 8). A
*position* counts source frames from the first one of the video and may be fractional. Between two chunks the
last frame of the one and the first of the next are blended (not in the paper).

    frames, rate = output_frames(times, frame_rate, chunk_frames, timeline)
    offsets = offsets_per_chunk(frames, chunks)             # what to decode of each chunk
    for images in blend_frames(frames, offsets, decoded):   # decoded: those frames, in this order
        ...                                                 # output images, in order
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from math import ceil, floor

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

Position = Fraction | float  # in source frames; exact where possible
Image = UInt8[Tensor, "h w 3"]

SNAP_DISTANCE = 1 / 32  # of a frame: time stamps in whole milliseconds are off by up to 0.03 at 60 per second


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Output frames to decode; by default the encoded ones. Raises ValueError for values out of range."""

    fps: Fraction | None = None
    """Constant frame rate; None keeps the source's times."""
    interpolate: int = 1
    """Output frames for every source frame."""
    extrapolate_before: int = 0
    """Source frames to extrapolate before the first one."""
    extrapolate_after: int = 0
    """Source frames to extrapolate after the last one."""
    every_chunk: bool = False
    """Extrapolate around every chunk, one chunk with its surroundings after another; to study the model."""

    def __post_init__(self) -> None:
        before, after = self.extrapolate_before, self.extrapolate_after
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps must be above 0, got {self.fps}.")
        if self.interpolate < 1:
            raise ValueError(f"interpolate must be at least 1, got {self.interpolate}.")
        if min(before, after) < 0:
            raise ValueError(f"extrapolate-before and -after must be 0 or more, got {before} and {after}.")
        if self.fps is not None and (self.interpolate > 1 or self.every_chunk):
            raise ValueError("fps can't be combined with interpolate or every-chunk; give one of them.")


SOURCE_FRAMES = Timeline()


@dataclass(frozen=True)
class FrameSource:
    """A frame to decode, `offset` frames after the first of its chunk, with its weight in an output frame."""

    chunk: int
    offset: float
    weight: float = 1.0

    @property
    def key(self) -> tuple[int, float]:
        """Chunk and offset; rises with the time."""
        return self.chunk, self.offset


@dataclass(frozen=True)
class OutputFrame:
    """One output frame, shown at `seconds`: the weighted sum of its sources, two between two chunks."""

    sources: tuple[FrameSource, ...]
    seconds: float


def output_frames(
    times: Sequence[float] | Float64[Tensor, " frames"],
    frame_rate: Fraction,
    chunk_frames: int,
    timeline: Timeline = SOURCE_FRAMES,
    sources: Callable[[Position], tuple[FrameSource, ...]] | None = None,
) -> tuple[list[OutputFrame], Fraction]:
    """The output frames in order, and the output frame rate in frames per second.

    `times` are the seconds of the source frames, rising from 0; `frame_rate` is the source's mean rate, which
    sets how long its last frame is shown; a chunk holds `chunk_frames` source frames, unless `sources` says
    of what a position consists.

    The last frame is held until the source ends, which keeps the duration. With `extrapolate_before` all
    frames (and the sound) move by extrapolate_before / frame_rate seconds, so that the output still begins at
    0. Along the output, the sources never go back and the seconds always rise. Raises ValueError for the
    extrapolation of an image.
    """
    assert len(times) > 0 and frame_rate > 0 and chunk_frames > 1
    if len(times) == 1 and (timeline.extrapolate_before or timeline.extrapolate_after):
        raise ValueError(
            "An image can't be extrapolated; leave out --extrapolate-before and --extrapolate-after."
        )
    rate = frame_rate * timeline.interpolate
    if timeline.every_chunk:
        return _around_every_chunk(len(times), rate, chunk_frames, timeline), rate
    edges = _frame_edges(np.asarray(times, dtype=np.float64), 1 / frame_rate, timeline)
    if timeline.fps is not None:
        positions, seconds = _at_rate(edges, timeline.fps)
        rate = timeline.fps
    else:
        positions, seconds = _at_factor(edges, timeline.interpolate)
    last_chunk = (len(times) - 1) // chunk_frames
    place = sources or partial(_sources, chunk_frames=chunk_frames, last_chunk=last_chunk)
    frames = [
        OutputFrame(place(position - timeline.extrapolate_before), second)
        for position, second in zip(positions, seconds, strict=True)
    ]
    return frames, rate


def offsets_per_chunk(frames: Sequence[OutputFrame], chunks: int) -> list[list[float]]:
    """The offsets to decode of each of `chunks` chunks, each once, rising."""
    offsets: list[set[float]] = [set() for _ in range(chunks)]
    for frame in frames:
        for source in frame.sources:
            offsets[source.chunk].add(source.offset)
    return [sorted(chunk_offsets) for chunk_offsets in offsets]


def blend_frames(
    frames: Sequence[OutputFrame],
    offsets: Sequence[Sequence[float]],
    decoded: Iterable[UInt8[Tensor, "_ h w 3"]],
) -> Iterator[list[Image]]:
    """The output images in order, as many at a time as are ready.

    `decoded` are the images at `offsets`, chunk after chunk, in pieces of any length, as a `DecodeSession`
    returns them. Only frames between two chunks wait for the later one. Images are dropped when no longer
    needed: two pieces at most are in memory when a piece is a whole chunk.
    """
    keys = ((chunk, offset) for chunk, chunk_offsets in enumerate(offsets) for offset in chunk_offsets)
    images: dict[tuple[int, float], Image] = {}
    pending = deque(frames)
    for piece in decoded:
        images.update(zip(islice(keys, len(piece)), piece, strict=True))
        ready = []
        while pending and all(source.key in images for source in pending[0].sources):
            ready.append(_weighted_sum(pending.popleft().sources, images))
        if pending:
            oldest = pending[0].sources[0].key
            images = {key: image for key, image in images.items() if key >= oldest}
        if ready:
            yield ready


def _weighted_sum(sources: Sequence[FrameSource], images: Mapping[tuple[int, float], Image]) -> Image:
    if len(sources) == 1:
        return images[sources[0].key]
    parts = [source.weight * images[source.key].float() for source in sources]
    return torch.stack(parts).sum(0).round().to(torch.uint8)


def _sources(position: Position, chunk_frames: int, last_chunk: int) -> tuple[FrameSource, ...]:
    """The frame of a chunk or, s frames after its last one, 1 - s of this and s of the next chunk's first."""
    chunk = min(max(ceil(position) // chunk_frames, 0), last_chunk)
    offset = position - chunk * chunk_frames
    if chunk == 0 or offset >= 0:
        return (FrameSource(chunk, float(offset)),)
    last = FrameSource(chunk - 1, chunk_frames - 1.0, float(-offset))
    return last, FrameSource(chunk, 0.0, float(1 + offset))


def _frame_edges(
    times: Float64[np.ndarray, " frames"], step: Fraction, timeline: Timeline
) -> Float64[np.ndarray, " edges"]:
    """The start of each frame, extrapolated ones included, and the end of the last one, in seconds."""
    before = times[0] + np.arange(timeline.extrapolate_before) * float(step)
    after = times[-1] + np.arange(1, timeline.extrapolate_after + 2) * float(step)
    delay = timeline.extrapolate_before * float(step)
    return np.concatenate([before, times + delay, after + delay])


def _at_factor(edges: Float64[np.ndarray, " edges"], factor: int) -> tuple[Sequence[Position], list[float]]:
    """`factor` positions for each frame, and their seconds; those after the last frame repeat it."""
    frames = len(edges) - 1
    positions = [Fraction(index, factor) for index in range(frames * factor)]
    seconds = np.interp([float(position) for position in positions], np.arange(len(edges)), edges)
    return [min(position, Fraction(frames - 1)) for position in positions], seconds.tolist()


def _at_rate(edges: Float64[np.ndarray, " edges"], fps: Fraction) -> tuple[Sequence[Position], list[float]]:
    """The positions shown at 0, 1 / fps, 2 / fps, ... seconds, and these seconds."""
    frames = len(edges) - 1
    count = max(1, floor(float(edges[-1]) * fps + Fraction(1, 2)))
    seconds = [float(index / fps) for index in range(count)]
    positions = np.interp(seconds, edges, np.minimum(np.arange(frames + 1), frames - 1))
    nearest = positions.round()
    snapped = np.where(np.abs(positions - nearest) < SNAP_DISTANCE, nearest, positions)
    return snapped.tolist(), seconds


def _around_every_chunk(
    frames: int, rate: Fraction, chunk_frames: int, timeline: Timeline
) -> list[OutputFrame]:
    """Every chunk with its surroundings, one after the other at a constant rate."""
    result: list[OutputFrame] = []
    for chunk, start in enumerate(range(0, frames, chunk_frames)):
        length = min(chunk_frames, frames - start)
        positions = timeline.extrapolate_before + length + timeline.extrapolate_after
        for index in range(positions * timeline.interpolate):
            position = min(Fraction(index, timeline.interpolate), Fraction(positions - 1))
            offset = float(position - timeline.extrapolate_before)
            result.append(OutputFrame((FrameSource(chunk, offset),), float(len(result) / rate)))
    return result
