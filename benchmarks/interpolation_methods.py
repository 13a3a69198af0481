"""Quality of interpolated and extrapolated frames, with baselines to compare.

Interpolation: every s-th frame of a clip is coded, and the frames between are compared with what the model
decodes at their times, with the average of their two neighbours, and with those of an external interpolator
(REGEN, Fig. 13): FFmpeg's motion-compensated filter, or any command (`external_interpolator.py`). The
baselines get the frames as the model reconstructs them, and the originals as well. Extrapolation: the frames
before and after each chunk are compared with what the model decodes there, and with the nearest frame of the
chunk. PSNR and SSIM are those of `regen.metrics.psnr_ssim`. A clip is held in memory as a whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import av.filter
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession
from regen.codec.timeline import SOURCE_FRAMES, Timeline, blend_frames, offsets_per_chunk, output_frames
from regen.embedders.interface import Embedder
from regen.media.pixels import IDENTITY_MATRIX, RgbConverter, Size, YuvConverter, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.psnr_ssim import psnr_per_frame, ssim_per_frame

Codec = Callable[[UInt8[Tensor, "t h w 3"], Timeline], UInt8[Tensor, "n h w 3"]]
"""Encodes frames and decodes the output frames of a timeline."""

Interpolator = Callable[[UInt8[Tensor, "t h w 3"], int], UInt8[Tensor, "n h w 3"]]
"""Makes n = (t - 1) * factor + 1 frames of t frames: the given ones, and those between them."""

# Overlapping blocks of variable size, motion searched both ways: quality before speed.
MOTION_COMPENSATION = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"
BLOCK = 16  # pixels: the filter needs complete blocks, at least two each way


@dataclass(frozen=True)
class Score:
    """Means over `frames` frames: PSNR in dB, and SSIM."""

    frames: int
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Interpolation:
    """Scores when every `factor`-th frame of a clip is coded.

    `kept`: the reconstruction of these. `left_out`: the others, by method. `across`: those of them between
    two chunks, where the model extrapolates from both (empty for a single chunk).
    """

    factor: int
    kept: Score
    left_out: dict[str, Score]
    across: dict[str, Score]


def mean_score(scores: Sequence[Score]) -> Score:
    """Mean over the clips of a set, whatever their lengths; `frames` is their sum."""
    count = len(scores)
    return Score(
        frames=sum(score.frames for score in scores),
        psnr=sum(score.psnr for score in scores) / count,
        ssim=sum(score.ssim for score in scores) / count,
    )


def codec_of(model: Embedder, options: DecodeOptions) -> Codec:
    """`model` as a codec of whole clips of at least one frame."""

    def code(frames: UInt8[Tensor, "t h w 3"], timeline: Timeline) -> UInt8[Tensor, "n h w 3"]:
        session = EncodeSession(model)
        chunks = [*session.feed(frames), *session.flush()]
        chunk_frames = model.chunk_frames
        shown, _ = output_frames([float(i) for i in range(len(frames))], Fraction(1), chunk_frames, timeline)
        wanted = offsets_per_chunk(shown, len(chunks))
        height, width = frames.shape[1:3]
        decoder = DecodeSession(model, height=height, width=width, options=options)
        decoded = [decoder.feed(chunk, at) for chunk, at in zip(chunks, wanted, strict=True)]
        made = blend_frames(shown, wanted, [*decoded, decoder.flush()])
        return torch.stack([image for images in made for image in images])

    return code


def read_clip(file: Path, size: Size | None, max_frames: int | None = None) -> UInt8[Tensor, "t h w 3"]:
    """The first frames of a video, by default all, resized and cropped to `size`.

    Raises VideoError when none can be read, ValueError for `max_frames` under 1.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}.")
    with VideoReader(file) as reader:
        return torch.stack([resize_center_crop(frame.image, size) for frame in islice(reader, max_frames)])


@dataclass(frozen=True)
class Interpolated:
    """A clip `frames` of which every `factor`-th frame was coded, and what each of `methods` makes of it."""

    frames: UInt8[Tensor, "t h w 3"]
    reconstruction: UInt8[Tensor, "kept h w 3"]
    methods: dict[str, UInt8[Tensor, "t h w 3"]]


