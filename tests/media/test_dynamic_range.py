"""High dynamic range and wide gamuts against the equations of their standards in float64."""

import time
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from movies import make_movie

from regen.media.dynamic_range import BT2020, DISPLAY_P3, HLG, KNEE, PQ, compress
from regen.media.pixels import IDENTITY_MATRIX, RgbConverter
from regen.media.reader import VideoReader, read_frames

# Linear RGB of BT.709 in that of wider primaries (BT.2087 for BT.2020; of Display P3 as Apple documents it).
FROM_BT709 = {
    BT2020: ((0.6274, 0.3293, 0.0433), (0.0691, 0.9195, 0.0114), (0.0164, 0.0880, 0.8956)),
    DISPLAY_P3: ((0.8225, 0.1774, 0.0000), (0.0332, 0.9669, 0.0000), (0.0171, 0.0724, 0.9108)),
}


def pq(light: np.ndarray) -> np.ndarray:
    """Values of light in cd/m2 (SMPTE ST 2084)."""
    power = (light / 10_000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(light: np.ndarray) -> np.ndarray:
    """Values of grey light in cd/m2 on a display of 1000 cd/m2 (BT.2100)."""
    scene = (light / 1000) ** (1 / 1.2)
    a, b, c = 0.17883277, 1 - 4 * 0.17883277, 0.5 - 0.17883277 * np.log(4 * 0.17883277)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def shown(values: np.ndarray, transfer: int, primaries: int = BT2020) -> np.ndarray:
    """The 8-bit BT.709 of RGB values "n 3" in 0..1, through a frame of 16 bits."""
    pixels = np.repeat((values * 65535).round().astype(np.uint16)[None], 8, axis=0)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le")
    frame.color_trc, frame.color_primaries = transfer, primaries
    return RgbConverter(frame.width, frame.height, IDENTITY_MATRIX, 1)(frame).numpy()[0].astype(int)


@pytest.mark.parametrize(("transfer", "curve"), [(PQ, pq), (HLG, hlg)])
def test_highlights_stay_apart_and_the_rest_keeps_its_value(transfer: int, curve) -> None:
    light = np.array([0.1, 1, 10, 50, 100, 140, 203, 300, 400, 600, 1000])
    found = shown(np.repeat(curve(light)[:, None], 3, axis=1), transfer)
    assert (found == found[:, :1]).all()  # grey stays grey
    kept = light <= KNEE * 203
    assert np.abs(found[kept, 0] - 255 * (light[kept] / 203) ** (1 / 2.4)).max() <= 1
    assert (np.diff(found[:, 0]) > 0).all() and found[-1, 0] == 255
    assert found[6, 0] == pytest.approx(239, abs=1)  # diffuse white


@pytest.mark.parametrize(("transfer", "primaries"), [(PQ, BT2020), (1, BT2020), (1, DISPLAY_P3)])
def test_colours_keep_their_values_in_wider_primaries(transfer: int, primaries: int) -> None:
    colours = np.array([(200, 30, 30), (30, 180, 30), (40, 40, 200), (128, 128, 128), (10, 120, 200)])
    light = (colours / 255) ** 2.4 @ np.array(FROM_BT709[primaries]).T
    values = pq(light * 203) if transfer == PQ else light ** (1 / 2.4)
    assert np.abs(shown(values, transfer, primaries) - colours).max() <= 2


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True])
def test_grey_of_any_depth_and_range(bits: int, full: bool) -> None:
    largest, unit = (1 << bits) - 1, 1 << (bits - 8)
    levels = np.linspace(0, largest, 64).round() if full else np.linspace(16, 235, 64).round() * unit
    values = levels / largest if full else (levels / unit - 16) / 219
    frame = av.VideoFrame(64, 8, "yuv444p" if bits == 8 else f"yuv444p{bits}le")
    kind = np.uint8 if bits == 8 else np.uint16
    for number, plane in enumerate(frame.planes):
        rows = np.zeros((8, plane.line_size // np.dtype(kind).itemsize), kind)
        rows[:, :64] = levels if not number else 128 * unit
        plane.update(rows.tobytes())
    frame.color_trc, frame.color_primaries, frame.colorspace = 1, BT2020, 9
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    found = RgbConverter(64, 8, IDENTITY_MATRIX, 1)(frame).numpy()[0].astype(int)
    assert np.abs(found - (255 * values).round()[:, None]).max() <= 1


def test_a_dark_video_is_not_compressed() -> None:
    light = np.linspace(0, 1, 11)
    assert (compress(light, 1.0) == light).all()
    steps = np.diff(compress(np.linspace(0, 5, 1001), 5.0))
    assert (steps > 0).all() and (np.diff(steps) < 1e-9).all() and steps.max() <= 0.005 + 1e-9


def test_files_of_high_dynamic_range_are_read_at_once(tmp_path: Path) -> None:
    """FFmpeg's own conversion computes a table for seconds, for each reader."""
    white = np.full((64, 64, 3), 148, np.uint8)  # 58 % of PQ: 203 cd/m2
    path = make_movie(tmp_path / "a.mkv", [white] * 3, codec="ffv1", pixel_format="yuv444p", transfer=(16, 9))
    begin = time.process_time()
    with VideoReader(path) as reader:
        found = next(iter(reader)).image.numpy()
        assert len(reader.notes) == 1
    for _ in range(4):
        assert (read_frames(path, [0.04])[0] == found).all()
    assert time.process_time() - begin < 4
    assert np.abs(found.astype(int) - 239).max() <= 2


def test_transparent_parts_of_high_dynamic_range() -> None:
    pixels = np.full((8, 8, 4), 65535, np.uint16)
    pixels[:, :4, 3] = 0
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba64le")
    frame.color_trc, frame.color_primaries = HLG, BT2020
    found = RgbConverter(8, 8, IDENTITY_MATRIX, 1, (10, 20, 30))(frame).numpy()
    assert (found[:, :4] == (10, 20, 30)).all() and (found[:, 4:] == 255).all()
