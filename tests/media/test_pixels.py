"""The measuring size: what is accepted, and that scaling keeps proportions and the centre."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from regen.media.pixels import Size, parse_size, resize_center_crop, scaled_size

sides = st.integers(8, 200)


def smooth_frame(height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 4, 5) * 255
    image = functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return image[0].permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8).contiguous()


@pytest.mark.parametrize(
    ("text", "size"), [("256", Size(256, 256)), ("176x312", Size(176, 312)), (" 64X8 ", Size(64, 8))]
)
def test_parse_size(text: str, size: Size) -> None:
    assert parse_size(text) == size == parse_size(str(size))


OUT_OF_RANGE = ["0", "7", "-256", "256x0", "7x256", "99999", "256x-8"]
NO_SIZES = ["abc", "", "256x", "x256", "1x2x3", "256.5", "1e3", "२५६", "9" * 5000]


@pytest.mark.parametrize("text", [*OUT_OF_RANGE, *NO_SIZES])
def test_wrong_sizes(text: str) -> None:
    words = r"8 to 16384 pixels, got -?\d+" if text in OUT_OF_RANGE else "A size is one number"
    with pytest.raises(ValueError, match=words):
        parse_size(text)


@given(height=sides, width=sides, target_height=sides, target_width=sides)
def test_a_scaled_frame_just_covers_the_size_and_is_cropped_to_it(
    height: int, width: int, target_height: int, target_width: int
) -> None:
    scaled = scaled_size(height, width, Size(target_height, target_width))
    assert scaled[0] >= target_height
    assert scaled[1] >= target_width
    assert scaled[0] == target_height or scaled[1] == target_width
    scale = max(target_height / height, target_width / width)
    assert abs(scaled[0] - height * scale) <= 0.5 + 1e-6
    assert abs(scaled[1] - width * scale) <= 0.5 + 1e-6
    frame = torch.zeros(height, width, 3, dtype=torch.uint8)
    fitted = resize_center_crop(frame, Size(target_height, target_width))
    assert fitted.shape == (target_height, target_width, 3)


def test_no_size_and_own_size_change_nothing() -> None:
    frame = smooth_frame(40, 56)
    assert resize_center_crop(frame, None) is frame
    assert torch.equal(resize_center_crop(frame, Size(40, 56)), frame)


@pytest.mark.parametrize("source", [(90, 160), (160, 90), (33, 47), (64, 64)])
def test_square_is_short_side_then_centre_crop(source: tuple[int, int]) -> None:
    """The same in float, step by step: the fast 8-bit path rounds twice, so it is within 1.5 levels."""
    frame, side = smooth_frame(*source), 48
    scaled = [round(length * side / min(source)) for length in source]
    image = frame.permute(2, 0, 1)[None].float()
    image = functional.interpolate(image, size=scaled, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    top, left = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    expected = image[top : top + side, left : left + side].clamp(0, 255)
    assert (resize_center_crop(frame, parse_size(str(side))).float() - expected).abs().max() <= 1.5


def test_antialiasing_averages_fine_stripes() -> None:
    frame = torch.zeros(64, 64, 3, dtype=torch.uint8)
    frame[:, ::2] = 255
    small = resize_center_crop(frame, Size(16, 16))[2:-2, 2:-2].float()
    assert (small - 127.5).abs().max() < 4


def test_input_may_be_a_view() -> None:
    frame = smooth_frame(40, 64)
    turned = frame.transpose(0, 1)
    assert torch.equal(
        resize_center_crop(turned, Size(16, 16)), resize_center_crop(turned.contiguous(), Size(16, 16))
    )
