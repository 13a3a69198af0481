"""Training clips: what a draw may contain, and that it follows from the seed and the index alone."""

from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from movies import damage, make_movie, noisy, number_of, numbered, smooth, truncate
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from regen.data.clips import ClipDataset, ClipDraw, ClipSpec, crop_window

SIZE = (16, 24)
SCALE = (0.4, 1.0)
ALL = (1.0, 1.0)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two videos, of 12 and 30 frames, and an image."""
    folder = tmp_path / "media"
    folder.mkdir()
    make_movie(folder / "short.mp4", numbered(12))
    make_movie(folder / "long.mkv", numbered(30), rate=Fraction(30000, 1001), options={"g": "10"})
    Image.fromarray(smooth(30, 40)).save(folder / "image.png")
    return folder


def numbers(clip: torch.Tensor) -> list[int]:
    """Which frames of `numbered` these are; the whole picture must be in the clip."""
    images = ((clip + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    flipped = images[0, 0, -1, 0] > 200 and images[0, 0, -1, 1] < 60
    return [number_of(image[:, ::-1] if flipped else image) for image in images]


@pytest.fixture(params=["files", "cache"])
def cache(request, tmp_path) -> Path | None:
    """Both ways to read: from the files, or from a folder of decoded frames."""
    return tmp_path / "cache" if request.param == "cache" else None


def test_clips_have_shape_range_and_consecutive_frames(folder, cache):
    clips = ClipDataset([folder], cache=cache)
    starts = set()
    for index in range(20):
        clip = clips.read(index, 9, (48, 64), ALL, seed=0)
        assert clip.shape == (3, 9, 48, 64)
        assert clip.min() >= -1 and clip.max() <= 1
        found = numbers(clip)
        assert found == list(range(found[0], found[0] + 9))
        starts.add(found[0])
    assert len(starts) > 8


def test_the_whole_of_the_shortest_video_serves(folder):
    clips = ClipDataset([folder / "short.mp4"])
    assert numbers(clips.read(0, 12, (48, 64), ALL, seed=0)) == list(range(12))
    with pytest.raises(ValueError, match="need 13 frames, but the longest of 1 videos has 12"):
        clips.read(0, 13, (48, 64), ALL, seed=0)


def test_frame_rate_picks_by_time(folder):
    clips = ClipDataset([folder / "long.mkv"])
    half = numbers(clips.read(0, 6, (48, 64), ALL, seed=0, frame_rate=15000 / 1001))
    assert half == list(range(half[0], half[0] + 12, 2))
    double = numbers(clips.read(0, 6, (48, 64), ALL, seed=0, frame_rate=60000 / 1001))
    assert set(double) in ({double[0] + i for i in range(n)} for n in (3, 4))
    with pytest.raises(ValueError, match="need 6 frames"):
        clips.read(0, 6, (48, 64), ALL, seed=0, frame_rate=2.0)


def test_variable_frame_rate_is_drawn_by_time(tmp_path):
    times = [index / 25 for index in range(10)] + [0.36 + index / 5 for index in range(1, 11)]
    path = make_movie(tmp_path / "v.mp4", numbered(20), times=times)
    clips = ClipDataset([path])
    for index in range(10):
        found = numbers(clips.read(index, 8, (48, 64), ALL, seed=0, frame_rate=10.0))
        gaps = np.diff(np.array(times)[found])
        assert (gaps < 0.25).all()
        assert 0.5 < times[found[-1]] - times[found[0]] < 0.9


def test_samples_follow_from_seed_and_index(folder, tmp_path):
    one = ClipDataset([folder], short_side=40)
    other = ClipDataset([folder], cache=tmp_path / "cache", short_side=40)
    backwards = {index: other.read(index, 5, SIZE, SCALE, seed=3) for index in reversed(range(8))}
    clips = [one.read(index, 5, SIZE, SCALE, seed=3) for index in range(8)]
    assert all(torch.equal(clip, backwards[index]) for index, clip in enumerate(clips))
    assert len({clip.sum().item() for clip in clips}) == 8
    assert not torch.equal(clips[0], one.read(0, 5, SIZE, SCALE, seed=4))


def test_small_media_are_enlarged_and_crops_differ(folder):
    clips = ClipDataset([folder / "image.png"])
    assert clips.read(0, 1, (64, 72), ALL, seed=0).shape == (3, 1, 64, 72)
    crops = [clips.read(index, 1, (8, 8), (0.5, 1.0), seed=0) for index in range(10)]
    assert len({crop.mean().item() for crop in crops}) == 10
    rising = [bool(crop[0, 0, 4, -1] > crop[0, 0, 4, 0]) for crop in crops]
    assert 0 < sum(rising) < 10, "some are mirrored and some are not"
    with pytest.raises(ValueError, match="scale"):
        clips.read(0, 1, (8, 8), (1.0, 0.5), seed=0)


def test_short_side_is_what_scale_refers_to(folder):
    whole = ClipDataset([folder / "image.png"], short_side=15).read(0, 1, (15, 20), ALL, seed=0)
    assert whole[0].max() - whole[0].min() > 1.8, "the whole gradient is in the clip"


@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.999))
def test_without_a_scale_the_crop_is_the_largest_of_its_aspect_ratio(height, width, y, x, position):
    spec, draw = ClipSpec(1, (8 * y, 8 * x), scale=None), ClipDraw(0, 0.0, 0.0, 0.7, position, position)
    rows, columns = crop_window(height, width, spec, draw)
    kept = rows.stop - rows.start, columns.stop - columns.start
    assert kept[0] == height or kept[1] == width
    assert rows.start >= 0 and rows.stop <= height and columns.start >= 0 and columns.stop <= width
    factor = max(8 * y / height, 8 * x / width)
    assert abs(kept[0] - 8 * y / factor) <= 1 and abs(kept[1] - 8 * x / factor) <= 1


def test_a_full_hd_source_is_seen_whole_at_the_paper_size():
    rows, columns = crop_window(1080, 1920, ClipSpec(5, (192, 320), scale=None), ClipDraw(0, *[0.5] * 5))
    assert rows == slice(0, 1080) and columns.stop - columns.start == 1800


def test_images_and_single_frames_of_videos_serve_one_frame(folder):
    clips = ClipDataset([folder])
    assert clips.columns.frames.tolist() == [1, 30, 12]
    assert clips.columns.is_image.tolist() == [True, False, False]
    read = [clips.read(index, 1, (30, 40), ALL, seed=0) for index in range(20)]
    assert {clip.shape for clip in read} == {(3, 1, 30, 40)}
    blue = [round(float((clip[2, 0].median() + 1) * 127.5)) for clip in read]
    assert 2 < blue.count(90) < 18, "some are of the image"


def test_unreadable_files_are_named_and_skipped(folder):
    (folder / "text.mp4").write_text("no film")
    (folder / "empty.png").touch()
    clips = ClipDataset([folder])
    assert len(clips) == 3
    assert clips.skipped.keys() == {f"{folder}/text.mp4", f"{folder}/empty.png"}
    assert "empty" in clips.skipped[f"{folder}/empty.png"]


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="There is no video or image in"):
        ClipDataset([tmp_path])
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(ValueError, match="None of the 1 videos and images in .*text.mp4"):
        ClipDataset([tmp_path])


def test_damage_that_shows_late_draws_another(tmp_path, cache):
    folder = tmp_path / "media"
    folder.mkdir()
    fast = {"movflags": "faststart"}
    bad = make_movie(folder / "bad.mp4", noisy(40), options={"g": "10"}, container_options=fast)
    damage(bad, 0.4, 0.9)
    make_movie(folder / "good.mp4", numbered(40))
    clips = ClipDataset([folder], cache=cache)
    first = [clips.read(index, 5, SIZE, SCALE, seed=0) for index in range(12)]
    assert list(clips.failures.reasons) == [str(bad)]
    assert clips.failures.counts.keys() == {"damaged"}
    again = ClipDataset([folder], cache=cache)
    for index in reversed(range(12)):
        assert torch.equal(again.read(index, 5, SIZE, SCALE, seed=0), first[index])


def test_all_damaged_is_an_error(folder):
    clips = ClipDataset([folder / "short.mp4"])
    truncate(folder / "short.mp4", 0.3)
    with pytest.raises(ValueError, match="could be decoded"):
        clips.read(0, 5, SIZE, SCALE, seed=0)


def test_cache_is_filled_once_and_follows_changes(folder, tmp_path):
    cache = tmp_path / "cache"
    clips = ClipDataset([folder], cache=cache, short_side=20)
    clips.fill_cache()
    files = sorted(cache.iterdir())
    assert len(files) == 6
    dates = [file.stat().st_mtime_ns for file in files]
    clips.fill_cache()
    assert [file.stat().st_mtime_ns for file in sorted(cache.iterdir())] == dates
    frames = np.load(max(files, key=lambda file: file.stat().st_size), mmap_mode="r")
    assert frames.shape == (30, 20, 27, 3)
    assert frames.dtype == np.uint8
    make_movie(folder / "short.mp4", numbered(13))
    assert len(ClipDataset([folder / "short.mp4"], cache=cache)) == 1
    ClipDataset([folder / "short.mp4"], cache=cache, short_side=20).fill_cache()
    assert len(list(cache.iterdir())) == 8


def test_a_cache_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cache .* can't be written"):
        ClipDataset([folder], cache=tmp_path / "file" / "cache")
    clips = ClipDataset([folder], cache=tmp_path / "cache")
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ValueError, match="free some space"):
            clips.read(0, 5, SIZE, SCALE, seed=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache").iterdir()) == []
    assert clips.failures.reasons == {}


def test_split(folder):
    clips = ClipDataset([folder])
    train, held_out = clips.split(1)
    assert (len(clips), len(train), len(held_out)) == (3, 2, 1)
    assert not held_out.columns.is_image[0]
    assert held_out.read(0, 5, SIZE, SCALE, seed=0).shape == (3, 5, *SIZE)
    assert ClipDataset([folder]).split(1)[1].fingerprint() == held_out.fingerprint()
    assert len({part.fingerprint() for part in (clips, train, held_out)}) == 3
    for count in (0, 3, -1):
        with pytest.raises(ValueError, match="held out"):
            clips.split(count)


@dataclass
class Samples(Dataset):
    """The clips of a dataset by number, for a DataLoader."""

    clips: ClipDataset

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.clips.read(index, 3, SIZE, SCALE, seed=0)


def test_any_number_of_workers_gives_the_same(folder, cache):
    samples = Samples(ClipDataset([folder], cache=cache))
    expected = torch.stack([samples[index] for index in range(6)])
    copied = ForkingPickler.loads(ForkingPickler.dumps(samples))  # as a spawned process gets it
    assert torch.equal(copied[1], expected[1])
    loader = DataLoader(samples, batch_size=3, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loader)), expected)
