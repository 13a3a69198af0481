"""Which times of which chunk make a video: the frames that were coded, frames between them, or beyond them.

The decoder re-generates a chunk at any times (spec A4), so it interpolates and extrapolates (spec A10). A
*position* counts source frames from the first one of the video and may lie between two of them. A `Moment`
says which chunk has it, and the second at which it is shown. A position between two chunks is beyond both:
each extrapolates to it, and the two answers are mixed (not in the paper). Nothing here needs a model.

    shown, rate = moments(times, frame_rate, chunk_frames, timeline)
    wanted = per_chunk(shown, chunks)            # what to ask each chunk's decoder for
    for images in blend_frames(shown, wanted, decoded): # decoded: the answers, in this order
        ...                                      # what is shown, in order
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from math import ceil, floor

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

Position = Fraction | float  # in source frames; exact where it can be
Image = UInt8[Tensor, "h w 3"]

NEAR_A_FRAME = 1 / 32  # of a frame: time stamps in whole milliseconds miss by up to 0.03 at 60 per second


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What frames are wanted of a coded video; by default those that were encoded.

    Attributes:
        fps: A constant frame rate, below or above that of the source; None follows the source's own times.
        interpolate: Frames for every source frame: N - 1 more between two of them.
        before: Source frames to extrapolate before the first one.
        after: Source frames to extrapolate after the last one.
        every_chunk: For study: extrapolate around every chunk, one chunk with its surroundings after another.

    Raises ValueError for values that are out of range or exclude each other.
    """

    fps: Fraction | None = None
    interpolate: int = 1
    extrapolate_before: int = 0
    extrapolate_after: int = 0
    every_chunk: bool = False

    def __post_init__(self) -> None:
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"A video can't have {self.fps} frames per second; give a rate above 0.")
        if self.interpolate < 1:
            raise ValueError(
                f"Interpolation by {self.interpolate} is impossible; give 2 for twice as many frames."
            )
        if min(self.extrapolate_before, self.extrapolate_after) < 0:
            raise ValueError("Less than 0 frames before or after a video are impossible; give 0 or more.")
        if self.fps is not None and self.interpolate > 1:
            raise ValueError(
                "A frame rate and interpolation by a factor exclude each other; give one of the two."
            )
        if self.fps is not None and self.every_chunk:
            raise ValueError("Every chunk with its surroundings has the source's frame rate; give no other.")


SOURCE_FRAMES = Timeline()


@dataclass(frozen=True)
class FrameSource:
    """A frame to decode: `at` frames after the first one of chunk `chunk`.

    `at` is a real number: 0 is the chunk's first frame, k its last; numbers between and beyond them are
    interpolated and extrapolated. The decoder's time τ is at / k. `weight` is its part in the output.
    """

    chunk: int
    offset: float
    weight: float = 1.0

    @property
    def key(self) -> tuple[int, float]:
        """What to decode; rises with the time."""
        return self.chunk, self.offset


@dataclass(frozen=True)
class OutputFrame:
    """One frame of the output, shown at `seconds`: the sum of its sources, whose weights add up to 1.

    There is one source, or, between two chunks, the earlier chunk and the later one.
    """

    sources: tuple[FrameSource, ...]
    seconds: float


def output_frames(
    times: Sequence[float] | Float64[Tensor, " frames"],
    frame_rate: Fraction,
    chunk_frames: int,
    timeline: Timeline = SOURCE_FRAMES,
) -> tuple[list[OutputFrame], Fraction]:
    """The frames of the output in order, and its frame rate in frames per second.

    `times` are those of the source frames in seconds, rising from 0; `frame_rate` is the source's average
    rate and tells how long its last frame is shown; a chunk holds `chunk_frames` source frames.

    A position s frames after the last frame of one chunk and 1 - s before the first of the next is made of
    both, (1 - s) of the earlier one and s of the later one, so it meets either frame without a jump. Where
    the time after the last position has to be filled, that position is repeated, so that the duration is the
    source's. With `before`, everything moves by before / frame_rate seconds (also the sound should), so that
    the output begins where the source did. From one moment to the next neither the first source nor the last
    one goes back; seconds always rise.

    Raises ValueError when an image is to be extrapolated: it has no time but 0.
    """
    assert len(times) > 0 and frame_rate > 0 and chunk_frames > 1
    if len(times) == 1 and (timeline.extrapolate_before or timeline.extrapolate_after):
        raise ValueError(
            "An image can't be extrapolated; leave out --extrapolate-before and --extrapolate-after."
        )
    rate = frame_rate * timeline.interpolate
    if timeline.every_chunk:
        return _around_every_chunk(len(times), rate, chunk_frames, timeline), rate
    edges = _extended(np.asarray(times, dtype=np.float64), 1 / frame_rate, timeline)
    if timeline.fps is not None:
        positions, seconds = _at_rate(edges, timeline.fps)
        rate = timeline.fps
    else:
        positions, seconds = _at_factor(edges, timeline.interpolate)
    last = (len(times) - 1) // chunk_frames
    shown = [
        OutputFrame(_sources(position - timeline.extrapolate_before, chunk_frames, last), second)
        for position, second in zip(positions, seconds, strict=True)
    ]
    return shown, rate


