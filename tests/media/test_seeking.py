"""Clips are read with little decoding, and are to the last bit what reading the whole video gives."""

from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from movies import damage, make_movie, noisy, number_of, numbered, smooth
from PIL import Image

from regen.media.files import Blob, VideoError
from regen.media.reader import Seeker, VideoReader, read_frames

UNEVEN = [index / 25 for index in range(15)] + [0.6 + index / 5 for index in range(1, 16)]
X264 = "keyint=15:min-keyint=15:bframes=4:b-pyramid=normal"
MOVIES = {
    "b_frames.mp4": {"options": {"x264-params": X264}},
    "open_groups.mp4": {"options": {"x264-params": f"{X264}:open-gop=1"}},
    "one_group.mp4": {"options": {"g": "250", "bf": "3"}},
    "only_key.mp4": {"options": {"g": "1"}},
    "uneven.mp4": {"times": UNEVEN, "options": {"g": "10"}},
    "turned.mp4": {"rotation": (90, False), "options": {"g": "10"}},
    "matroska.mkv": {"options": {"g": "10"}, "rate": Fraction(30000, 1001)},
    "uneven.mkv": {"times": UNEVEN},
    "stream.ts": {"options": {"g": "10"}},
    "mpeg_2.mkv": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "mpeg_4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8"}},
    "ten_bits.mp4": {"pixel_format": "yuv420p10le", "options": {"g": "10"}},
}


@pytest.mark.parametrize("name", MOVIES)
def test_excerpts_are_parts_of_the_video(name: str, tmp_path: Path) -> None:
    path = make_movie(tmp_path / name, noisy(30, 46, 62), **MOVIES[name])
    with VideoReader(path) as reader:
        times = reader.frame_times().tolist()
        whole = reader.read_at(times).numpy()
    assert len(whole) == len(times) == 30
    for start in range(0, len(times), 4):
        for step in (1, 3):
            places = list(range(start, min(start + 4 * step, len(times)), step))
            found = read_frames(path, [times[place] for place in places])
            assert np.array_equal(found, whole[places])
    twice = [times[3], times[3], times[4]]
    assert np.array_equal(read_frames(path, twice), whole[[3, 3, 4]])


def test_a_part_of_the_picture_and_a_smaller_one(tmp_path: Path) -> None:
    path = make_movie(tmp_path / "a.mp4", noisy(20), rotation=(90, False))
    with VideoReader(path, short_side=30) as reader:
        whole = reader.read_at([0.2, 0.24]).numpy()
    part = read_frames(path, [0.2, 0.24], 30, slice(5, 25), slice(3, 17))
    assert np.array_equal(part, whole[:, 5:25, 3:17])


def test_images_and_files_in_memory(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png")
    found = read_frames(tmp_path / "a.png", [0.0, 0.0], None, slice(0, 9), slice(2, 30))
    assert np.array_equal(found, np.stack([smooth()[:9, 2:30]] * 2))
    path = make_movie(tmp_path / "a.mp4", noisy(20))
    blob = Blob("a.mp4", path.read_bytes())
    assert np.array_equal(read_frames(blob, [0.2, 0.24]), read_frames(path, [0.2, 0.24]))


def test_times_between_frames_and_beyond_the_end(tmp_path: Path) -> None:
    """They are no times of frames; the frames shown then are found all the same."""
    path = make_movie(tmp_path / "a.mp4", noisy(20), options={"g": "7"})
    times = [-1.0, 0.01, 0.119, 0.121, 0.5, 5.0]
    with VideoReader(path) as reader:
        assert np.array_equal(read_frames(path, times), reader.read_at(times).numpy())


def test_little_is_decoded(tmp_path: Path) -> None:
    """Of 30 frames before the excerpt those that others need; none behind it but what the codec holds."""
    path = make_movie(tmp_path / "a.mp4", noisy(60), options={"g": "250", "bf": "3"})
    with closing(Seeker(path, 1)) as seeker:
        seeker.locate_first()
        assert seeker.decoder.frames == 0
        found = seeker.frames_starting_at([index / 25 for index in range(30, 34)])
        assert len(found) == 4
        assert seeker.decoder.frames < 26
        assert seeker.decoder.packets < 45


@pytest.mark.parametrize("part", [(0.25, 0.3), (0.5, 0.55), (0.2, 0.9)], ids=str)
def test_damage_hides_what_it_hides_from_a_reader_of_the_whole(
    tmp_path: Path, part: tuple[float, float]
) -> None:
    path = make_movie(
        tmp_path / "a.mp4", noisy(40), options={"g": "10"}, container_options={"movflags": "faststart"}
    )
    with VideoReader(path) as reader:
        times = reader.frame_times().tolist()
    damage(path, *part)
    hidden = []
    for start in range(0, 36, 2):
        some = times[start : start + 3]
        try:
            with VideoReader(path, 1) as reader:
                expected = reader.read_at(some).numpy()
        except VideoError:
            hidden.append(start)
            with pytest.raises(VideoError, match="a.mp4 is damaged"):
                read_frames(path, some)
        else:
            assert np.array_equal(read_frames(path, some), expected)
    assert 0 < len(hidden) <= 18


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_frames_in_any_order(tmp_path: Path, name: str) -> None:
    images = numbered(10)
    if name == "a.gif":
        stills = [Image.fromarray(image) for image in images]
        stills[0].save(tmp_path / name, save_all=True, append_images=stills[1:], duration=100)
    else:
        make_movie(tmp_path / name, images, rate=Fraction(10))
    found = read_frames(tmp_path / name, [0.7, 0.2, 0.2, 0.9, 0.0])
    assert [number_of(image) for image in found] == [7, 2, 2, 9, 0]
