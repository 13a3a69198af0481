"""Temporal metrics on moving pictures and a real clip with known damage."""

from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.ghosting import BLOCK, GhostingRate, TemporalMae
from regen.metrics.seams import SeamRatio

FRAMES, HEIGHT, WIDTH = 7, 40, 48
CLIP = Path(__file__).parents[2] / "examples" / "butterfly.mp4"
MANY, CHUNK = 40, 5


def moving(frames: int = FRAMES, speed: int = 5, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Random blobs of some 4 pixels, 20 to 220 levels, that move to the left and come in again."""
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(1)) * 200 + 20
    picture = functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
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


def test_frames_early_or_late_are_no_ghosts() -> None:
    assert [share(moving(), mean_of(moving(), offset)) for offset in (-1, 0, 1)] == [0, 0, 0]


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
    """The caller may reuse the memory of its frames; the value in between counts the frames so far."""
    reference, other = moving()[:, :24, :24], mean_of(moving(), -1, 0, 0, 1)[:, :24, :24]
    blended, difference = GhostingRate(), TemporalMae()
    buffers = torch.empty_like(reference), torch.empty_like(other)
    for first, last in pairwise([0, *cuts, FRAMES]):
        parts = [
            buffer[: last - first].copy_(video[first:last])
            for buffer, video in zip(buffers, (reference, other), strict=True)
        ]
        blended.update(*parts)
        difference.update(*parts)
        if last > 1:
            assert blended.compute() == share(reference[:last], other[:last])
    assert difference.compute() == error(reference, other)


def real_clip() -> Tensor:
    with VideoReader(CLIP) as reader:
        return torch.stack([resize_center_crop(frame.image, Size(96, 168)) for frame in islice(reader, MANY)])


def shuffled(frames: Tensor) -> Tensor:
    return frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(4))]


def frozen_in_chunks(frames: Tensor) -> Tensor:
    """Each frame is the mean of its chunk: the reconstruction of a decoder without any motion."""
    means = [chunk.float().mean(0, keepdim=True).round().byte() for chunk in frames.split(CHUNK)]
    return torch.cat(means).repeat_interleave(CHUNK, dim=0)


DAMAGE = {
    "none": lambda frames: frames,
    "blurred": lambda frames: blurred(frames, 1.0),
    "ghosted": lambda frames: mean_of(frames, -1, 0, 1),
    "blurred ghost": lambda frames: blurred(mean_of(frames, -1, 0, 1), 1.0),
    "reversed": lambda frames: frames.flip(0),
    "shuffled": shuffled,
    "reversed in chunks": lambda frames: torch.cat([chunk.flip(0) for chunk in frames.split(CHUNK)]),
    "frozen in chunks": frozen_in_chunks,
}


@pytest.mark.parametrize("clip", ["real", "blobs"])
def test_metrics_order_damage_as_they_should(clip: str) -> None:
    reference = real_clip() if clip == "real" else moving(MANY, height=48, width=56)
    copies = {name: damage(reference) for name, damage in DAMAGE.items()}
    errors = [error(reference, copies[n]) for n in ("none", "blurred", "ghosted", "reversed", "shuffled")]
    assert errors[0] == 0 and errors == sorted(set(errors)), "strictly growing"
    few = reference[:10]  # the ghosting rate is slow
    rates = {name: share(few, damage(few)) for name, damage in DAMAGE.items()}
    assert rates["none"] == 0
    assert all(rates[name] < 0.05 for name in ("blurred", "reversed", "shuffled", "reversed in chunks"))
    assert all(rates[name] > 0.85 for name in ("ghosted", "blurred ghost"))
    assert 0.05 < rates["frozen in chunks"] < 0.5, "the means of 5 frames are ghosts in their middle only"
    ratios = {}
    for name, other in copies.items():
        seams = SeamRatio(CHUNK)
        seams.update(reference, other)
        ratios[name] = seams.compute() or 0.0
    whole = [ratios[name] for name in ("blurred", "ghosted", "reversed", "shuffled")]
    assert ratios["none"] == 1 and all(0.7 < ratio < 1.4 for ratio in whole)
    assert ratios["frozen in chunks"] > 20 * max(whole), "damage by chunk is a seam"
