"""Writing: what comes back after reading, and that a file is complete or not there."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from movies import distance, make_movie, noisy, number_of, numbered, smooth

from regen.media.reader import Frame, VideoError, VideoReader, VideoWriter


def read(path: Path, **options: int) -> list[Frame]:
    with VideoReader(path, **options) as reader:
        return list(reader)


def numbers(path: Path) -> list[int]:
    return [number_of(frame.image.numpy()) for frame in read(path)]


def write(
    path: Path,
    images: list[np.ndarray],
    rate: Fraction = Fraction(25),
    times: list[float] | None = None,
    error: type[BaseException] | None = None,
) -> Path:
    """Write these images; with an error, which is raised inside the block."""
    height, width = images[0].shape[:2] if images else (48, 64)
    with VideoWriter(path, width, height, rate) as writer:
        for index, image in enumerate(images):
            writer.write(torch.from_numpy(image), times and times[index])
        if error is not None:
            raise error
    return path


@pytest.mark.parametrize(
    "rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25), Fraction(15, 2)]
)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".m4v"])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_rate_and_count_round_trip(tmp_path: Path, rate: Fraction, suffix: str, count: int) -> None:
    path = write(tmp_path / f"a{suffix}", numbered(count), rate)
    frames = read(path)
    assert [number_of(frame.image.numpy()) for frame in frames] == list(range(count))
    assert [frame.time for frame in frames] == pytest.approx(
        [float(i / rate) for i in range(count)], abs=1e-3
    )
    with VideoReader(path) as reader:
        assert reader.info.frame_rate == rate or (count == 1 and suffix == ".mkv")  # it declares no rate


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 4))
def test_any_size_and_length_round_trip(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, count: int
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "a.mp4", [smooth(height, width)] * count)
    frames = read(path)
    assert len(frames) == count
    assert frames[0].image.shape == (height, width, 3)
    if min(height, width) > 8:
        assert distance(frames[-1].image, smooth(height, width)).mean() < 4


def test_colours_round_trip(tmp_path: Path) -> None:
    colours = [(200, 60, 30), (30, 200, 60), (60, 30, 200), (0, 0, 0), (255, 255, 255), (128, 128, 128)]
    images = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    for frame, image in zip(read(write(tmp_path / "a.mp4", images)), images, strict=True):
        assert distance(frame.image, image).max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_times_and_average_rate_survive(tmp_path: Path, suffix: str) -> None:
    times = [0.0, 0.033, 0.1, 0.15, 0.4, 0.41, 0.5]
    source = make_movie(tmp_path / f"source{suffix}", numbered(7), times=times)
    with VideoReader(source) as reader:
        info, path = reader.info, tmp_path / f"copy{suffix}"
        with VideoWriter(path, info.width, info.height, info.frame_rate) as writer:
            for frame in reader:
                writer.write(frame.image, frame.time)
    assert [frame.time for frame in read(path)] == pytest.approx(times, abs=1e-3)
    with VideoReader(path) as reader:
        assert float(reader.info.frame_rate) == pytest.approx(float(info.frame_rate), rel=1e-3)


@pytest.mark.parametrize("times", [[0.4, 5.4, 5.44, 5.48, 5.52], [0.0, 0.0, 0.04, 0.08, 0.12]])
def test_times_may_start_late_and_pause_and_are_mended_where_they_do_not_rise(
    tmp_path: Path, times: list[float]
) -> None:
    write(tmp_path / "a.mp4", numbered(5), times=times)
    assert numbers(tmp_path / "a.mp4") == [0, 1, 2, 3, 4]
    found = [frame.time for frame in read(tmp_path / "a.mp4")]
    assert found == pytest.approx([time - times[0] for time in times], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.xyz", "must end in one of"),
        ("a", "must end in one of"),
        ("missing/a.mp4", "can't be written"),
        ("file/a.png", "can't be written"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(VideoError, match=words) as caught:
        write(tmp_path / name, numbered(1))
    assert str(tmp_path / name) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("width", "height", "rate", "delay", "words"),
    [
        (0, 8, 25, 0, "65536 pixels"),
        (8, -1, 25, 0, "65536 pixels"),
        (8, 8, 0, 0, "65536 pixels"),
        (8, 8, 25, -1, "audio delay .* -1 s"),
    ],
)
def test_sizes_rates_and_delays_out_of_range(
    tmp_path: Path, width: int, height: int, rate: int, delay: int, words: str
) -> None:
    with pytest.raises(VideoError, match=words):
        VideoWriter(tmp_path / "a.mp4", width, height, Fraction(rate), None, Fraction(delay))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("count", [0, 1])
def test_an_error_inside_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, name: str, error: type[BaseException], count: int
) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(error):
        write(tmp_path / name, numbered(count), error=error)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize(("name", "count", "words"), [("a.mp4", 0, "no frame"), ("a.png", 2, "one frame")])
def test_a_wrong_number_of_frames_is_an_error(tmp_path: Path, name: str, count: int, words: str) -> None:
    with pytest.raises(VideoError, match=words):
        write(tmp_path / name, numbered(count))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, name: str, part: float) -> None:
    resource = pytest.importorskip("resource")
    images = noisy(1 if name.endswith("png") else 12, 96, 128)
    size = write(tmp_path / name, images).stat().st_size
    (tmp_path / name).unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(part * size), hard))
    try:
        with pytest.raises(VideoError, match="can't be written"):
            write(tmp_path / name, images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a:b.mp4", "a %03d?.mp4", "Ünï 'x'.mp4", "a %03d.png"])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    assert numbers(write(tmp_path / name, numbered(1))) == [0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".PNG"])
def test_image_round_trip(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [smooth(47, 63)])
    assert distance(read(path)[0].image, smooth(47, 63)).mean() < 3
