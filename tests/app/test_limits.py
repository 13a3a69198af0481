"""Limits of the app: what is taken, and the one sentence about what is not."""

from pathlib import Path

import pytest
from tiny_app import FRAMES, LIMITS, make_bad_files, make_clip
from tiny_media import make_image, make_video

from regen.app.limits import Limits
from regen.media.pixels import Size


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory) -> dict[str, Path]:
    return make_bad_files(tmp_path_factory.mktemp("bad"))


def test_a_clip_has_its_frames_and_an_even_size(clip, tmp_path):
    assert LIMITS.check_clip(clip, None) == (Size(24, 40), FRAMES)
    assert LIMITS.check_clip(clip, 12) == (Size(12, 20), FRAMES)
    assert LIMITS.check_clip(make_video(tmp_path / "odd.mp4", 3, 25, 41), None) == (Size(24, 40), 3)
    assert LIMITS.check_clip(make_image(tmp_path / "a.png", 21, 28), None) == (Size(20, 28), 1)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong", ("notes.mp4", "read as a video")),
        ("heavy", ("heavy.mp4", "0.3 MB", "200kB", "--max-upload")),
        ("long", ("long.mp4", "25 frames", "0.8 seconds", "at most 24", "--max-frames 25")),
        ("large", ("large.mp4", "80x48", "at most 64", "smaller size", "--max-side 80")),
    ],
)
def test_other_clips_are_refused_with_what_to_do(bad_files, fault, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        LIMITS.check_clip(bad_files[fault], None)
    for word in words:
        assert word in str(error.value)


def test_a_large_clip_can_be_shrunk(bad_files):
    assert LIMITS.check_clip(bad_files["large"], 24) == (Size(24, 40), 2)


@pytest.mark.parametrize("values", [{"max_frames": 0}, {"max_side": 8}, {"max_upload": "much"}])
def test_impossible_limits(values):
    with pytest.raises(ValueError, match=str(next(iter(values.values())))):
        Limits(**values)
