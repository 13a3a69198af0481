"""`regen evaluate-generator`: its tables, JSON, files and errors."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_evaluation import make_generator, make_world

from regen import cli

COMMON = ("--num-videos", "5", "--frames", "12", "--steps", "2", "--device", "cpu", "--dtype", "fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: real videos, and a generator of classes."""
    folder = tmp_path_factory.mktemp("generator")
    make_world(folder / "world")
    make_generator(folder, "class")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def evaluate(*arguments: str, out: str = "out") -> int:
    words = ["evaluate-generator", "--model", "generator", "--data", "world", "--out", out]
    return cli.main([*words, *COMMON, *arguments])


def test_tables_for_people_and_json_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fvd = ("--fvd", "random", "--fvd-frames", "6", "12")
    assert evaluate(*fvd) == 0
    out, err = capsys.readouterr()
    for words in (
        *("5 videos of 12 frames, 48x64, from generator in 2 steps", "generated (5)", "real (5)", "chance"),
        *("shape+direction", "6.2 %", "clips of 6 frames", "(10/10)", "clips of 12 frames", "(5/5)"),
        *("(2/2)", "written: out/result.json, out/videos.png"),
    ):
        assert words in out
    assert "compare it only with distances of as many clips" in err and "Traceback" not in err
    made = sorted(folder.glob("out/*"))
    assert evaluate(*fvd, "--json", "--batch", "3") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((folder / "out" / "result.json").read_text())
    assert (result["model"], result["videos"], result["seed"], len(result["distances"])) == (
        "generator",
        5,
        0,
        2,
    )
    assert sorted(folder.glob("out/*")) == made, "nothing is made twice"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fvd", "i3d"), "--fvd-weights"),
        (("--fvd-frames", "16"), "without --fvd omit them"),
        (("--fvd", "random", "--fvd-frames", "16"), "--frames must be at least 16"),
        (("--steps", "0"), "step"),
        (("--size", "big"), "A size is one number"),
    ],
)
def test_errors_are_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert evaluate(*arguments, out="other") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("regen: ") and error.endswith(".") and words in error


def test_an_embedder_is_no_generator(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--model", "embedder", out="other") == 1
    assert "embedder" in capsys.readouterr().err
