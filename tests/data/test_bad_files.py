"""One bad file never ends a command over many: it is named and skipped."""

import os
from pathlib import Path

import pytest
from movies import make_movie, numbered

from regen.cli.options import check_strict
from regen.corpus.sources import Corpus, FrameSpec, Skipped, decode_sample
from regen.curate.analysis import analyse
from regen.curate.options import Filters
from regen.curate.sources import list_sources
from regen.data.clips import ClipDataset
from regen.data.video_sets import check_outside
from regen.evaluate.benchmark.clip_list import check_unchanged, read_clips
from regen.evaluate.generators.videos import find_real_videos
from regen.workers import JobError

PIPES = ("g.mp4", "h.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good video between bad ones of several kinds; who opens the pipe waits for ever."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.mp4").symlink_to("nowhere.mp4")
    make_movie(data / "b.mp4", numbered(6))
    (data / "c.mp4").write_text("no video")
    (data / "d.mp4").touch()
    (data / "e.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (data / "f.webp").symlink_to("f.webp")
    os.mkfifo(data / "g.mp4")
    os.mkfifo(data / "h.png")
    return data


def test_training_skips_them(folder: Path) -> None:
    clips = ClipDataset([folder])
    assert len(clips) == 1
    assert {Path(name).name for name in clips.skipped} == {
        "a.mp4",
        "c.mp4",
        "d.mp4",
        "e.png",
        "f.webp",
        *PIPES,
    }


def test_export_skips_them(folder: Path) -> None:
    corpus = Corpus([str(folder)], 64)
    spec = FrameSpec(None, None, None, 5, 8)
    found = [list(decode_sample(corpus, sample, spec))[-1] for sample in corpus.samples(0)]
    assert [isinstance(item, Skipped) for item in found] == [True, False, *[True] * 6]
    assert "a.mp4" in found[0].reason


def test_a_benchmark_skips_them(folder: Path) -> None:
    warnings: list[str] = []
    clips = read_clips(folder, None, warnings.append)
    assert ([clip.name for clip in clips.clips], len(clips.skipped), len(warnings)) == (["b.mp4"], 7, 7)
    check_unchanged(clips, folder, folder)


def test_an_evaluation_of_a_generator_skips_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [video.path.name for video in find_real_videos(folder, 9)] == ["b.mp4"]
    assert capsys.readouterr().err.count("skipped") == 7


def test_building_shards_names_links_to_nowhere(folder: Path) -> None:
    with pytest.raises(JobError, match="can't be opened"):
        analyse(list_sources([folder])[0], lambda seconds: None, filters=Filters())


def test_strict_allows_none() -> None:
    check_strict(True, 0)
    check_strict(False, 3)
    with pytest.raises(ValueError, match="3 files were skipped"):
        check_strict(True, 3)


@pytest.mark.parametrize("out", [".", "run", "deep/run"])
def test_outputs_never_become_data(tmp_path: Path, out: str) -> None:
    with pytest.raises(ValueError, match="must lie outside"):
        check_outside(tmp_path / out, [tmp_path], "--out")
    check_outside(tmp_path / out, [tmp_path / "data", "s3://bucket/shards"], "--out")
