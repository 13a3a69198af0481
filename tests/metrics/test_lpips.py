"""LPIPS of videos: every frame alone, whatever number of frames comes at a time."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from regen.metrics import lpips
from regen.metrics.lpips import Lpips, LpipsMean

FRAMES = 5


@pytest.fixture(scope="module")
def network() -> Lpips:
    return Lpips.random_for_tests()


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (FRAMES, 33, 40, 3), generator=generator, dtype=torch.uint8)


def test_mean_over_frames_of_pictures_between_minus_one_and_one(network: Lpips) -> None:
    reference, other = noise(1), noise(2)
    metric = LpipsMean(network)
    metric.update(reference, other)
    images = [frames.permute(0, 3, 1, 2).float() / 255 * 2 - 1 for frames in (other, reference)]
    assert metric.compute() == pytest.approx(network(*images).mean().item(), rel=1e-5)
    assert metric.frames == FRAMES


def test_split_into_calls_and_batches_does_not_matter(
    network: Lpips, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, other = noise(1), noise(2)
    whole, parts = LpipsMean(network), LpipsMean(network)
    whole.update(reference, other)
    monkeypatch.setattr(lpips, "MAX_PIXELS_PER_BATCH", 2 * 33 * 40)
    seen: list[int] = []
    handle = network.register_forward_hook(lambda _, images, __: seen.append(len(images[0])))
    for first, last in pairwise((0, 3, 3, FRAMES)):
        parts.update(reference[first:last], other[first:last])
    handle.remove()
    assert parts.compute() == pytest.approx(whole.compute(), rel=1e-5)
    assert seen == [2, 1, 2], "memory is bounded by the number of pixels"


def test_identical_videos_have_no_distance_and_no_frame_is_an_error(network: Lpips) -> None:
    metric = LpipsMean(network)
    with pytest.raises(ValueError, match="at least one"):
        metric.compute()
    metric.update(noise(1), noise(1))
    assert metric.compute() == 0.0


def test_frames_too_small_are_an_error(network: Lpips) -> None:
    with pytest.raises(ValueError, match="31 pixels a side or more, not 30 x 40"):
        LpipsMean(network).update(noise(1)[:, :30], noise(2)[:, :30])