def offsets_per_chunk(moments: Sequence[OutputFrame], chunks: int) -> list[list[float]]:
    """For each of `chunks` chunks what to ask its decoder for: `at` of its sources, each once, rising."""
    wanted: list[set[float]] = [set() for _ in range(chunks)]
    for moment in moments:
        for source in moment.sources:
            wanted[source.chunk].add(source.offset)
    return [sorted(positions) for positions in wanted]


def blend_frames(
    moments: Sequence[OutputFrame],
    wanted: Sequence[Sequence[float]],
    decoded: Iterable[UInt8[Tensor, "_ h w 3"]],
) -> Iterator[list[Image]]:
    """The images of the moments in order, as many at a time as are ready.

    `decoded` are the frames `wanted` of chunk after chunk, in pieces of any length, as a `DecodeSession`
    gives them. Nothing waits but frames between two chunks, for the later one; what is no longer needed is
    let go, so that of pieces of whole chunks two are in memory.
    """
    places = ((chunk, at) for chunk, positions in enumerate(wanted) for at in positions)
    images: dict[tuple[int, float], Image] = {}
    waiting = deque(moments)
    for piece in decoded:
        images.update(zip(islice(places, len(piece)), piece, strict=True))
        ready = []
        while waiting and all(source.key in images for source in waiting[0].sources):
            ready.append(_mixture(waiting.popleft().sources, images))
        if waiting:
            start = waiting[0].sources[0].key  # what lies before it is not needed again
            images = {place: image for place, image in images.items() if place >= start}
        if ready:
            yield ready


def _mixture(sources: Sequence[FrameSource], images: Mapping[tuple[int, float], Image]) -> Image:
    """The weighted sum, rounded; a single source as it is."""
    if len(sources) == 1:
        return images[sources[0].key]
    parts = [source.weight * images[source.key].float() for source in sources]
    return torch.stack(parts).sum(0).round().to(torch.uint8)


def _sources(position: Position, chunk_frames: int, last: int) -> tuple[FrameSource, ...]:
    """The chunk that has a position, or, between two of them, both with their weights; `last` is the last."""
    chunk = min(max(ceil(position) // chunk_frames, 0), last)
    at = position - chunk * chunk_frames
    if chunk == 0 or at >= 0:
        return (FrameSource(chunk, float(at)),)
    return FrameSource(chunk - 1, float(at + chunk_frames), float(-at)), FrameSource(
        chunk, float(at), float(1 + at)
    )


def _extended(
    times: Float64[np.ndarray, " frames"], step: Fraction, timeline: Timeline
) -> Float64[np.ndarray, " edges"]:
    """When each frame is shown, extrapolated ones included, and last of all when the last one is over."""
    before = times[0] + np.arange(timeline.extrapolate_before) * float(step)
    after = times[-1] + np.arange(1, timeline.extrapolate_after + 2) * float(step)
    delay = timeline.extrapolate_before * float(step)
    return np.concatenate([before, times + delay, after + delay])


def _at_factor(edges: Float64[np.ndarray, " edges"], factor: int) -> tuple[Sequence[Position], list[float]]:
    """`factor` positions for each of the edges but the last; those after the last frame hold it."""
    frames = len(edges) - 1
    places = [Fraction(index, factor) for index in range(frames * factor)]
    seconds = np.interp([float(place) for place in places], np.arange(len(edges)), edges)
    return [min(place, Fraction(frames - 1)) for place in places], seconds.tolist()


def _at_rate(edges: Float64[np.ndarray, " edges"], fps: Fraction) -> tuple[Sequence[Position], list[float]]:
    """The positions shown at 0, 1 / fps, 2 / fps, ... seconds, as many as fit."""
    frames = len(edges) - 1
    count = max(1, floor(float(edges[-1]) * fps + Fraction(1, 2)))
    seconds = [float(index / fps) for index in range(count)]
    positions = np.interp(seconds, edges, np.minimum(np.arange(frames + 1), frames - 1))
    nearest = positions.round()
    snapped = np.where(np.abs(positions - nearest) < NEAR_A_FRAME, nearest, positions)
    return snapped.tolist(), seconds


def _around_every_chunk(
    frames: int, rate: Fraction, chunk_frames: int, timeline: Timeline
) -> list[OutputFrame]:
    """Every chunk with its surroundings, one after the other at a constant rate."""
    starts = [*range(0, frames, chunk_frames), frames]
    result: list[OutputFrame] = []
    for chunk, (start, end) in enumerate(pairwise(starts)):
        positions = timeline.extrapolate_before + end - start + timeline.extrapolate_after
        for index in range(positions * timeline.interpolate):
            position = min(Fraction(index, timeline.interpolate), Fraction(positions - 1))
            at = float(position - timeline.extrapolate_before)
            result.append(OutputFrame((FrameSource(chunk, at),), float(len(result) / rate)))
    return result
