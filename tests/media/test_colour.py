"""Colours against the equations of BT.601, BT.709 and BT.2020 in float64, to one level of 8 bits."""

from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange

from regen.media.pixels import IDENTITY_MATRIX, RgbConverter, YuvConverter
from regen.media.reader import VideoReader, VideoWriter

# FFmpeg's numbers of the matrices, and the weights of red and blue in luma (BT.601-7, BT.709-6, BT.2020-2).
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
LEVELS = (0, 17, 64, 128, 190, 235, 255)
COLOURS = np.array(list(product(LEVELS, repeat=3)), np.float64)  # of RGB, in 8 bits
TAGS = (1, 1, 1, int(ColorRange.MPEG))  # BT.709 in limited range


def to_yuv(rgb: np.ndarray, matrix: int, full: bool, bits: int) -> np.ndarray:
    """Exact Y, Cb and Cr of RGB in 0..1, as values of `bits` bits before rounding."""
    red, blue = WEIGHTS[matrix]
    luma = rgb @ (red, 1 - red - blue, blue)
    chroma = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    scale, largest, middle = 2 ** (bits - 8), 2**bits - 1, 2 ** (bits - 1)
    if full:
        return np.stack([luma * largest, *(part * largest + middle for part in chroma)], -1)
    return np.stack([16 * scale + luma * 219 * scale, *(part * 224 * scale + middle for part in chroma)], -1)


def to_rgb(yuv: np.ndarray, matrix: int, full: bool, bits: int) -> np.ndarray:
    """The inverse of `to_yuv`, in 0..255 and clipped."""
    red, blue = WEIGHTS[matrix]
    scale, largest, middle = 2 ** (bits - 8), 2**bits - 1, 2 ** (bits - 1)
    if full:
        luma, chroma = yuv[..., 0] / largest, (yuv[..., 1:] - middle) / largest
    else:
        luma, chroma = (yuv[..., 0] / scale - 16) / 219, (yuv[..., 1:] - middle) / scale / 224
    b, r = luma + chroma[..., 0] * (2 - 2 * blue), luma + chroma[..., 1] * (2 - 2 * red)
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return (255 * np.stack([r, g, b], -1)).clip(0, 255)


def frame_of(yuv: np.ndarray, bits: int) -> av.VideoFrame:
    """A frame with a column of 8 pixels for each colour, without subsampling."""
    planes = yuv.T[:, None].repeat(8, axis=1).repeat(8, axis=2)  # "3 h w"
    if bits == 8:
        return av.VideoFrame.from_ndarray(planes.astype(np.uint8), format="yuv444p")
    frame = av.VideoFrame(planes.shape[2], planes.shape[1], "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    return frame


@pytest.mark.parametrize("matrix", list(WEIGHTS))
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_reading_is_right_to_a_level(matrix: int, full: bool, bits: int) -> None:
    yuv = to_yuv(COLOURS / 255, matrix, full, bits).round().clip(0, 2**bits - 1)
    frame = frame_of(yuv, bits)
    frame.colorspace, frame.color_range = matrix, ColorRange.JPEG if full else ColorRange.MPEG
    image = RgbConverter(frame.width, frame.height, IDENTITY_MATRIX, 1)(frame).numpy()
    found = image[4, 4::8].astype(float)
    assert np.abs(found - to_rgb(yuv, matrix, full, bits).round()).max() <= 1


def test_writing_is_right_to_a_level() -> None:
    image = torch.from_numpy(COLOURS.astype(np.uint8)[None].repeat(8, 0).repeat(8, 1))
    frame = YuvConverter("yuv444p")(image)
    found = np.stack([plane[4, 4::8] for plane in frame.to_ndarray()], -1).astype(float)
    assert np.abs(found - to_yuv(COLOURS / 255, 1, False, 8).round()).max() <= 1


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("width", [64, 63])
def test_a_file_has_the_tags_and_the_colours(tmp_path: Path, suffix: str, width: int) -> None:
    """Primaries, transfer, matrix and range are stored, and what is read is what was written."""
    path, colours = tmp_path / f"a{suffix}", [(250, 30, 30), (20, 200, 40), (128, 128, 128), (30, 30, 220)]
    with VideoWriter(path, width, 32, Fraction(5)) as writer:
        for colour in colours:
            writer.write(torch.tensor(colour, dtype=torch.uint8).expand(32, width, 3))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        coder = container.streams.video[0].codec_context
        for part in (frame, coder):
            tags = (part.color_primaries, part.color_trc, part.colorspace, part.color_range)
            assert tuple(map(int, tags)) == TAGS
    with VideoReader(path) as reader:
        for colour, found in zip(colours, reader, strict=True):
            assert np.abs(found.image.numpy().astype(float) - colour).max() <= 3  # and the codec's loss
