"""Whole clips through a model: the protocol end to end, on a tiny video and a linear embedder."""

from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regen.codec.chunks import decode_chunks, encode_frames
from regen.data.video import VideoError, VideoReader, VideoWriter
from regen.embedders.linear import AutoencoderLinear
from regen.evaluate.metrics import psnr_of_frames, ssim_of_frames
from regen.evaluate.protocol import Size, fit
from regen.evaluate.quality import evaluate_clip, evaluate_quality

RATIO, FRAMES = 2, 7  # the last chunk holds one frame of three


def moving_frames(frames: int = FRAMES, height: int = 26, width: int = 40) -> list[Tensor]:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(3)) * 255
    image = functional.interpolate(coarse, size=(height, width + frames), mode="bicubic", align_corners=True)
    image = image[0].permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8)
    return [image[:, index : index + width].contiguous() for index in range(frames)]


@pytest.fixture(scope="module")
def model() -> AutoencoderLinear:
    chunk = torch.stack(moving_frames(RATIO + 1, 24, 40)).permute(3, 0, 1, 2)[None] / 127.5 - 1
    return AutoencoderLinear.fit([chunk], RATIO, latent_channels=2).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "moving.mp4"
    with VideoWriter(path, 40, 26, Fraction(25)) as writer:
        for frame in moving_frames():
            writer.write(frame)
    return path


def test_clip_is_measured_frame_by_frame(model: AutoencoderLinear) -> None:
    frames = moving_frames()
    result = evaluate_clip(model, iter(frames), "moving")
    height, width = frames[0].shape[:2]
    decoded = torch.stack(
        list(decode_chunks(model, encode_frames(model, frames), height=height, width=width))
    )
    assert decoded.shape == (FRAMES, height, width, 3)
    assert (result.name, result.frames) == ("moving", FRAMES)
    reference = torch.stack(frames)
    assert result.psnr == pytest.approx(psnr_of_frames(reference, decoded).mean().item(), abs=1e-4)
    assert result.ssim == pytest.approx(ssim_of_frames(reference, decoded).mean().item(), abs=1e-5)
    assert result.psnr > 15
    assert result.seconds == result.encode_seconds + result.decode_seconds > 0


def test_files_are_fitted_first(model: AutoencoderLinear, clip: Path) -> None:
    size = Size(16, 24)
    (result,) = evaluate_quality(model, [clip], size)
    with VideoReader(clip) as reader:
        frames = [fit(frame.image, size) for frame in reader]
    expected = evaluate_clip(model, frames, "moving")
    assert (result.name, result.frames, result.psnr, result.ssim) == (
        expected.name,
        expected.frames,
        expected.psnr,
        expected.ssim,
    )


@pytest.mark.parametrize("limit", [1, 5, 99])
def test_first_frames_only(model: AutoencoderLinear, clip: Path, limit: int) -> None:
    (result,) = evaluate_quality(model, [clip], max_frames=limit)
    with VideoReader(clip) as reader:
        expected = evaluate_clip(model, [frame.image for frame in islice(reader, limit)], "moving")
    assert result.frames == min(limit, FRAMES)
    assert result.psnr == expected.psnr


def test_one_result_per_file_as_it_comes(model: AutoencoderLinear, clip: Path, tmp_path: Path) -> None:
    results = evaluate_quality(model, [clip, tmp_path / "missing.mp4"])
    assert next(results).frames == FRAMES
    with pytest.raises(VideoError, match=r"missing\.mp4"):
        next(results)


def test_no_frame_is_an_error(model: AutoencoderLinear) -> None:
    with pytest.raises(ValueError, match="at least one"):
        evaluate_clip(model, [], "nothing")
