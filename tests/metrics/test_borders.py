import pytest
import torch
from torch import Tensor

from regen.metrics.borders import SIDE, BorderRatio, PatchJumps


def ramp(height: int, width: int) -> Tensor:
    """Each pixel is 1 level above its neighbours on the left and above."""
    levels = (torch.arange(height)[:, None] + torch.arange(width)).to(torch.uint8)
    return levels[None, ..., None].expand(1, -1, -1, 3)


def step_of(frames: Tensor) -> float | None:
    jumps = PatchJumps()
    jumps.update(frames)
    return jumps.step()


@pytest.mark.parametrize("size", [(24, 16), (20, 33)])
def test_jumps_across_borders_over_those_inside(size):
    smooth = ramp(*size)
    assert step_of(smooth) == 1
    patches = (torch.arange(size[0])[:, None] // SIDE + torch.arange(size[1]) // SIDE).to(torch.uint8)
    blocky = smooth + 4 * patches[None, ..., None]
    assert step_of(blocky) == pytest.approx((5 + 0.1) / (1 + 0.1))
    ratio = BorderRatio()
    ratio.update(smooth, blocky)
    assert ratio.compute() == pytest.approx(5.1 / 1.1)


def test_one_axis_alone_and_dark_borders_count_as_well():
    frames = torch.full((1, 16, 16, 3), 100, dtype=torch.uint8)
    frames[:, :, SIDE:] = 90
    # 16 of 32 jumps across borders are 10 levels, all others 0.
    assert step_of(frames) == pytest.approx((5 + 0.1) / 0.1)


def test_frames_in_parts_and_pictures_of_one_patch():
    reference, other = torch.randint(0, 256, (2, 6, 32, 40, 3), dtype=torch.uint8)
    whole, parts = BorderRatio(), BorderRatio()
    whole.update(reference, other)
    for part in range(0, 6, 2):
        parts.update(reference[part : part + 2], other[part : part + 2])
    assert whole.compute() == parts.compute() == pytest.approx(1, abs=0.05)
    small = BorderRatio()
    small.update(reference[:, :8, :8], other[:, :8, :8])
    assert small.compute() is None
    assert BorderRatio().compute() is None
