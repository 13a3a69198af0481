"""Folders of images as videos, and raw video."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from movies import distance, make_movie, number_of, numbered, smooth
from PIL import Image

from regen.media.decoding import Decoder
from regen.media.files import Blob, VideoError
from regen.media.raw_video import describe_raw_video
from regen.media.reader import VideoReader, read_frames


def make_frames(folder: Path, images: list[np.ndarray], name: str = "frame_{}.png") -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / name.format(index))
    return folder


def test_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Without leading zeros too: 10 follows 9."""
    images = numbered(12)
    folder = make_frames(tmp_path / "a", images)
    (folder / "frame_3.txt").write_text("a note")
    (folder / ".frame_99.png").write_bytes(b"hidden")
    with VideoReader(folder) as reader:
        info = reader.info
        assert (info.frames, info.frame_rate, info.is_image, info.has_audio) == (12, 24, False, False)
        assert (info.width, info.height, info.duration) == (64, 48, 0.5)
        frames = list(reader)
        assert reader.damage is None
        assert np.array_equal(torch.stack([frame.image for frame in frames]).numpy(), np.stack(images))
        assert [frame.time for frame in frames] == pytest.approx(np.arange(12) / 24)
        assert reader.frame_times() == pytest.approx(np.arange(12) / 24)
        times = [0.3, 0.0, -1.0, 9.0, 5 / 24, 5 / 24 - 1e-4]
        assert [number_of(image) for image in reader.read_at(times)] == [7, 0, 0, 11, 5, 5]
    found = read_frames(folder, [1 / 24, 2 / 24], rows=slice(8, 20), columns=slice(0, 5))
    assert np.array_equal(found, np.stack(images[1:3])[:, 8:20, :5])
    with VideoReader(folder, short_side=24) as reader:
        assert (reader.info.width, next(iter(reader)).image.shape) == (64, (24, 32, 3))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "is a folder without images"),
        (
            lambda folder: (folder / "frame_1.png").write_bytes(b"text"),
            "frame_1.png can't be read as an image",
        ),
        (
            lambda folder: Image.fromarray(smooth(20, 30)).save(folder / "frame_1.png"),
            "frame_1.png must be 64x48 as the first frame, got 30x20",
        ),
    ],
)
def test_damaged_folders_are_errors(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    folder = make_frames(tmp_path / "a", numbered(3))
    spoil(folder)
    with pytest.raises(VideoError, match=words), VideoReader(folder) as reader:
        list(reader)


def raw_frames(folder: Path, name: str, count: int = 4) -> tuple[Path, list[np.ndarray]]:
    """A YUV 4:2:0 file with the frames of a lossless movie, and these in RGB."""
    movie = make_movie(folder / "a.mkv", numbered(count), codec="ffv1")
    with Decoder(movie, 1) as decoder:
        planes = [frame.to_ndarray().tobytes() for frame in decoder.decode()]
    with VideoReader(movie) as reader:
        images = [frame.image.numpy() for frame in reader]
    path = folder / name
    path.write_bytes(b"".join(planes))
    return path, images


def test_raw_video_is_described_by_its_name(tmp_path: Path) -> None:
    path, images = raw_frames(tmp_path, "videoSRC01_64x48_30.yuv")
    with VideoReader(path) as reader:
        assert (reader.info.width, reader.info.height, reader.info.frame_rate) == (64, 48, 30)
        frames = list(reader)
        assert reader.damage is None and len(frames) == 4
        for frame, image in zip(frames, images, strict=True):
            assert distance(frame.image, image).max() == 0
        assert reader.frame_times() == pytest.approx(np.arange(4) / 30)
        assert [number_of(image) for image in reader.read_at([0.1, 0.0])] == [3, 0]
    assert [number_of(image) for image in read_frames(path, [1 / 30, 2 / 30])] == [1, 2]
    with VideoReader(Blob(path.name, path.read_bytes())) as reader:
        assert len(list(reader)) == 4


def test_raw_video_is_described_by_a_sidecar(tmp_path: Path) -> None:
    path, images = raw_frames(tmp_path, "plain.yuv")
    content = {"width": 64, "height": 48, "frame_rate": "30000/1001", "caption": "numbers"}
    path.with_suffix(".json").write_text(json.dumps(content))
    with VideoReader(path) as reader:
        assert reader.info.frame_rate == Fraction(30000, 1001)
        assert np.array_equal(torch.stack([frame.image for frame in reader]).numpy(), np.stack(images))


@pytest.mark.parametrize(
    ("name", "size", "rate", "pixel_format", "frame_bytes"),
    [
        ("videoSRC01_1920x1080_30.yuv", (1920, 1080), "30", "yuv420p", 3110400),
        ("videoSRC17_1920x1080_24-1f2e.yuv", (1920, 1080), "24", "yuv420p", 3110400),
        ("Beauty_1920x1080_120fps_420_8bit_YUV.yuv", (1920, 1080), "120", "yuv420p", 3110400),
        ("10bit_and_8bit/Beauty_64x32_120fps_420_8bit_YUV.yuv", (64, 32), "120", "yuv420p", 3072),
        ("Twilight_3840x2160_50fps_420_10bit_YUV.yuv", (3840, 2160), "50", "yuv420p10le", 24883200),
        ("odd_35x17_29.97.yuv", (35, 17), "29.97", "yuv420p", 35 * 17 + 2 * 18 * 9),
    ],
)
def test_names_of_published_sets(
    name: str, size: tuple[int, int], rate: str, pixel_format: str, frame_bytes: int
) -> None:
    raw = describe_raw_video(Blob(name, b""))
    assert (raw.width, raw.height, raw.frame_rate) == (*size, Fraction(rate))
    assert (raw.pixel_format, raw.frame_bytes) == (pixel_format, frame_bytes)


def test_raw_video_without_a_description_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "videoSRC01.yuv"
    path.write_bytes(bytes(48 * 64 * 3 // 2))
    for content, words in (
        (None, "raw video without a size and rate; name it NAME_1920x1080_30.yuv"),
        ('{"width": 64}', "without a size and rate"),
        ('{"width": 64, "height": 48, "frame_rate": "0"}', "without a size and rate"),
        ('{"width": 64, "height": 48, "frame_rate": "1/0"}', "without a size and rate"),
        ('{"width": 64, "height": 48, "frame_rate": 30, "pixel_format": "yuv9"}', "without a size and rate"),
        ("[64, 48]", "without a size and rate"),
        ("{", "without a size and rate"),
        (
            '{"width": 64, "height": 40, "frame_rate": 30}',
            "whole frames of 3840 bytes .64x40, yuv420p., got 4608",
        ),
    ):
        if content is not None:
            path.with_suffix(".json").write_text(content)
        with pytest.raises(VideoError, match=words) as caught, VideoReader(path):
            pass
        assert "\n" not in str(caught.value)
