"""Reading: order, times, turning, colours; frames by time; and what is not as it should be."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from movies import damage, distance, make_movie, make_sound, noisy, number_of, numbered, smooth, truncate
from PIL import Image

from regen.media.reader import Frame, VideoError, VideoReader


def read(path: Path, **options: int) -> list[Frame]:
    with VideoReader(path, **options) as reader:
        return list(reader)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi", "a.ts", "a.webm", "a.gif"])
def test_containers_start_at_time_zero_and_have_no_damage(tmp_path: Path, name: str) -> None:
    codec = {".webm": "libvpx", ".gif": "gif"}.get(Path(name).suffix, "libx264")
    pixel_format = "rgb8" if codec == "gif" else "yuv420p"
    path = make_movie(tmp_path / name, noisy(30), codec=codec, pixel_format=pixel_format)
    with VideoReader(path) as reader:
        frames = list(reader)
        assert reader.damage is None
        assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(30)], abs=2e-3)
        assert reader.frame_times() == pytest.approx([frame.time for frame in frames], abs=2e-3)
        assert reader.info.frame_rate == 25
        assert (reader.info.width, reader.info.height) == (64, 48)


def test_info(tmp_path: Path) -> None:
    path = make_movie(tmp_path / "a.mp4", numbered(10), audio="aac", rate=Fraction(30000, 1001))
    with VideoReader(path) as reader:
        info = reader.info
    assert (info.frames, info.has_audio, info.is_image) == (10, True, False)
    assert info.duration == pytest.approx(10 * 1001 / 30000, abs=1e-4)


@pytest.mark.parametrize(
    "rotation", [(0.0, False), (90.0, False), (180.0, False), (-90.0, False), (0.0, True)]
)
def test_display_matrix_turns_frames_upright(tmp_path: Path, rotation: tuple[float, bool]) -> None:
    image = numbered(1)[0]
    path = make_movie(tmp_path / "r.mp4", [image], rotation=rotation)
    expected = np.rot90(image, round(rotation[0] / 90))
    expected = expected[:, ::-1] if rotation[1] else expected
    with VideoReader(path) as reader:
        frame = next(iter(reader)).image
        assert (reader.info.height, reader.info.width) == frame.shape[:2] == expected.shape[:2]
    assert distance(frame, expected).mean() < 6


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "tolerance"),
    [
        ("deep.mp4", "libx264", "yuv420p10le", 3),
        ("deep.mkv", "ffv1", "yuv444p16le", 1),
        ("rgb.mov", "png", "rgb24", 0),
        ("full.mkv", "mjpeg", "yuvj444p", 4),
        ("wide.mkv", "ffv1", "yuv410p", 4),
    ],
)
def test_pixel_formats(tmp_path: Path, name: str, codec: str, pixel_format: str, tolerance: int) -> None:
    image = smooth()
    path = make_movie(tmp_path / name, [image] * 2, codec=codec, pixel_format=pixel_format)
    found = read(path)[1].image.numpy().astype(int)
    assert np.abs(found - image).mean() <= tolerance


@pytest.mark.parametrize(
    ("codec", "pixel_format", "span"), [("ffv1", "gray", 2), ("ffv1", "gray10le", 2), ("libx264", "gray", 2)]
)
def test_grey_becomes_three_equal_channels(tmp_path: Path, codec: str, pixel_format: str, span: int) -> None:
    grey = np.repeat(smooth()[..., :1], 3, -1)
    path = make_movie(tmp_path / "g.mkv", [grey], codec=codec, pixel_format=pixel_format, colours=(5, span))
    found = read(path)[0].image
    assert torch.equal(found[..., 0], found[..., 1])
    assert torch.equal(found[..., 0], found[..., 2])
    assert distance(found, grey).mean() < 3


def test_grey_of_limited_range_is_stretched(tmp_path: Path) -> None:
    path = make_movie(tmp_path / "g.mkv", numbered(1), codec="ffv1", pixel_format="gray", colours=(5, 1))
    found = read(path)[0].image
    expected = (20 - 16) * 255 / 219
    assert abs(float(found[-1, -1, 0]) - expected) <= 1


def test_transparent_video_lies_over_black(tmp_path: Path) -> None:
    image = np.full((48, 64, 4), 200, np.uint8)
    image[..., 3] = np.linspace(0, 255, 64).astype(np.uint8)
    found = read(make_movie(tmp_path / "a.mov", [image], codec="qtrle", pixel_format="argb"))[0].image.numpy()
    expected = 200 * image[..., 3:].astype(int) / 255
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("matrix", [1, 5])
@pytest.mark.parametrize("span", [1, 2])
def test_colour_tags_are_followed(tmp_path: Path, matrix: int, span: int) -> None:
    image = np.full((48, 64, 3), (200, 60, 30), np.uint8)
    path = make_movie(tmp_path / "c.mp4", [image], colours=(matrix, span), pixel_format="yuv444p")
    assert distance(read(path)[0].image, image).max() <= 4


@pytest.mark.parametrize(("height", "matrix"), [(48, 5), (720, 1)])
def test_without_a_tag_the_size_tells_the_matrix(tmp_path: Path, height: int, matrix: int) -> None:
    image = np.full((height, 64, 3), (200, 60, 30), np.uint8)
    path = tmp_path / "c.mkv"
    make_movie(path, [image], colours=(matrix, 1), pixel_format="yuv444p", codec="ffv1")
    tagged = path.read_bytes()  # the Matroska element 55 B1 81 is the matrix; 2 stands for unknown
    assert tagged.count(b"\x55\xb1\x81" + bytes([matrix])) == 1
    path.write_bytes(tagged.replace(b"\x55\xb1\x81" + bytes([matrix]), b"\x55\xb1\x81\x02"))
    assert distance(read(path)[0].image, image).max() <= 4


def test_what_an_edit_list_hides_is_neither_shown_nor_missed(tmp_path: Path) -> None:
    times = [index / 25 - 0.2 for index in range(20)]  # MP4 hides what comes before time 0
    path = make_movie(tmp_path / "a.mp4", numbered(20), times=times, options={"bf": "2"})
    with VideoReader(path) as reader:
        frames = list(reader)
        assert reader.damage is None
        assert [number_of(frame.image.numpy()) for frame in frames] == list(range(5, 20))
        assert reader.frame_times() == pytest.approx([index / 25 for index in range(15)], abs=1e-3)
        assert [number_of(image) for image in reader.read_at([0.0, 0.2]).numpy()] == [5, 10]


def test_a_change_of_size_midway_keeps_the_first_size(tmp_path: Path) -> None:
    small = make_movie(tmp_path / "a.ts", numbered(5))
    large = make_movie(tmp_path / "b.ts", numbered(5, 96, 128))
    joined = tmp_path / "c.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    frames = read(joined)
    assert len(frames) == 10
    assert {tuple(frame.image.shape) for frame in frames} == {(48, 64, 3)}


def test_short_side_shrinks_but_never_enlarges(tmp_path: Path) -> None:
    path = make_movie(tmp_path / "a.mp4", [smooth()] * 2)
    assert read(path, short_side=24)[0].image.shape == (24, 32, 3)
    assert read(path, short_side=100)[0].image.shape == (48, 64, 3)
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    shrunk = read(tmp_path / "a.png", short_side=24)[0].image
    assert shrunk.shape == (24, 32, 3)
    assert (shrunk.float() - read(path, short_side=24)[0].image.float()).abs().mean() < 4


def test_two_iterations_at_once(tmp_path: Path) -> None:
    path = make_movie(tmp_path / "a.mp4", numbered(5))
    with VideoReader(path) as reader:
        pairs = [[number_of(x.image.numpy()) for x in pair] for pair in zip(reader, reader, strict=True)]
    assert pairs == [[index, index] for index in range(5)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_read_at_equals_iteration_on_a_variable_rate(tmp_path: Path, name: str) -> None:
    steps = np.random.default_rng(3).integers(5, 200, 40) / 1000
    times = [0.0, *np.cumsum(steps).tolist()]
    path = make_movie(tmp_path / name, numbered(41), times=times, options={"bf": "3", "g": "12"})
    with VideoReader(path) as reader:
        shown = [frame.time for frame in reader]
        assert shown == pytest.approx(times, abs=1e-3)
        assert reader.frame_times() == pytest.approx(shown, abs=1e-6)
        times_read = np.random.default_rng(4).uniform(0, times[-1], 25).tolist() + shown
        found = [number_of(image) for image in reader.read_at(times_read).numpy()]
        expected = np.searchsorted(np.array(shown) - 1e-3, times_read, side="right") - 1
        assert found == expected.tolist()
        for time, number in list(zip(times_read, expected, strict=True))[:25:4]:
            assert number_of(reader.read_at([time])[0].numpy()) == number


def test_read_at_the_edges_and_far_apart(tmp_path: Path) -> None:
    path = make_movie(tmp_path / "a.mp4", numbered(40), rate=Fraction(2), options={"g": "5"})
    with VideoReader(path, threads=1) as reader:
        found = reader.read_at([100.0, -1.0, 0.0, 15.2, 0.0])
        assert [number_of(image) for image in found.numpy()] == [39, 0, 0, 30, 0]


def test_read_at_says_where_the_video_is_damaged(tmp_path: Path) -> None:
    path = make_movie(
        tmp_path / "a.mp4", noisy(40), options={"g": "10"}, container_options={"movflags": "faststart"}
    )
    truncate(path, 0.6)
    with VideoReader(path, threads=1) as reader:
        assert reader.read_at([0.0]).shape == (1, 48, 64, 3)
        with pytest.raises(VideoError, match=r"damaged at 1\.40 seconds"):
            reader.read_at([1.4])
        assert reader.read_at([0.2]).shape == (1, 48, 64, 3)


def file_of(folder: Path, content: bytes) -> Path:
    (folder / "x.mp4").write_bytes(content)
    return folder / "x.mp4"


def zero_frames(folder: Path) -> Path:
    path = make_movie(folder / "y.mp4", noisy(1), container_options={"movflags": "faststart"})
    content = path.read_bytes()
    return file_of(folder, content[: content.index(b"mdat") + 4])


def all_damaged(folder: Path) -> Path:
    path = make_movie(folder / "x.mp4", noisy(5), container_options={"movflags": "faststart"})
    start = path.read_bytes().index(b"mdat") / path.stat().st_size
    return damage(path, start + 0.01, 1.0)


def broken_image(folder: Path) -> Path:
    Image.fromarray(smooth()).save(folder / "x.png")
    return truncate(folder / "x.png", 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "x.mp4", "There is no file"),
        (lambda folder: file_of(folder, b""), "empty"),
        (lambda folder: file_of(folder, b"This is not a film.\n" * 50), "can't be read as a video"),
        (lambda folder: truncate(make_movie(folder / "x.mp4", noisy(10)), 0.7), "read as a video"),
        (lambda folder: make_sound(folder / "x.m4a"), "only sound"),
        (zero_frames, "Not a single frame"),
        (all_damaged, "Not a single frame"),
        (lambda folder: folder, "is a folder"),
        (broken_image, "can't be read"),
        (lambda folder: file_of(folder, b"text").rename(folder / "x.png"), "can't be read as an image"),
    ],
)
def test_unreadable_files_give_one_sentence(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    path = make(tmp_path)
    with pytest.raises(VideoError, match=words) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    "harm",
    [lambda path: damage(path, 0.5, 0.55), lambda path: truncate(path, 0.6)],
    ids=["overwritten", "cut off"],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_damage_leaves_the_rest(tmp_path: Path, name: str, harm: Callable[[Path], Path]) -> None:
    fast = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = harm(make_movie(tmp_path / name, noisy(40), options={"g": "10"}, container_options=fast))
    with VideoReader(path) as reader:
        frames = list(reader)
        assert 10 <= len(frames) < 40
        if name == "a.mp4":  # which declares how many there were
            assert f"{40 - len(frames)} of 40 frames" in reader.damage
        assert name == "a.ts" or "frames" in reader.damage
