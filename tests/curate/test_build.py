"""Shards are a function of the files and options alone: not of processes, interruptions or earlier builds."""

import json
import os
import shutil
import sys
import tarfile
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from curation_clips import AGAIN, LOOSE, PACKING, SPLIT, make_mixture, moving, results, run, samples, write
from movies import make_movie

from regen.curate import writing
from regen.curate.analysis import analyse
from regen.curate.build_folder import BuildFolder
from regen.curate.options import Filters, PoolOptions
from regen.data.shards import ShardSet
from regen.media.decoding import Decoder
from regen.media.reader import VideoReader


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return make_mixture(tmp_path_factory.mktemp("sources") / "clips")


@pytest.fixture
def folder(tmp_path) -> Path:
    """An empty folder for some of the clips, or changed ones."""
    (tmp_path / "clips").mkdir()
    return tmp_path / "clips"


@pytest.fixture(scope="module")
def encoded(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("encoded") / "out"
    run(clips, out, SPLIT, AGAIN, PoolOptions(1))
    return out


def test_files_are_stored_unchanged_with_captions_and_classes(clips, tmp_path):
    outcome = run(clips, tmp_path / "out", LOOSE)
    shards = ShardSet(str(tmp_path / "out"))
    assert len(shards) == 6 == outcome.as_json()["samples"]
    contents = {shards.read(number).content for number in range(len(shards))}
    assert contents == {path.read_bytes() for path in clips.iterdir() if path.suffix in (".mp4", ".jpg")}
    facts = samples(tmp_path / "out")
    assert (facts["1"].caption, facts["1"].label) == ("a caption, über alles", 7)
    assert (facts["2"].caption, facts["2"].label) == ("from JSON", 3)
    assert (facts["3"].caption, facts["3"].label) == ("", -1)
    assert (facts["0"].frames, facts["0"].frame_rate, facts["0"].seconds) == (20, 20.0, pytest.approx(0.95))
    assert (facts["0"].width, facts["0"].height, facts["0"].is_regular) == (160, 128, True)
    assert facts["picture"].is_image and facts["picture"].frames == 1


def test_bytes_do_not_depend_on_the_number_of_processes(clips, encoded, tmp_path):
    run(clips, tmp_path / "out", SPLIT, AGAIN, PoolOptions(2))
    assert results(tmp_path / "out") == results(encoded)


def test_reencoded_samples_are_small_and_of_one_shot(clips, encoded):
    with VideoReader(clips / "shots.mp4", short_side=64) as reader:
        source = list(reader)
    shards = ShardSet(str(encoded))
    facts = [shards.info(number) for number in range(len(shards))]
    assert [one.frames for one in facts if one.name.startswith("shots")] == [9, 12, 8]
    assert {min(one.width, one.height) for one in facts} == {64}
    assert all(one.is_regular and one.frame_rate == 20 for one in facts if not one.is_image)
    for number, one in enumerate(facts):
        if one.name.startswith("shots") and one.frames == 12:
            with VideoReader(shards.read(number)) as reader:
                frames = list(reader)
            assert len(frames) == 12
            greys = [frame.image.float().mean(-1) for frame in source[9:21]]  # colour is stored at half size
            errors = [float((frames[5].image.float().mean(-1) - grey).abs().mean()) for grey in greys]
            assert errors.index(min(errors)) == 5 and errors[5] < 4
    (rows,) = {len(shards.samples_in(shard)) for shard in shards.shards[:-1]}
    assert rows == AGAIN.max_samples
    assert not (encoded / ".build" / "encoded").exists()


def test_keyframe_interval(tmp_path):
    source = write(tmp_path / "a.mp4", moving(0))
    for every, count in ((4, 4), (20, 1)):
        part = writing.Segment(3, 19, tmp_path / f"{every}.mp4", "a.mp4")
        (facts,) = writing.encode(writing.EncodeJob(source, (part,), None, every), lambda seconds: None)
        assert (facts.frames, facts.is_regular) == (16, True)
        with Decoder(part.target, threads=1) as decoder:
            assert sum(packet.is_keyframe for packet in decoder.demux() if packet.size) == count


def test_odd_sizes_lose_a_line_so_that_colour_is_stored_as_usual(tmp_path):
    write(tmp_path / "clips" / "a.mp4", moving(0, height=128, width=182))
    run(tmp_path / "clips", tmp_path / "out", LOOSE, replace(AGAIN, short_side=64))
    (facts,) = samples(tmp_path / "out").values()
    assert (facts.width, facts.height) == (90, 64)


def test_a_rerun_writes_only_what_is_missing(clips, encoded, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(encoded, out)
    (out / "00001.tar").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    run(clips, out, SPLIT, AGAIN)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert results(out) == results(encoded)


def test_files_that_changed_are_taken_into_account(clips, folder, tmp_path):
    for path in clips.iterdir():
        os.link(path, folder / path.name)
    run(folder, tmp_path / "out", SPLIT, AGAIN)
    assert len(ShardSet(str(tmp_path / "out"))) == 8
    write(folder / "15.mp4", moving(15))
    (folder / "0.mp4").unlink()
    (folder / "picture.jpg").unlink()
    (folder / "3.txt").write_text("now it has one")
    run(folder, tmp_path / "out", SPLIT, AGAIN)
    run(folder, tmp_path / "fresh", SPLIT, AGAIN)
    assert results(tmp_path / "out") == results(tmp_path / "fresh")
    assert len(ShardSet(str(tmp_path / "out"))) == 7


def test_a_folder_of_another_build_is_refused(clips, tmp_path):
    run(clips, tmp_path / "out", LOOSE)
    with pytest.raises(ValueError, match=r"min-side was 0 and is now 1\); give the same again"):
        run(clips, tmp_path / "out", replace(LOOSE, min_side=1))
    with pytest.raises(ValueError, match="short-side was None and is now 64"):
        run(clips, tmp_path / "out", LOOSE, replace(PACKING, short_side=64))
    with (
        BuildFolder(tmp_path / "out").lock(),
        pytest.raises(ValueError, match="Another process builds shards"),
    ):
        run(clips, tmp_path / "out", LOOSE)
    (tmp_path / "00000.tar").touch()
    with pytest.raises(ValueError, match="holds shards from elsewhere"):
        run(clips, tmp_path, LOOSE)
    assert (tmp_path / "00000.tar").stat().st_size == 0


def never_ends(source, extend, *, filters):
    """`analyse` on a disk that does not answer for one of the files."""
    if source.path.name == "dead.mp4":
        time.sleep(1000)
    return analyse(source, extend, filters=filters)


def test_a_file_that_never_ends_is_given_up(clips, folder, tmp_path, monkeypatch):
    os.link(clips / "0.mp4", folder / "good.mp4")
    os.link(clips / "1.mp4", folder / "dead.mp4")
    with monkeypatch.context() as context:
        context.setattr("regen.curate.build.analyse", never_ends)
        outcome = run(folder, tmp_path / "out", LOOSE, work=PoolOptions(2, time_limit=2.0))
    assert outcome.counts == {"slow": 1}
    assert outcome.dropped[0].rejection.text == "not done after 2 s"
    (folder / "dead.mp4").unlink()
    os.link(clips / "2.mp4", folder / "dead.mp4")
    assert run(folder, tmp_path / "out", LOOSE).counts == {}  # another file by now


def test_a_pipe_is_no_file(clips, folder, tmp_path):
    os.link(clips / "0.mp4", folder / "good.mp4")
    os.mkfifo(folder / "pipe.mp4")  # who opens it waits for ever
    outcome = run(folder, tmp_path / "out", LOOSE)
    assert outcome.counts == {"damaged": 1} and "is a pipe" in outcome.dropped[0].rejection.text


def test_retry_looks_again_at_what_took_too_long(clips, folder, tmp_path):
    os.link(clips / "0.mp4", folder / "good.mp4")
    run(folder, tmp_path / "out", LOOSE)
    log = tmp_path / "out" / ".build" / "analysis.jsonl"
    row = json.loads(log.read_text())
    failure = {"failure": {"reason": "killed", "text": "out of memory"}, "info": None, "shots": []}
    log.write_text(json.dumps(row | failure) + "\n")
    with pytest.raises(ValueError, match="None of the 1 files is kept"):
        run(folder, tmp_path / "out", LOOSE)
    assert run(folder, tmp_path / "out", LOOSE, work=PoolOptions(1, retry=True)).counts == {}


@pytest.mark.filterwarnings("ignore")  # the library leaves its file open
def test_webdataset_reads_the_shards(clips, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    run(clips, tmp_path / "out", LOOSE)
    read = list(webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False))
    assert len(read) == 6
    captions = {sample["__key__"].rpartition("-")[0]: sample.get("txt") for sample in read}
    assert captions["1"].decode() == "a caption, über alles"


def test_shards_are_closed_before_they_grow_too_large(clips, tmp_path):
    sizes = [path.stat().st_size for path in clips.iterdir() if path.suffix in (".mp4", ".jpg")]
    limit = max(sizes) + 3000
    run(clips, tmp_path / "out", LOOSE, replace(PACKING, max_shard_bytes=limit))
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert len(shards) > 2
    for path in shards:
        with tarfile.open(path) as tar:
            assert sum(512 + -(-info.size // 512) * 512 for info in tar) <= limit


@pytest.mark.parametrize(
    ("times", "is_regular"),
    [
        ([index / 20 for index in range(20)], True),
        ([index / 20 + (0.01 if index == 7 else 0) for index in range(20)], False),
        ([0.0, 0.1, 0.2, 0.5, 0.6], False),
    ],
    ids=["regular", "one late frame", "a gap"],
)
def test_regular_videos_have_frames_at_even_times(tmp_path, times, is_regular):
    make_movie(tmp_path / "a.mkv", moving(0, len(times)), times=times, rate=Fraction(20))
    run(tmp_path, tmp_path / "out", LOOSE)
    (facts,) = samples(tmp_path / "out").values()
    assert facts.is_regular is is_regular
    assert not is_regular or facts.frame_rate == pytest.approx(20.0)
    with VideoReader(tmp_path / "a.mkv") as reader:
        even = abs(reader.frame_times() - [index / facts.frame_rate for index in range(facts.frames)]).max()
    assert (even <= 5e-4) == is_regular


@pytest.mark.parametrize(
    ("library", "without"),
    [
        ("scenedetect", Filters(min_side=0, cuts="keep")),
        ("imagehash", Filters(min_side=0, duplicates="keep")),
    ],
)
def test_without_a_library_its_filter_can_be_switched_off(clips, tmp_path, monkeypatch, library, without):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf'(?i)needs .*{library} \(.*\); .* pip install "regen\[shards\]"'):
        run(clips, tmp_path / "out", SPLIT)
    assert not (tmp_path / "out").exists()
    run(clips, tmp_path / "out", without)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(PACKING, short_side=8), "--short-side must be at least 16, got 8"),
        (replace(PACKING, keyframe_interval=0), "--keyframe-interval"),
        (replace(PACKING, max_samples=-1), "--max-samples"),
        (PoolOptions(0), "--workers .* got 0"),
        (PoolOptions(1, 0.0), "--time-limit .* got 0.0"),
        (Filters(min_frames=-1), "--min-frames must be at least 0, got -1"),
        (Filters(max_frames=5), "--min-frames must not be above --max-frames"),
        (Filters(min_seconds=400.0), "--min-seconds must not be above"),
        (Filters(duplicate_distance=0.5), "--duplicate-distance .* 0.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        options.validate()
