import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import Ran, assert_error
from PIL import Image

REAL = Path(__file__).parents[2] / "benchmarks" / "results" / "regen-small-4x-cpu.log.jsonl"


@pytest.fixture
def show(run_regen, tmp_path) -> Callable[..., Ran]:
    """Runs the command on `real`, the log of a real training, and `begun`, which has logged nothing."""
    for name in ("real", "begun"):
        (tmp_path / name).mkdir()
        config = {"loop": {"steps": 3400}, "files": len(name)}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "real" / "log.jsonl").write_text(REAL.read_text())
    return partial(run_regen, "runs", "show")


def test_several_runs_stand_side_by_side(show):
    ran = show("real", "begun")
    out = "\n".join(ran.out)
    assert (ran.status, ran.err) == (0, []) and "\x1b" not in out
    assert re.search(r"real +begun", out)
    assert re.search(r"updates +3400 of 3400 +0 of 3400", out)
    assert re.search(r"evaluation PSNR +29.98 dB, best 29.98 after 3400", out)
    assert re.search(r"files +4 +5", out), "in which they differ"


def test_a_program_gets_one_object(show):
    ran = show("real", "begun", "--json", "--png", "runs.png")
    assert (ran.status, len(ran.out), ran.err, ran.files) == (0, 1, [], {"runs.png"})
    real, begun = json.loads(ran.out[0])["runs"]
    assert (real["step"], real["name"], real["best_step"]) == (3400, "real", 3400)
    assert real["best_psnr"] == pytest.approx(29.98, abs=0.01)
    assert (begun["step"], begun["loss"], begun["checkpoints"]) == (0, None, [])


def test_the_picture_has_all_plots_in_it(show):
    assert show("real", "--png", "real.png").out[-1] == "The plots are in real.png."
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
)
def test_mistakes_are_one_line(show, arguments, words):
    ran = show(*arguments)
    assert len(ran.err) == 1
    assert_error(ran, words)


def test_without_matplotlib_the_figures_are_shown(show, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = show("real", "--png", "real.png")
    assert "29.98 dB" in "\n".join(ran.out)
    assert_error(ran, 'pip install "regen[plots]"')
