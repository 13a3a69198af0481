"""Ghosting metrics on moving pictures with known damage."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regen.metrics.ghosting import BLOCK, GhostingRate, TemporalMae

FRAMES, HEIGHT, WIDTH = 7, 40, 48


def moving(frames: int = FRAMES, speed: int = 5) -> Tensor:
    """Random blobs of some 4 pixels, 20 to 220 levels, that move to the left and come in again."""
    coarse = torch.rand(1, 3, HEIGHT // 4, WIDTH // 4, generator=torch.Generator().manual_seed(1)) * 200 + 20
    picture = functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")[0].permute(1, 2, 0)
    return torch.stack([picture.round().byte().roll(-speed * index, dims=1) for index in range(frames)])


def mean_of(frames: Tensor, *offsets: int) -> Tensor:
    """Each frame is the mean of those at the offsets to it; the video stands still beyond its ends."""
    index = torch.arange(len(frames))[:, None] + torch.tensor(offsets)
    return frames[index.clamp(0, len(frames) - 1)].float().mean(1).round().byte()


def blurred(frames: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma) + 1
    bell = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel = (torch.outer(bell, bell) / bell.sum() ** 2)[None, None]
    images = functional.pad(frames.permute(0, 3, 1, 2).float(), [reach] * 4, mode="replicate")
    soft = functional.conv2d(images.flatten(0, 1)[:, None], kernel)[:, 0]
    return soft.unflatten(0, (len(frames), 3)).permute(0, 2, 3, 1).round().byte()


def noisy(frames: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(2)) * sigma
    return (frames + noise).round().clamp(0, 255).byte()


def share(reference: Tensor, other: Tensor) -> float:
    metric = GhostingRate()
    metric.update(reference, other)
    value = metric.compute()
    assert value is not None
    return value


def error(reference: Tensor, other: Tensor) -> float | None:
    metric = TemporalMae()
    metric.update(reference, other)
    return metric.compute()


def test_temporal_mae_is_that_of_the_definition() -> None:
    reference, other = moving(), noisy(moving(speed=2), 10)
    expected = ((other.double().diff(dim=0)) - reference.double().diff(dim=0)).abs().mean().item()
    assert error(reference, other) == pytest.approx(expected, rel=1e-12)


def test_temporal_mae_of_known_videos() -> None:
    """A wrong tint changes nothing between frames; a flicker of 7 levels does so at every one."""
    reference = moving()
    assert error(reference, reference) == error(reference, reference + 9) == 0.0
    flicker = (torch.arange(FRAMES) % 2 * 7).byte()[:, None, None, None]
    assert error(reference, reference + flicker) == 7.0


def test_temporal_mae_grows_with_ghosting_and_with_noise() -> None:
    reference = moving()
    for values in (
        [error(reference, mean_of(reference, *range(-reach, reach + 1))) for reach in (0, 1, 2)],
        [error(reference, noisy(reference, sigma)) for sigma in (0, 2, 8)],
    ):
        known = [value for value in values if value is not None]
        assert len(known) == 3 and known == sorted(set(known)), "strictly growing"


@pytest.mark.parametrize("offsets", [(-1, 1), (-1, 0), (0, 1), (-1, 0, 1)])
def test_means_of_neighbours_are_blended(offsets: tuple[int, ...]) -> None:
    """At both ends, where one neighbour is missing, a mean is partly nearer to the frame itself."""
    reference = moving()
    ghosts = mean_of(reference, *offsets)
    assert share(reference, ghosts) > 0.8
    assert share(reference, blurred(ghosts, 1.5)) > 0.75, "a blurred ghost"
    assert share(reference, noisy(ghosts, 5)) > 0.75, "a noisy ghost"


@pytest.mark.parametrize(("speed", "sigma"), [(3, 4.0), (5, 0.6), (5, 1.5), (8, 2.5)])
def test_blur_alone_is_no_ghosting(speed: int, sigma: float) -> None:
    reference = moving(speed=speed)
    assert share(reference, blurred(reference, sigma)) < 0.02


@pytest.mark.parametrize("sigma", [2.0, 30.0])
def test_noise_alone_is_no_ghosting(sigma: float) -> None:
    reference = moving()
    assert share(reference, noisy(reference, sigma)) == 0.0
    assert share(reference, noisy(blurred(reference, 1.5), sigma)) < 0.02


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_frames_early_or_late_are_no_ghosts(offset: int) -> None:
    reference = moving()
    assert share(reference, mean_of(reference, offset)) == 0.0


def test_ghosts_count_where_the_picture_moves() -> None:
    """Half of it stands still, and half of what moves is blended: the share is a half."""
    reference, other = moving(), mean_of(moving(), -1, 1)
    whole = GhostingRate()
    whole.update(reference, other)
    reference[:, : HEIGHT // 5 * 3] = reference[:1, : HEIGHT // 5 * 3]
    other[:, : HEIGHT // 5 * 4] = reference[:, : HEIGHT // 5 * 4]
    part = GhostingRate()
    part.update(reference, other)
    assert 0.2 * whole.moving < part.moving < 0.45 * whole.moving
    assert part.compute() == pytest.approx(0.5, abs=0.1)


def test_no_value_where_nothing_moves() -> None:
    still = moving(1).expand(FRAMES, -1, -1, -1)
    tiny = moving()[:, : BLOCK - 1]
    for reference in (still, tiny, moving(1), moving(1)[:0]):
        metric = GhostingRate()
        metric.update(reference, reference)
        assert metric.compute() is None
    assert error(moving(1), moving(1)) is None
    assert GhostingRate().compute() is None and TemporalMae().compute() is None


@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6], [0, 4, 4, 7], [3, 5]])
def test_split_into_calls_does_not_matter(cuts: list[int]) -> None:
    """Nor does it to look at the value in between, which counts the frames so far."""
    reference, other = moving()[:, :24, :24], mean_of(moving(), -1, 0, 0, 1)[:, :24, :24]
    blended, difference = GhostingRate(), TemporalMae()
    edges = [0, *cuts, FRAMES]
    for first, last in pairwise(edges):
        blended.update(reference[first:last], other[first:last])
        difference.update(reference[first:last], other[first:last])
        if last > 1:
            assert blended.compute() == share(reference[:last], other[:last])
    assert difference.compute() == error(reference, other)


def test_frames_of_the_caller_may_change_afterwards() -> None:
    reference, other = moving(), mean_of(moving(), -1, 1)
    blended, difference = GhostingRate(), TemporalMae()
    first, second = torch.empty_like(reference[:1]), torch.empty_like(reference[:1])
    for original, frame in zip(reference, other, strict=True):
        first.copy_(original[None])
        second.copy_(frame[None])
        blended.update(first, second)
        difference.update(first, second)
    assert blended.compute() == share(reference, other)
    assert difference.compute() == error(reference, other)
