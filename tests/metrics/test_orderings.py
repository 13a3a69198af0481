"""Temporal metrics on damaged copies of a real clip and of moving blobs: each orders them as it should.

- `temporal_mae`: 0 for the original, then blurred, ghosted, reversed, shuffled.
- `ghosting_rate`: 0 for the original, near 0 for blurred, reversed and shuffled, near 1 for ghosted, also
  when blurred as well.
- `seam_ratio`: 1 for the original; near 1 for damage that ignores chunks; far above 1 for damage by chunk.
"""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.ghosting import GhostingRate, TemporalMae
from regen.metrics.seams import SeamRatio

CLIP = Path(__file__).parents[2] / "examples" / "butterfly.mp4"
FRAMES, CHUNK = 40, 5
FEW = 10  # frames for the ghosting rate, which is slow


def butterfly() -> Tensor:
    with VideoReader(CLIP) as reader:
        return torch.stack(
            [resize_center_crop(frame.image, Size(96, 168)) for frame in islice(reader, FRAMES)]
        )


def blobs() -> Tensor:
    """Random blobs that move 5 pixels a frame."""
    coarse = torch.rand(1, 3, 12, 14, generator=torch.Generator().manual_seed(1)) * 200 + 20
    picture = functional.interpolate(coarse, (48, 56), mode="bilinear")[0].permute(1, 2, 0).round().byte()
    return torch.stack([picture.roll(-5 * index, dims=1) for index in range(FRAMES)])


def blurred(frames: Tensor) -> Tensor:
    images = functional.pad(frames.permute(0, 3, 1, 2).float(), [2] * 4, mode="replicate")
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # a deviation of one pixel
    images = functional.conv2d(images.flatten(0, 1)[:, None], torch.outer(kernel, kernel)[None, None])[:, 0]
    return images.unflatten(0, (len(frames), 3)).permute(0, 2, 3, 1).round().byte()


def ghosted(frames: Tensor) -> Tensor:
    """Each frame is the mean of itself and its two neighbours."""
    index = (torch.arange(len(frames))[:, None] + torch.tensor([-1, 0, 1])).clamp(0, len(frames) - 1)
    return frames[index].float().mean(1).round().byte()


def shuffled(frames: Tensor) -> Tensor:
    return frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(4))]


def reversed_in_chunks(frames: Tensor) -> Tensor:
    return torch.cat([chunk.flip(0) for chunk in frames.split(CHUNK)])


def frozen_in_chunks(frames: Tensor) -> Tensor:
    """Each frame is the mean of its chunk: the reconstruction of a decoder without any motion."""
    means = [chunk.float().mean(0, keepdim=True).round().byte() for chunk in frames.split(CHUNK)]
    return torch.cat(means).repeat_interleave(CHUNK, dim=0)


COPIES = {
    "original": lambda frames: frames,
    "blurred": blurred,
    "ghosted": ghosted,
    "blurred ghost": lambda frames: blurred(ghosted(frames)),
    "reversed": lambda frames: frames.flip(0),
    "shuffled": shuffled,
    "reversed in chunks": reversed_in_chunks,
    "frozen in chunks": frozen_in_chunks,
}
Values = dict[str, dict[str, float]]


@pytest.fixture(scope="module", params=["butterfly", "blobs"])
def all_values(request: pytest.FixtureRequest) -> Values:
    """Each metric of each copy, by their names."""
    reference = butterfly() if request.param == "butterfly" else blobs()
    found: Values = {"temporal_mae": {}, "ghosting_rate": {}, "seam_ratio": {}}
    for copy, damage in COPIES.items():
        for name, metric in zip(found, (TemporalMae(), GhostingRate(), SeamRatio(CHUNK)), strict=True):
            part = reference[:FEW] if name == "ghosting_rate" else reference
            metric.update(part, damage(part))
            value = metric.compute()
            assert value is not None
            found[name][copy] = value
    return found


def test_temporal_mae_orders_the_damage(all_values: Values) -> None:
    values = all_values["temporal_mae"]
    assert values["original"] == 0
    order = [values[copy] for copy in ("original", "blurred", "ghosted", "reversed", "shuffled")]
    assert order == sorted(set(order)), "strictly growing"


def test_ghosting_rate_finds_ghosts_alone(all_values: Values) -> None:
    values = all_values["ghosting_rate"]
    assert values["original"] == 0
    assert all(values[copy] < 0.05 for copy in ("blurred", "reversed", "shuffled", "reversed in chunks"))
    assert all(values[copy] > 0.85 for copy in ("ghosted", "blurred ghost"))
    assert 0.05 < values["frozen in chunks"] < 0.5, "the means of 5 frames are ghosts in their middle only"


def test_seam_ratio_finds_damage_by_chunk_alone(all_values: Values) -> None:
    values = all_values["seam_ratio"]
    assert values["original"] == 1
    no_chunks = ("blurred", "ghosted", "reversed", "shuffled")
    assert all(0.7 < values[copy] < 1.4 for copy in no_chunks)
    assert values["frozen in chunks"] > 20 * max(values[copy] for copy in no_chunks)
