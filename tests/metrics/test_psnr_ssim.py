"""PSNR and SSIM against scikit-image, the protocol beyond them, and sharpness."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional

from regen.metrics.psnr_ssim import (
    GRADIENT_EPS,
    MAX_PSNR,
    Psnr,
    Sharpness,
    Ssim,
    gradient_per_frame,
    psnr_per_frame,
    ssim_per_frame,
)


def noisy_pair(frames: int, height: int, width: int, strength: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width + strength)
    reference = torch.randint(0, 256, (frames, height, width, 3), generator=generator)
    noise = torch.randint(-strength, strength + 1, reference.shape, generator=generator)
    return reference.to(torch.uint8), (reference + noise).clamp(0, 255).to(torch.uint8)


@given(height=st.integers(11, 40), width=st.integers(11, 40), strength=st.integers(1, 120))
def test_equal_to_scikit_image(height: int, width: int, strength: int) -> None:
    """SSIM of Wang et al. 2004; scikit-image leaves out 5 pixels at the border unless they are padded."""
    reference, other = noisy_pair(2, height, width, strength)
    pairs = list(zip(reference.numpy(), other.numpy(), strict=True))
    psnr = [peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs]
    assert psnr_per_frame(reference, other).tolist() == pytest.approx(psnr, abs=1e-4)
    ssim = [
        structural_similarity(
            *(np.pad(frame, ((5, 5), (5, 5), (0, 0)), mode="reflect") for frame in pair),
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2,
        )
        for pair in pairs
    ]  # fmt: skip
    assert ssim_per_frame(reference, other).tolist() == pytest.approx(ssim, abs=1e-5)


def test_pooled_psnr_is_that_of_the_mean_squared_error() -> None:
    """Errors of 5 and of 15 levels: the mean square is (25 + 225) / 2 / 255², in whatever order they come."""
    reference = torch.full((2, 9, 13, 3), 100, dtype=torch.uint8)
    other = reference + torch.tensor([5, 15], dtype=torch.uint8)[:, None, None, None]
    psnr = Psnr()
    for index in (1, 0):
        psnr.update(reference[index : index + 1], other[index : index + 1])
    assert psnr.compute_pooled() == pytest.approx(20 * math.log10(255 / math.sqrt(125)), abs=1e-4)
    assert psnr.compute_pooled() < psnr.compute()


def test_identical_frames_are_capped() -> None:
    frames, _ = noisy_pair(2, 16, 16, 1)
    assert psnr_per_frame(frames, frames).tolist() == [MAX_PSNR] * 2 == [100.0] * 2
    assert ssim_per_frame(frames, frames).tolist() == pytest.approx([1, 1], abs=1e-6)


def test_mean_over_frames_and_not_over_updates() -> None:
    reference, other = noisy_pair(7, 16, 24, 40)
    other[3] = reference[3]
    for metric in (Psnr, Ssim, Sharpness):
        whole, parts = metric(), metric()
        with pytest.raises(ValueError, match="at least one"):
            parts.compute()
        whole.update(reference, other)
        for first, last in ((0, 1), (1, 5), (5, 7)):
            parts.update(reference[first:last], other[first:last])
        assert parts.compute() == pytest.approx(whole.compute(), abs=1e-6)


@given(height=st.integers(1, 12), width=st.integers(1, 12))
def test_tiny_frames(height: int, width: int) -> None:
    reference, other = noisy_pair(1, height, width, 50)
    assert -1 <= ssim_per_frame(reference, other).item() <= 1
    assert ssim_per_frame(reference, reference).item() == pytest.approx(1.0, abs=1e-3)


def texture(frames: int = 3, height: int = 40, width: int = 48) -> Tensor:
    coarse = torch.rand(frames, 3, 9, 10, generator=torch.Generator().manual_seed(5)) * 200 + 20
    images = functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return images.permute(0, 2, 3, 1).clamp(0, 255).round().to(torch.uint8)


def blurred(frames: Tensor, side: int) -> Tensor:
    padded = functional.pad(frames.permute(0, 3, 1, 2).float(), [side // 2] * 4, mode="replicate")
    return functional.avg_pool2d(padded, side, 1).permute(0, 2, 3, 1).round().to(torch.uint8)


def sharpness(reference: Tensor, other: Tensor) -> float:
    metric = Sharpness()
    metric.update(reference, other)
    return metric.compute()


def test_gradient_of_known_frames() -> None:
    """A ramp of 3 levels a column and 4 a row has gradients of 5 levels, but for the last row and column."""
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    frame = (4 * rows + 3 * columns).to(torch.uint8)[None, :, :, None].expand(1, 6, 8, 3)
    expected = (5 * 7 * 5 + 3 * 7 + 4 * 5) / (6 * 8)
    assert gradient_per_frame(frame).item() == pytest.approx(expected)
    assert sharpness(frame, frame) == 1.0


def test_blur_lowers_sharpness_and_noise_raises_it() -> None:
    """More blur lowers it more. Noise raises it above 1, and hides that the picture below is blurred."""
    frames = texture()
    values = [sharpness(frames, blurred(frames, side)) for side in (3, 5, 9)]
    assert 1 > values[0] > values[1] > values[2] > 0
    noise = torch.randint(-24, 25, frames.shape, generator=torch.Generator().manual_seed(6))
    noisy, soft = ((x.int() + noise).clamp(0, 255).to(torch.uint8) for x in (frames, blurred(frames, 9)))
    assert sharpness(frames, noisy) > 1.2
    assert sharpness(frames, soft) > values[2]


def test_a_flat_picture_has_a_sharpness() -> None:
    flat = torch.full((2, 1, 9, 3), 90, dtype=torch.uint8)
    assert sharpness(flat, flat + 7) == 1.0
    striped = flat.clone()
    striped[:, :, ::2] += 1
    assert sharpness(flat, striped) == pytest.approx((8 / 9 + GRADIENT_EPS) / GRADIENT_EPS)
