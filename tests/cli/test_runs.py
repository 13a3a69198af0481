"""regen runs show: what it prints and writes, for people and for programs."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regen import cli

REAL = Path(__file__).parents[2] / "benchmarks" / "results" / "regen-small-4x-cpu.log.jsonl"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs: `real`, the log of a real training, and `begun`, which has logged nothing."""
    for name in ("real", "begun"):
        (tmp_path / name).mkdir()
        config = {"loop": {"steps": 3400}, "files": len(name)}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "real" / "log.jsonl").write_text(REAL.read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_several_runs_stand_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "show", "real", "begun"]) == 0
    out, err = capsys.readouterr()
    assert not err and "\x1b" not in out
    assert re.search(r"real +begun", out)
    assert re.search(r"updates +3400 of 3400 +0 of 3400", out)
    assert re.search(r"evaluation PSNR +29.98 dB, best 29.98 after 3400", out)
    assert re.search(r"files +4 +5", out), "in which they differ"


def test_a_program_gets_one_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "show", "real", "begun", "--json", "--png", "runs.png"]) == 0
    out, err = capsys.readouterr()
    real, begun = json.loads(out)["runs"]
    assert not err and len(out.splitlines()) == 1
    assert (real["step"], real["name"], real["best_step"]) == (3400, "real", 3400)
    assert real["best_psnr"] == pytest.approx(29.98, abs=0.01)
    assert (begun["step"], begun["loss"], begun["checkpoints"]) == (0, None, [])
    assert Path("runs.png").is_file()


def test_the_picture_has_all_plots_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "show", "real", "--png", "real.png"]) == 0
    assert capsys.readouterr().out.endswith("The plots are in real.png.\n")
    picture = np.asarray(Image.open("real.png").convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    assert (width, height) == (1500, 880)
    blue = (abs(picture - [0x00, 0x72, 0xB2]) < 8).all(-1)
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        part = blue[row * height // 2 :, column * width // 3 :][: height // 2, : width // 3]
        assert part.sum() > 300, (row, column)
    assert not blue[height // 2 :, 2 * width // 3 :].any(), "nothing was logged of waiting for data"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no run in nowhere"),
        ([], "folder of a run"),
        (["real", "--png", "real.jpg"], "real.jpg"),
        (["real", "--png", "no/real.png"], "no/real.png"),
        (["begun", "--png", "begun.png"], "Nothing has been logged"),
    ],
    ids=["folder", "none", "suffix", "place", "empty"],
)
def test_mistakes_are_one_line(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["runs", "show", *arguments]) == 1
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 1


def test_without_matplotlib_the_figures_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["runs", "show", "real", "--png", "real.png"]) == 1
    out, err = capsys.readouterr()
    assert "29.98 dB" in out and 'pip install "regen[plots]"' in err
