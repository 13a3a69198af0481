"""The list of clips: its content, and detection of changes."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from tiny_benchmark import make_clips
from tiny_media import make_image, make_video

from regen.evaluate.benchmark.clip_list import ClipList, check_unchanged, read_clips


@pytest.fixture
def data(tmp_path) -> Path:
    return make_clips(tmp_path / "clips")


def test_clips_are_listed(data):
    found = read_clips(data, max_frames=None)
    assert [(clip.name, clip.frames, clip.height, clip.width) for clip in found.clips] == [
        ("a.mp4", 7, 32, 40),
        ("b.mkv", 6, 24, 48),
        ("more/a.mp4", 3, 32, 40),
    ]
    assert [clip.label for clip in found.clips] == ["a", "b", "more--a"]
    assert found.clips[0].sha256 == hashlib.sha256((data / "a.mp4").read_bytes()).hexdigest()
    assert float(found.clips[0].rate) == pytest.approx(30000 / 1001)
    assert found.skipped == {}
    assert ClipList.from_json(asdict(found)) == found


def test_first_frames_and_images(data):
    make_image(data / "still.png")
    seen: list[tuple[int, int]] = []
    found = read_clips(data, max_frames=5, on_progress=lambda done, total: seen.append((done, total)))
    assert [clip.frames for clip in found.clips] == [5, 5, 3, 1]
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_equal_files_have_equal_seeds_wherever_they_are(data):
    shutil.copy(data / "a.mp4", data / "copy.mp4")
    seeds = {clip.name: clip.seed for clip in read_clips(data, None).clips}
    assert seeds["a.mp4"] == seeds["copy.mp4"] != seeds["b.mkv"]


def test_damaged_files_are_skipped_with_a_warning(data):
    (data / "bad.mp4").write_bytes(b"no video")
    whole = (data / "a.mp4").read_bytes()
    (data / "torn.mp4").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    warnings: list[str] = []
    found = read_clips(data, None, warnings.append)
    assert [clip.name for clip in found.clips] == ["a.mp4", "b.mkv", "more/a.mp4"]
    assert [*found.skipped] == ["bad.mp4", "torn.mp4"]
    assert len(warnings) == 2 and "bad.mp4" in warnings[0] and "torn.mp4" in warnings[1]
    check_unchanged(found, data, Path("out"))


@pytest.mark.parametrize("change", ["was changed", "was removed", "was added"])
def test_a_change_is_named(data, change):
    frozen = read_clips(data, None)
    check_unchanged(frozen, data, Path("out"))
    name = "b.mkv"
    match change:
        case "was changed":
            make_video(data / name, 4)
        case "was removed":
            (data / name).unlink()
        case "was added":
            make_video(data / (name := "c.mp4"), 2)
    with pytest.raises(ValueError, match=f"{name} {change}"):
        check_unchanged(frozen, data, Path("out"))


def test_folders_without_readable_clips(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "bad.mp4").write_bytes(b"no video")
    make_video(tmp_path / "a.mp4", 1)
    for name, words in (
        ("missing", "missing is not a folder"),
        ("a.mp4", "a.mp4 is not a folder"),
        ("empty", "no video below .*empty"),
        ("damaged", "None of the 1 files"),
    ):
        with pytest.raises(ValueError, match=words):
            read_clips(tmp_path / name, None)


def test_clips_that_differ_in_their_suffix_only(data):
    make_video(data / "b.mp4", 2)
    with pytest.raises(ValueError, match="b.mkv and b.mp4"):
        read_clips(data, None)
