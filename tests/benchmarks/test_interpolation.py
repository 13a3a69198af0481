"""Frames between and beyond: on a moving picture known at every time, and with codecs of known errors."""

from dataclasses import astuple
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interpolation_methods import (
    Codec,
    evaluate_extrapolation,
    evaluate_interpolation,
    frame_average,
    motion_compensated,
)
from torch import Tensor
from torch.nn import functional

from regen.codec.timeline import Timeline, blend_frames, offsets_per_chunk, output_frames
from regen.metrics.psnr_ssim import MAX_PSNR, psnr_per_frame, ssim_per_frame

CHUNK = 3
SPEED = 3.0  # pixels from one frame to the next


def picture(times: list[float], side: int = 64) -> Tensor:
    """A smooth texture that moves to the left, at any times in frames."""
    coarse = 60 + 100 * torch.rand(1, 3, 7, 40, generator=torch.Generator().manual_seed(3))
    wide = functional.interpolate(coarse, size=(side, 6 * side), mode="bicubic", align_corners=True)[0]
    frames = []
    for time in times:
        shift = side + SPEED * time
        left, part = int(shift), shift - int(shift)
        frame = torch.lerp(wide[:, :, left : left + side], wide[:, :, left + 1 : left + 1 + side], part)
        frames.append(frame.permute(1, 2, 0).round().to(torch.uint8))
    return torch.stack(frames)


def clip(frames: int) -> Tensor:
    return picture([float(index) for index in range(frames)])


def knowing(spacing: int, offset: int = 0) -> Codec:
    """A codec that knows the picture, whose frames it gets `spacing` apart, and adds an `offset`."""

    def code(frames: Tensor, timeline: Timeline) -> Tensor:
        shown, _ = output_frames([float(i) for i in range(len(frames))], Fraction(1), CHUNK, timeline)
        wanted = offsets_per_chunk(shown, -(-len(frames) // CHUNK))
        times = [(chunk, at) for chunk, positions in enumerate(wanted) for at in positions]
        made = picture([spacing * (chunk * CHUNK + at) for chunk, at in times])
        made = (made.int() + offset).clamp(0, 255).to(torch.uint8)
        return torch.stack([image for ready in blend_frames(shown, wanted, [made]) for image in ready])

    return code


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_blend_is_linear_in_time(frames, factor, height, width):
    video = torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8)
    made = frame_average(video, factor)
    assert len(made) == (frames - 1) * factor + 1
    assert torch.equal(made[::factor], video)
    for index, frame in enumerate(made):
        first, part = divmod(index, factor)
        after = video[min(first + 1, frames - 1)].double()
        expected = video[first] + (after - video[first]) * part / factor
        assert (frame - expected).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_motion_compensated_frames_are_at_the_right_times(factor):
    kept = picture([float(factor * index) for index in range(5)])
    truth = clip(4 * factor + 1)
    made = motion_compensated(kept, factor)
    assert made.shape == truth.shape
    assert torch.equal(made[::factor], kept)
    for index, frame in enumerate(made):
        quality = psnr_per_frame(truth, frame.expand_as(truth))
        assert quality.argmax().item() == index
    between = torch.arange(len(truth)) % factor > 0
    gain = psnr_per_frame(truth, made)[between] - psnr_per_frame(truth, frame_average(kept, factor))[between]
    assert gain.min() > 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 40), (33, 17), (48, 50)])
def test_motion_compensation_takes_any_size(height, width):
    grey = torch.full((3, height, width, 3), 100, dtype=torch.uint8)
    made = motion_compensated(grey, 3)
    assert made.shape == (7, height, width, 3)
    assert (made.int() - 100).abs().max() <= 2
    assert torch.equal(motion_compensated(grey[:1], 3), grey[:1])
    assert torch.equal(motion_compensated(grey, 1), grey)


