"""PSNR and SSIM of real frames against torchmetrics and scikit-image, to 0.0001.

The libraries treat the border in two ways. Ours and torchmetrics' SSIM mirrors the frame beyond its border
and counts every pixel. scikit-image (and the original MATLAB code) counts only those whose whole window is in
the frame, 5 pixels from the border. It agrees with ours when it is given the mirrored frame.
"""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr_of_torchmetrics
from torchmetrics.functional.image import structural_similarity_index_measure as ssim_of_torchmetrics

from regen.media.reader import VideoReader
from regen.media.sizes import Size, resize_center_crop
from regen.metrics.psnr_ssim import psnr_per_frame, ssim_per_frame

CLIP = Path(__file__).parents[2] / "examples" / "butterfly.mp4"
BORDER = 5  # half of the window of 11 pixels


def frames() -> Tensor:
    with VideoReader(CLIP) as reader:
        return torch.stack(
            [resize_center_crop(frame.image, Size(90, 121)) for frame in islice(reader, 0, 60, 30)]
        )


def damaged(kind: str) -> Tensor:
    """Copies that are worse in different ways."""
    images = frames().permute(0, 3, 1, 2).float()
    if kind == "blurred":
        images = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    elif kind == "noisy":
        images = images + 12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    else:
        images = images * 0.8 + 10
    return images.permute(0, 2, 3, 1).round().clamp(0, 255).byte()


def as_images(video: Tensor) -> Tensor:
    return video.permute(0, 3, 1, 2).float() / 255


def ssim_of_scikit_image(reference: Tensor, other: Tensor, border: int) -> list[float]:
    """Of each frame, with `border` mirrored pixels around it."""
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


@pytest.mark.parametrize("kind", ["blurred", "noisy", "dull"])
def test_psnr_of_real_frames(kind: str) -> None:
    reference, other = frames(), damaged(kind)
    values = psnr_per_frame(reference, other).tolist()
    pairs = list(zip(reference, other, strict=True))
    expected = [peak_signal_noise_ratio(*(x.numpy() for x in pair), data_range=255) for pair in pairs]
    assert values == pytest.approx(expected, abs=1e-4)
    expected = [psnr_of_torchmetrics(*map(as_images, (b[None], a[None])), data_range=1.0) for a, b in pairs]
    assert values == pytest.approx([float(value) for value in expected], abs=1e-4)
    assert all(15 < value < 45 for value in values), "neither capped nor hopeless"


@pytest.mark.parametrize("kind", ["blurred", "noisy", "dull"])
def test_ssim_of_real_frames(kind: str) -> None:
    reference, other = frames(), damaged(kind)
    values = ssim_per_frame(reference, other).tolist()
    assert values == pytest.approx(ssim_of_scikit_image(reference, other, BORDER), abs=1e-4)
    expected = ssim_of_torchmetrics(
        as_images(other), as_images(reference), sigma=1.5, kernel_size=11, data_range=1.0, reduction="none"
    )
    assert isinstance(expected, Tensor)
    assert values == pytest.approx(expected.tolist(), abs=1e-4)
    assert all(0.2 < value < 0.99 for value in values)


def test_borders_make_a_small_difference() -> None:
    """Left out, as scikit-image does by itself, they change the third digit of these small frames."""
    reference, other = frames(), damaged("blurred")
    inside = ssim_of_scikit_image(reference, other, 0)
    differences = (ssim_per_frame(reference, other) - torch.tensor(inside)).abs()
    assert ((differences > 1e-4) & (differences < 2e-2)).all()
