"""What is known of many samples: the same for files and shards, in columns, with exact times."""

from pathlib import Path

import numpy as np
import pytest
import torch
from movies import make_movie, numbered, smooth
from PIL import Image
from tiny_shards import make_shards

from regen.data.catalog import FolderCatalog, ShardCatalog, open_collection
from regen.data.clips import ClipDataset, ClipSpec

UNEVEN = [0, 0.04, 0.08, 0.3, 0.4, 0.5]


@pytest.fixture
def files(tmp_path) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    Image.fromarray(smooth(30, 40)).save(folder / "d.png")
    return [
        make_movie(folder / "a.mp4", numbered(12)),
        make_movie(folder / "b.mkv", numbered(6), times=UNEVEN),
        make_movie(folder / "c.mp4", numbered(9, 48, 32), rotation=(90, False)),
        folder / "d.png",
    ]


def assert_same_clips(one: ClipDataset, other: ClipDataset, cut: ClipSpec) -> None:
    for index in range(10):
        assert torch.equal(one.sample(index, cut, seed=3).video, other.sample(index, cut, seed=3).video)


def test_a_folder_and_shards_of_the_same_files_are_the_same_data(files, tmp_path):
    folder = ClipDataset([files[0].parent])
    shards = ClipDataset([make_shards(tmp_path / "shards", files)])
    assert folder.fingerprint() == shards.fingerprint()
    assert np.array_equal(folder.columns.width, [64, 64, 48, 40])
    for cut in (
        ClipSpec(4, (16, 24), (0.5, 1.0)),
        ClipSpec(3, (16, 24), frame_rate=12.5),
        ClipSpec(1, (24, 24)),
    ):
        assert_same_clips(folder, shards, cut)
    assert folder.split(1)[1].fingerprint() == shards.split(1)[1].fingerprint()


def test_times_are_exact_even_where_they_are_uneven(files, tmp_path):
    folder = FolderCatalog(files)
    shards = ShardCatalog(str(make_shards(tmp_path / "shards", files)))
    for catalog in (folder, shards):
        for number, expected in enumerate([np.arange(12) / 25, np.array(UNEVEN), np.arange(9) / 25, [0.0]]):
            times = catalog.times(number, catalog.source(number))
            assert times == pytest.approx(expected, abs=1e-3)


def test_files_folders_and_shards_mixed(files, tmp_path):
    shards = make_shards(tmp_path / "shards", files[:3])
    more = make_movie(tmp_path / "more.mp4", numbered(5))
    collection = open_collection([shards, str(more), files[0].parent, more, f"{shards}"], None)
    assert collection.columns.frames.tolist() == [12, 6, 9, 1, 5, 12, 6, 9]
    names = list(collection.file_names(np.arange(8)))
    assert names == [b"a.mp4", b"b.mkv", b"c.mp4", b"d.png", b"more.mp4", b"a.mp4", b"b.mkv", b"c.mp4"]
    assert ClipDataset([shards, more]).sample(0, ClipSpec(5, (16, 16)), 0).video.shape == (3, 5, 16, 16)


def test_file_names_that_are_no_valid_unicode(tmp_path):
    folder = tmp_path / "ü b"
    folder.mkdir()
    path = make_movie(tmp_path / "a.mp4", numbered(5)).rename(folder / "x\udcff:y.mp4")
    catalog = FolderCatalog([folder])
    assert catalog.source(0) == path
    clips = ClipDataset([folder])
    assert clips.read(0, 5, (16, 16), (1.0, 1.0), 0).shape == (3, 5, 16, 16)
    assert len(clips.fingerprint()) == 16


def test_missing_paths_and_indices_are_errors(files, tmp_path):
    shards = make_shards(tmp_path / "shards", files)
    (shards / "index.safetensors").unlink()
    with pytest.raises(ValueError, match="has shards without an index; make one by regen shards index"):
        ClipDataset([shards])
    with pytest.raises(ValueError, match="There is no file or folder .*nowhere"):
        ClipDataset([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="memory://nowhere has no readable index"):
        ClipDataset(["memory://nowhere"])


def test_a_cache_serves_files_alone(files, tmp_path):
    cache = tmp_path / "cache"
    shards = make_shards(tmp_path / "shards", files[:2])
    clips = ClipDataset([shards, files[2]], cache=cache)
    clips.fill_cache()
    assert len(list(cache.glob("*.npy"))) == 2, "frames and times of one file"
    plain = ClipDataset([shards, files[2]])
    assert_same_clips(clips, plain, ClipSpec(3, (16, 16)))
    assert len(list(cache.glob("*.npy"))) == 2


def test_weights_are_seconds_and_those_of_buckets_add_up(files):
    clips = ClipDataset(files)
    whole = clips.weight(ClipSpec(4, (8, 8)))
    parts = [
        clips.weight(ClipSpec(4, (8, 8), aspect_ratios=(0.7, 1.4), bucket=bucket)) for bucket in range(2)
    ]
    assert whole == pytest.approx(sum(parts))
    assert whole == pytest.approx(12 / 25 + 9 / 25 + 6 / float(clips.columns.frame_rate[1]))
