import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import Ran, assert_error
from PIL import Image
from tiny_media import make_image, make_video

from regen.curate.selection import REASONS
from regen.data.shards import ShardSet

SMALL = ("--min-side", "0", "--min-frames", "5", "--workers", "1")


@pytest.fixture
def shards(run_regen) -> Callable[..., Ran]:
    return partial(run_regen, "shards")


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    make_video(folder / "one.mp4", 20)
    make_video(folder / "short.mp4", 3)
    make_image(folder / "picture.png")
    (folder / "text.mp4").write_text("This is no video.")
    (folder / "one.txt").write_text("a caption")
    (folder / "one.cls").write_text("4")
    return folder


def test_build_show_index(shards, clips):
    ran = shards("build", "clips", "--out", "out", *SMALL)
    assert (ran.status, ran.err) == (0, [])
    assert ran.out[0].startswith("left out: clips/text.mp4: ")
    for words in ("files", "can't be read, or not in full", "too short", "samples"):
        assert words in "\n".join(ran.out)
    assert ran.out[-1] == "Pictures of what was dropped and why are in out/report.html."
    assert json.loads(Path("out/report.json").read_text())["reasons"] == {"damaged": 1, "short": 1}

    ran = shards("show", "out", "--picture", "sheet.png")
    assert (ran.status, ran.err) == (0, [])
    for words in ("2, in 1 shard", "0.6 s", "40 x 24", "28 x 20", "captions", "samples are in sheet.png"):
        assert words in "\n".join(ran.out)
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 500 and len(np.unique(np.asarray(sheet))) > 50

    before = Path("out/index.safetensors").read_bytes()
    Path("out/index.safetensors").unlink()
    ran = shards("show", "out")
    assert ran.status == 1 and "regen shards index" in ran.err[-1]
    ran = shards("index", "out", "--workers", "1")
    assert (ran.status, ran.out, ran.err) == (0, ["The index of out has 2 samples in 1 shard."], [])
    assert Path("out/index.safetensors").read_bytes() == before


def test_strict_allows_no_bad_file(shards, clips):
    """What can be used is built and indexed all the same."""
    ran = shards("build", "clips", "--out", "out", *SMALL, "--strict")
    assert_error(ran, "1 file was skipped", "--strict")
    assert len(ShardSet("out")) == 2
    (clips / "text.mp4").unlink()  # a video that is too short is not bad
    assert shards("build", "clips", "--out", "other", *SMALL, "--strict").status == 0
    Path("out/00001.tar").write_bytes(b"no shard")
    index = "index", "out", "--workers", "1"
    assert_error(shards(*index, "--strict"), "1 file was skipped", "--strict")
    assert shards(*index).status == 0
    assert len(ShardSet("out")) == 2


def test_last_lines_for_programs(shards, clips):
    built = json.loads(shards("build", "clips", "--out", "out", *SMALL, "--json").out[-1])
    facts = ShardSet("out").info(0)
    assert (facts.caption, facts.label) == ("a caption", 4)
    assert (built["files"], built["samples"], built["dropped"], built["shards"]) == (4, 2, 2, 1)
    assert built["report"] == "out/report.html"
    shown = json.loads(shards("show", "out", "--json").out[-1])
    assert (shown["samples"], shown["videos"], shown["images"], shown["captions"]) == (2, 1, 1, 1)
    assert (shown["classes"], shown["labelled"], shown["frames"]) == (1, 1, 21)
    assert shown["sizes"] == [[40, 24, 1], [28, 20, 1]] and shown["bytes"] == built["bytes"]
    indexed = json.loads(shards("index", "out", "--json", "--workers", "1").out[-1])
    assert indexed == {"shards": 1, "samples": 2, "left_out": []}


def test_options_reach_the_shards(shards, clips):
    build = "build", "clips", "--out", "out", *SMALL, "--max-samples", "1", "--classes-from-folders"
    assert shards(*build, "--max-shard-size", "1MB", "--short-side", "16").status == 0
    collection = ShardSet("out")
    facts = [collection.info(number) for number in range(len(collection))]
    assert len(collection.shards) == 2
    assert [(one.width, one.height, one.label) for one in facts] == [(26, 16, 0), (22, 16, 0)]
    assert json.loads(Path("out/classes.json").read_text()) == {"clips": 0}
    ran = shards(*build, "--max-shard-size", "1MB")
    assert_error(ran, "(short-side was 16 and is now None); give the same again, another --out, or --fresh")
    assert shards(*build, "--max-shard-size", "1MB", "--fresh").status == 0
    collection = ShardSet("out")
    facts = [collection.info(number) for number in range(len(collection))]
    assert [(one.width, one.height) for one in facts] == [(40, 24), (28, 20)]


def test_a_fresh_build_leaves_shards_from_elsewhere(shards, clips):
    Path("out").mkdir()
    Path("out", "00000.tar").write_bytes(b"of another program")
    ran = shards("build", "clips", "--out", "out", *SMALL, "--fresh")
    assert_error(ran, "holds shards from elsewhere")
    assert Path("out", "00000.tar").read_bytes() == b"of another program"


def test_reasons_name_options_that_exist(shards):
    text = "\n".join(shards("build", "--help").out)
    options = {option for reason in REASONS.values() for option in re.findall(r"--[a-z-]+", reason)}
    assert len(options) >= 10 and [option for option in options if option not in text] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "nowhere", "--out", "out"), "no file or folder nowhere"),
        (("build", "--out", "out"), "one or more folders"),
        (("build", "clips", "--out", "clips/one.mp4"), "can't be written to clips/one.mp4"),
        (("build", "clips", "--out", "out", "--max-shard-size", "big"), "'big'"),
        (("build", "clips", "--out", "out", "--short-side", "2"), "--short-side must be at least 16, got 2"),
        (("build", "clips", "--out", "out", "--min-frames", "50", "--min-side", "99"), "None of the 4 files"),
        (("index", "clips"), "no .tar file in clips"),
        (("show", "clips"), "no readable index.safetensors"),
    ],
)
def test_errors_are_one_sentence(shards, clips, arguments, words):
    workers = () if arguments[0] == "show" else ("--workers", "1")
    ran = shards(*arguments, *workers)
    assert (ran.out, len(ran.err)) == ([], 1)
    assert_error(ran, words)
