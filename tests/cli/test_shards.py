"""Command `regen shards`: files, output, errors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_media import make_image, make_video

from regen import cli
from regen.data.shards import ShardSet

Shell = Callable[..., tuple[int, str, str]]
SMALL = ("--min-side", "0", "--min-frames", "5", "--workers", "1")


@pytest.fixture
def shards(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs `regen shards`; returns exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = cli.main(["shards", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    make_video(folder / "one.mp4", 20)
    make_video(folder / "short.mp4", 3)
    make_image(folder / "picture.png")
    (folder / "text.mp4").write_text("This is no video.")
    (folder / "one.txt").write_text("a caption")
    (folder / "one.cls").write_text("4")
    return folder


def test_build_show_index(shards: Shell, clips: Path) -> None:
    status, out, err = shards("build", "clips", "--out", "out", *SMALL)
    assert (status, err) == (0, "")
    for words in ("files", "can't be read, or not in full", "too short", "samples"):
        assert words in out
    assert out.splitlines()[-1] == "Pictures of what was dropped and why are in out/report.html."
    assert json.loads(Path("out/report.json").read_text())["reasons"] == {"damaged": 1, "short": 1}

    status, out, err = shards("show", "out", "--picture", "sheet.png")
    assert (status, err) == (0, "")
    for words in ("2, in 1 shard", "0.6 s", "40 x 24", "28 x 20", "captions", "samples are in sheet.png"):
        assert words in out
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 500 and len(np.unique(np.asarray(sheet))) > 50

    before = Path("out/index.safetensors").read_bytes()
    Path("out/index.safetensors").unlink()
    status, out, err = shards("show", "out")
    assert status == 1 and "regen shards index" in err
    status, out, err = shards("index", "out", "--workers", "1")
    assert (status, out, err) == (0, "The index of out has 2 samples in 1 shard.\n", "")
    assert Path("out/index.safetensors").read_bytes() == before


def test_last_lines_for_programs(shards: Shell, clips: Path) -> None:
    built = json.loads(shards("build", "clips", "--out", "out", *SMALL, "--json")[1])
    facts = ShardSet("out").info(0)
    assert (facts.caption, facts.label) == ("a caption", 4)
    assert (built["files"], built["samples"], built["dropped"], built["shards"]) == (4, 2, 2, 1)
    assert built["report"] == "out/report.html"
    shown = json.loads(shards("show", "out", "--json")[1])
    assert (shown["samples"], shown["videos"], shown["images"], shown["captions"]) == (2, 1, 1, 1)
    assert (shown["classes"], shown["labelled"], shown["frames"]) == (1, 1, 21)
    assert shown["sizes"] == [[40, 24, 1], [28, 20, 1]] and shown["bytes"] == built["bytes"]
    indexed = json.loads(shards("index", "out", "--json", "--workers", "1")[1])
    assert indexed == {"shards": 1, "samples": 2, "left_out": []}


def test_options_reach_the_shards(shards: Shell, clips: Path) -> None:
    options = [
        "--short-side",
        "16",
        "--max-samples",
        "1",
        "--classes-from-folders",
        "--max-shard-size",
        "1MB",
    ]
    assert shards("build", "clips", "--out", "out", *SMALL, *options)[0] == 0
    collection = ShardSet("out")
    facts = [collection.info(number) for number in range(len(collection))]
    assert len(collection.shards) == 2
    assert [(one.width, one.height, one.label) for one in facts] == [(26, 16, 0), (22, 16, 0)]
    assert json.loads(Path("out/classes.json").read_text()) == {"clips": 0}
    status, _, err = shards("build", "clips", "--out", "out", *SMALL, *options[2:])
    assert status == 1 and err == (
        "regen: out has other settings (short-side was 16 and is now None); give the same again, or another "
        "--out.\n"
    )


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
def test_errors_are_one_sentence(shards: Shell, clips: Path, arguments: tuple[str, ...], words: str) -> None:
    workers = () if arguments[0] == "show" else ("--workers", "1")
    status, out, err = shards(*arguments, *workers)
    (line,) = err.splitlines()
    assert status == 1 and out == ""
    assert line.startswith("regen: ") and line.endswith(".") and words in line


@pytest.mark.parametrize("command", ["build", "index", "show"])
def test_every_help_has_an_example(shards: Shell, command: str) -> None:
    status, out, _ = shards(command, "--help")
    assert status == 0 and f"Example: regen shards {command}" in out
    assert "Example: regen shards build" in shards("--help")[1]
