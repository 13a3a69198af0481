"""PSNR and SSIM against their definitions and scikit-image, the protocol beyond them, and sharpness."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional

from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader
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

CLIP = Path(__file__).parents[2] / "examples" / "butterfly.mp4"
BORDER = 5  # half of the SSIM window


def noisy_pair(frames: int, height: int, width: int, strength: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width + strength)
    reference = torch.randint(0, 256, (frames, height, width, 3), generator=generator)
    noise = torch.randint(-strength, strength + 1, reference.shape, generator=generator)
    return reference.to(torch.uint8), (reference + noise).clamp(0, 255).to(torch.uint8)


def as_floats(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2).float() / 255


@given(height=st.integers(11, 40), width=st.integers(11, 40), strength=st.integers(1, 120))
def test_metrics_are_those_of_the_definition(height: int, width: int, strength: int) -> None:
    """SSIM of Wang et al. 2004, and PSNR, written out in float64 for one frame."""
    reference, other = noisy_pair(1, height, width, strength)
    error = (as_floats(reference).double() - as_floats(other).double()).square().mean().item()
    psnr = psnr_per_frame(reference, other).item()
    assert psnr == pytest.approx(-10 * math.log10(error) if error else MAX_PSNR, abs=1e-4)
    ramp = torch.arange(11, dtype=torch.float64) - 5
    bell = torch.exp(-(ramp**2) / (2 * 1.5**2))
    window = torch.outer(bell, bell) / bell.sum() ** 2

    def local_mean(image: Tensor) -> Tensor:
        mirrored = functional.pad(image, (5, 5, 5, 5), mode="reflect")
        return functional.conv2d(mirrored, window[None, None])

    x, y = (as_floats(frame)[0, :, None].double() for frame in (reference, other))
    mean_x, mean_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    ssim = ssim / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert ssim_per_frame(reference, other).item() == pytest.approx(ssim.mean().item(), abs=1e-5)


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
    """Smooth random blobs with edges of a few pixels."""
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


def real_frames() -> Tensor:
    with VideoReader(CLIP) as reader:
        frames = [resize_center_crop(frame.image, Size(90, 121)) for frame in islice(reader, 0, 60, 30)]
    return torch.stack(frames)


def scikit_image_ssim(reference: Tensor, other: Tensor, border: int) -> list[float]:
    """SSIM of each frame with `border` mirrored pixels around it."""
    around = ((border, border), (border, border), (0, 0))
    return [
        structural_similarity(
            *(np.pad(frame.numpy(), around, mode="reflect") for frame in pair),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=2,
        )
        for pair in zip(reference, other, strict=True)
    ]


@pytest.mark.parametrize("damage", ["blur", "noise"])
def test_equal_to_scikit_image_on_real_frames(damage: str) -> None:
    """scikit-image, as the original MATLAB code, leaves out 5 pixels at the border unless they are padded."""
    reference = real_frames()
    noise = 12 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))
    other = blurred(reference, 3) if damage == "blur" else (reference + noise).round().clamp(0, 255).byte()
    pairs = zip(reference.numpy(), other.numpy(), strict=True)
    expected = [peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs]
    assert psnr_per_frame(reference, other).tolist() == pytest.approx(expected, abs=1e-4)
    ssim = ssim_per_frame(reference, other)
    assert ssim.tolist() == pytest.approx(scikit_image_ssim(reference, other, BORDER), abs=1e-4)
    difference = (ssim - torch.tensor(scikit_image_ssim(reference, other, 0))).abs()
    assert (difference < 3e-2).all(), "borders change the third digit of these small frames"