def interpolate_by_all(
    codec: Codec,
    frames: UInt8[Tensor, "t h w 3"],
    factor: int,
    interpolator: Interpolator | None = None,
    name: str = "motion-compensated",
) -> Interpolated:
    """Code every `factor`-th frame of a clip, and make those between by every method.

    `interpolator`, by default `motion_compensated`, is the external one, reported under `name`. Raises
    ValueError for a factor under 2 or fewer than factor + 1 frames.
    """
    if factor < 2:
        raise ValueError(f"factor must be at least 2, got {factor}.")
    if len(frames) <= factor:
        raise ValueError(f"A factor of {factor} needs more than {factor} frames, got {len(frames)}.")
    external, kept = interpolator or motion_compensated, frames[::factor]
    frames = frames[: (len(kept) - 1) * factor + 1]
    reconstruction = codec(kept, SOURCE_FRAMES)
    methods = {
        "model": codec(kept, Timeline(interpolate=factor))[: len(frames)],
        "average": frame_average(reconstruction, factor),
        "average of originals": frame_average(kept, factor),
        name: external(reconstruction, factor),
        f"{name} originals": external(kept, factor),
    }
    return Interpolated(frames, reconstruction, methods)


def evaluate_interpolation(
    codec: Codec,
    frames: UInt8[Tensor, "t h w 3"],
    factor: int,
    chunk_frames: int,
    interpolator: Interpolator | None = None,
    name: str = "motion-compensated",
) -> Interpolation:
    """Code every `factor`-th frame, and compare those between by every method of `interpolate_by_all`."""
    made = interpolate_by_all(codec, frames, factor, interpolator, name)
    position = torch.arange(len(made.frames))
    between = position % factor > 0
    across = between & (position // factor % chunk_frames == chunk_frames - 1)
    return Interpolation(
        factor=factor,
        kept=_score(made.frames[::factor], made.reconstruction),
        left_out=_scores_of_part(made.frames, made.methods, between),
        across=_scores_of_part(made.frames, made.methods, across),
    )


def evaluate_extrapolation(
    codec: Codec, frames: UInt8[Tensor, "t h w 3"], chunk_frames: int, reach: int = 2
) -> dict[int, dict[str, Score]]:
    """Scores by distance in frames (negative: before a chunk, positive: after it) and by method.

    "model" decodes the frame from the neighbouring chunk; "repeated" and "repeated original" are the nearest
    frame of that chunk, reconstructed and original. Distances go up to `reach`; only complete chunks are
    used. Raises ValueError for fewer than two of them, or a reach beyond the next chunk.
    """
    if not 1 <= reach <= chunk_frames:
        raise ValueError(f"reach must be between 1 and {chunk_frames}, got {reach}.")
    chunks = len(frames) // chunk_frames
    if chunks < 2:
        raise ValueError(f"A clip needs two chunks of {chunk_frames} frames, got {len(frames)} frames.")
    whole = frames[: chunks * chunk_frames]
    reconstruction = codec(whole, SOURCE_FRAMES)
    around = codec(whole, Timeline(extrapolate_before=reach, extrapolate_after=reach, every_chunk=True))
    around = rearrange(around, "(chunk n) h w c -> chunk n h w c", chunk=chunks)
    starts = torch.arange(chunks) * chunk_frames
    results = {}
    for distance in (*range(-reach, 0), *range(1, reach + 1)):
        nearest = 0 if distance < 0 else chunk_frames - 1
        positions = starts + nearest + distance
        valid = (positions >= 0) & (positions < len(frames))
        truth, edge = frames[positions[valid]], starts[valid] + nearest
        results[distance] = {
            "model": _score(truth, around[valid, reach + nearest + distance]),
            "repeated": _score(truth, reconstruction[edge]),
            "repeated original": _score(truth, frames[edge]),
        }
    return results


def frame_average(frames: UInt8[Tensor, "t h w 3"], factor: int) -> UInt8[Tensor, "n h w 3"]:
    """n = (t - 1) * factor + 1 frames: the given ones, and averages weighted by time between them."""
    assert len(frames) > 0 and factor > 0
    weights = torch.arange(1, factor) / factor
    return _fill(frames, (_averages(*pair, weights) for pair in pairwise(frames)))


def motion_compensated(frames: UInt8[Tensor, "t h w 3"], factor: int) -> UInt8[Tensor, "n h w 3"]:
    """n = (t - 1) * factor + 1 frames: the given ones, and those of FFmpeg's `minterpolate` between them.

    The filter estimates the motion of blocks of 16 x 16 pixels in 8-bit YUV 4:4:4, so its frames are rounded
    once more than others. At a cut it repeats a frame. Raises ValueError when PyAV's FFmpeg lacks the filter.
    """
    assert len(frames) > 0 and factor > 0
    if "minterpolate" not in av.filter.filters_available:
        raise ValueError("FFmpeg lacks the filter minterpolate; install PyAV's build of it: pip install av.")
    if len(frames) == 1:
        return frames.clone()
    height, width = frames.shape[1:3]
    padded = _pad_to_blocks(frames)
    # One more frame at the end, because the filter looks ahead.
    made = _minterpolate(torch.cat([padded, padded[-1:]]), factor)
    made = made[: (len(frames) - 1) * factor + 1, :height, :width]
    return _fill(frames, (made[first + 1 : first + factor] for first in range(0, len(made) - 1, factor)))


def _minterpolate(frames: UInt8[Tensor, "t h w 3"], factor: int) -> UInt8[Tensor, "n h w 3"]:
    """All frames of the filter in order of time, from the first frame without a gap."""
    height, width = frames.shape[1:3]
    graph, unit = av.filter.Graph(), Fraction(1, factor)  # a second is the time between two given frames
    source = graph.add_buffer(width=width, height=height, format="yuv444p", time_base=unit)
    sink = graph.add("buffersink")
    graph.link_nodes(source, graph.add("minterpolate", f"fps={factor}:{MOTION_COMPENSATION}"), sink)
    graph.configure()
    to_yuv, to_rgb = YuvConverter("yuv444p"), RgbConverter(width, height, IDENTITY_MATRIX, threads=1)
    made: list[Tensor] = []
    for index, image in enumerate(frames):
        frame = to_yuv(image)
        frame.pts, frame.time_base = index * factor, unit
        source.push(frame)
        for result in _pull(sink):
            assert result.pts * result.time_base == len(made) * unit, "a frame is missing or out of order"
            made.append(to_rgb(result))
    return torch.stack(made)


def _pull(sink: av.filter.context.FilterContext) -> Iterator[av.VideoFrame]:
    """Frames that are ready."""
    while True:
        try:
            yield sink.pull()
        except av.BlockingIOError:
            return


def _pad_to_blocks(frames: UInt8[Tensor, "t h w 3"]) -> UInt8[Tensor, "t h2 w2 3"]:
    """Replicate the right and lower border up to complete blocks, at least two each way."""
    height, width = frames.shape[1:3]
    right, below = (max(2 * BLOCK, side + -side % BLOCK) - side for side in (width, height))
    clip = rearrange(frames, "t h w c -> t c h w")
    return rearrange(functional.pad(clip, (0, right, 0, below), mode="replicate"), "t c h w -> t h w c")


def _averages(
    before: UInt8[Tensor, "h w 3"], after: UInt8[Tensor, "h w 3"], weights: Float[Tensor, " n"]
) -> UInt8[Tensor, "n h w 3"]:
    """Linear interpolation between two frames, for each weight of the later one."""
    weight = rearrange(weights, "n -> n 1 1 1")
    return torch.lerp(before.float()[None], after.float()[None], weight).round().to(torch.uint8)


def _fill(
    frames: UInt8[Tensor, "t h w 3"], gaps: Iterator[UInt8[Tensor, "gap h w 3"]]
) -> UInt8[Tensor, "n h w 3"]:
    """Insert `gaps` after each frame but the last."""
    parts = [part for frame, gap in zip(frames[:-1], gaps, strict=True) for part in (frame[None], gap)]
    return torch.cat([*parts, frames[-1:]])


def _score(reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> Score:
    psnr, ssim = psnr_per_frame(reference, other), ssim_per_frame(reference, other)
    return Score(len(reference), psnr.mean().item(), ssim.mean(dtype=torch.float64).item())


def _scores_of_part(
    frames: UInt8[Tensor, "t h w 3"],
    methods: dict[str, UInt8[Tensor, "t h w 3"]],
    part: Bool[Tensor, " t"],
) -> dict[str, Score]:
    """Scores of the frames where `part` is true; empty if there are none."""
    if not bool(part.any()):
        return {}
    return {name: _score(frames[part], made[part]) for name, made in methods.items()}
