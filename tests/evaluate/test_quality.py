"""Whole clips through a model: the protocol end to end, on a tiny video and a linear embedder."""

from dataclasses import replace

import pytest
import torch
from tiny_media import tiny_regen
from torch import Tensor
from torch.nn import functional

from regen.codec.sessions import DecodeOptions, decode_chunks, encode_frames
from regen.embedders.linear import AutoencoderLinear
from regen.evaluate.quality import decode_bytes, evaluate_clip
from regen.metrics.psnr_ssim import Sharpness, psnr_per_frame, ssim_per_frame
from regen.metrics.seams import SeamRatio

RATIO, FRAMES = 2, 7  # the last chunk holds one frame of three


def moving_frames(frames: int = FRAMES, height: int = 26, width: int = 40) -> list[Tensor]:
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(3)) * 255
    image = functional.interpolate(coarse, size=(height, width + frames), mode="bicubic", align_corners=True)
    image = image[0].permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8)
    return [image[:, index : index + width].contiguous() for index in range(frames)]


@pytest.fixture(scope="module")
def model() -> AutoencoderLinear:
    chunk = torch.stack(moving_frames(RATIO + 1, 96, 120)).permute(3, 0, 1, 2)[None] / 127.5 - 1
    embedder = AutoencoderLinear(RATIO, latent_channels=4)
    embedder.init_from_components([chunk])
    return embedder.eval()


def test_clip_is_measured_frame_by_frame(model):
    frames = moving_frames()
    result = evaluate_clip(model, iter(frames), "moving")
    height, width = frames[0].shape[:2]
    decoded = torch.stack(
        list(decode_chunks(model, encode_frames(model, frames), height=height, width=width))
    )
    assert decoded.shape == (FRAMES, height, width, 3)
    assert (result.name, result.frames) == ("moving", FRAMES)
    reference = torch.stack(frames)
    assert result.psnr == pytest.approx(psnr_per_frame(reference, decoded).mean().item(), abs=1e-4)
    assert result.ssim == pytest.approx(ssim_per_frame(reference, decoded).mean().item(), abs=1e-5)
    assert result.psnr > 15
    sharpness, seams = Sharpness(), SeamRatio(RATIO + 1)
    sharpness.update(reference, decoded)
    seams.update(reference, decoded)
    assert result.sharpness == pytest.approx(sharpness.compute(), abs=1e-6)
    assert result.seam_ratio == seams.compute() is not None
    assert result.seconds == result.encode_seconds + result.decode_seconds > 0


def test_a_clip_of_one_chunk_has_no_seam(model):
    frames = moving_frames()
    with pytest.raises(ValueError, match="at least one"):
        evaluate_clip(model, [], "nothing")
    assert evaluate_clip(model, frames[: RATIO + 1], "one chunk").seam_ratio is None
    assert evaluate_clip(model, frames[:1], "image").seam_ratio is None
    assert evaluate_clip(model, frames[: RATIO + 2], "two chunks").seam_ratio is not None


@pytest.mark.parametrize("batch", [2, 4])
def test_frames_that_come_late_meet_their_originals(model, batch):
    frames = moving_frames()
    one_by_one = evaluate_clip(model, frames, "moving", DecodeOptions(seams="none"))
    together = evaluate_clip(model, frames, "moving", DecodeOptions(seams="none", batch=batch))
    assert together.frames == FRAMES
    for name in ("psnr", "psnr_pooled", "ssim", "sharpness", "seam_ratio"):
        assert getattr(together, name) == pytest.approx(getattr(one_by_one, name), abs=1e-3), name


def test_the_options_reach_the_decoder():
    model, frames = tiny_regen(), moving_frames(10, 16, 16)
    plain = DecodeOptions(steps=2, seams="none")
    changes = ({}, {"steps": 3}, {"seed": 1}, {"solver": "heun"}, {"seams": "match"}, {"seams": "extend"})
    options = [replace(plain, **change) for change in changes]
    figures = [evaluate_clip(model, frames, "moving", choice).psnr for choice in options]
    assert len(set(figures)) == len(options), figures
    assert evaluate_clip(model, frames, "moving", plain).psnr == figures[0]


def test_memory_of_decoding_holds_the_frames_of_a_chunk_and_no_weights(model):
    def of(frames: int, height: int, width: int) -> int:
        return decode_bytes(model, frames, height, width, DecodeOptions())

    chunk = 4 * 3 * (RATIO + 1) * 32 * 64  # in fp32
    assert chunk <= of(9, 32, 64) < 16 * chunk
    assert of(9, 64, 64) == pytest.approx(2 * of(9, 32, 64), rel=0.2)
    assert of(1, 32, 64) < of(9, 32, 64) == of(RATIO + 1, 32, 64)