@pytest.mark.parametrize(("frames", "factor"), [(9, 2), (10, 3), (16, 4)])
def test_methods_are_compared_on_the_frames_left_out(frames, factor):
    video = clip(frames)
    result = evaluate_interpolation(knowing(factor), video, factor, CHUNK)
    gaps = (frames - 1) // factor
    assert result.factor == factor
    assert astuple(result.kept) == (gaps + 1, MAX_PSNR, pytest.approx(1.0))
    left_out = [index for index in range(gaps * factor) if index % factor]
    average = frame_average(video[::factor], factor)
    is_across = torch.tensor([index // factor % CHUNK == CHUNK - 1 for index in range(len(average))])
    known = torch.where(is_across[:, None, None, None], average, video[: len(average)])
    motion = motion_compensated(video[::factor], factor)
    for name, made in (("model", known), ("average", average), ("motion-compensated", motion)):
        pair = video[left_out], made[left_out]
        expected = [metric(*pair).mean().item() for metric in (psnr_per_frame, ssim_per_frame)]
        assert astuple(result.left_out[name]) == pytest.approx((len(left_out), *expected))
    assert result.left_out["average"].psnr < result.left_out["motion-compensated"].psnr < MAX_PSNR
    assert result.left_out["average"].psnr < result.left_out["model"].psnr


def test_other_methods_get_the_reconstruction_and_the_originals():
    result = evaluate_interpolation(knowing(2, offset=20), clip(9), 2, CHUNK)
    clean = evaluate_interpolation(knowing(2), clip(9), 2, CHUNK)
    assert result.kept.psnr == pytest.approx(result.left_out["model"].psnr, abs=0.3)
    assert 20 < result.kept.psnr < 25
    for method in ("average", "motion-compensated"):
        assert result.left_out[method].psnr < clean.left_out[method].psnr - 1
    for method in ("average of originals", "motion-compensated originals"):
        assert result.left_out[method] == clean.left_out[method]


@pytest.mark.parametrize("factor", [2, 4])
def test_frames_between_two_chunks_are_counted_apart(factor):
    kept = 2 * CHUNK + 1
    result = evaluate_interpolation(knowing(factor), clip((kept - 1) * factor + 1), factor, CHUNK)
    across, whole = result.across["model"], result.left_out["model"]
    assert across.frames == 2 * (factor - 1)
    assert whole.frames == (kept - 1) * (factor - 1)
    expected = []
    for seam in (CHUNK, 2 * CHUNK):
        ends = picture([float((seam - 1) * factor), float(seam * factor)]).float()
        for part in range(1, factor):
            truth = picture([(seam - 1) * factor + float(part)])
            blend = torch.lerp(ends[:1], ends[1:], part / factor).round().to(torch.uint8)
            expected.append(psnr_per_frame(truth, blend).item())
    assert across.psnr == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert across.psnr == pytest.approx(result.across["average"].psnr, abs=1e-2)
    others = whole.frames - across.frames
    assert whole.psnr == pytest.approx((across.frames * across.psnr + others * MAX_PSNR) / whole.frames)
    one_chunk = evaluate_interpolation(knowing(factor), clip((CHUNK - 1) * factor + 1), factor, CHUNK)
    assert set(result.across) == set(result.left_out) and one_chunk.across == {}


@pytest.mark.parametrize("frames", [2 * CHUNK, 3 * CHUNK + 1, 4 * CHUNK + 2])
def test_extrapolation_meets_the_true_frames(frames):
    video = clip(frames)
    result = evaluate_extrapolation(knowing(1), video, CHUNK)
    chunks = frames // CHUNK
    assert list(result) == [-2, -1, 1, 2]
    for distance, scores in result.items():
        edges = [chunk * CHUNK + (0 if distance < 0 else CHUNK - 1) for chunk in range(chunks)]
        edges = [edge for edge in edges if 0 <= edge + distance < frames]
        truth = video[[edge + distance for edge in edges]]
        assert astuple(scores["model"]) == (len(edges), MAX_PSNR, pytest.approx(1.0))
        expected = psnr_per_frame(truth, video[edges]).mean().item()
        assert scores["repeated original"].psnr == pytest.approx(expected)
        assert scores["repeated"] == scores["repeated original"]
    assert result[1]["repeated"].psnr > result[2]["repeated"].psnr
