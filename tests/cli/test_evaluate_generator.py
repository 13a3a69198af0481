import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from commands import Ran, Regen, assert_error
from tiny_evaluation import make_generator, make_world
from tiny_sets import make_ucf101

from regen.cli.evaluation import DistanceOptions, extractor_specs
from regen.metrics.features import I3d

COMMON = ("--num-videos", "5", "--frames", "12", "--steps", "2", "--device", "cpu", "--dtype", "fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """The working directory: real videos, and a generator of classes."""
    folder = tmp_path_factory.mktemp("generator")
    make_world(folder / "world")
    make_generator(folder, "class")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture
def evaluate(folder, capsys) -> Callable[..., Ran]:
    words = ("evaluate-generator", "--model", "generator", "--data", "world", "--out", "out", *COMMON)
    return partial(Regen(folder, capsys), *words)


def test_tables_for_people_and_json_for_programs(folder, evaluate):
    fvd = ("--fvd", "random", "--fvd-frames", "6", "12")
    ran = evaluate(*fvd)
    out, err = "\n".join(ran.out), "\n".join(ran.err)
    assert ran.status == 0
    for words in (
        *("5 videos of 12 frames, 48x64, from generator in 2 steps", "generated (5)", "real (5)", "chance"),
        *("shape+direction", "6.2 %", "clips of 6 frames", "(10/10)", "clips of 12 frames", "(5/5)"),
        *("(2/2)", "written: out/result.json, out/videos.png"),
    ):
        assert words in out
    assert "compare it only with distances of as many clips" in err and "Traceback" not in err
    made = sorted(folder.glob("out/*"))
    result = json.loads(evaluate(*fvd, "--json", "--batch", "3").out[-1])
    assert result == json.loads((folder / "out" / "result.json").read_text())
    assert (result["model"], result["videos"], result["seed"]) == ("generator", 5, 0)
    assert len(result["distances"]) == 2
    assert sorted(folder.glob("out/*")) == made, "nothing is made twice"


def test_33_frames_of_a_published_set(evaluate, tmp_path):
    """One command gives FVD_33 on UCF-101; here with other features than those of I3D."""
    data, out = f"ucf101:{make_ucf101(tmp_path, frames=34)}", str(tmp_path / "out")
    fvd = ("--frames", "33", "--size", "48x64", "--fvd", "random", "--fvd-frames", "33")
    ran = evaluate("--data", data, "--out", out, "--num-videos", "6", *fvd, "--json")
    (distance,) = json.loads(ran.out[-1])["distances"]
    assert (distance["frames"], distance["generated_clips"], distance["real_clips"]) == (33, 6, 6)
    assert distance["resize"] == "bilinear without antialiasing, as cd-fvd"
    specs = extractor_specs(DistanceOptions("i3d", Path("i3d_torchscript.pt"), fvd_frames=(33,)))
    assert specs == (I3d(Path("i3d_torchscript.pt"), frames=33),)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fvd", "i3d"), "--fvd-weights"),
        (("--fvd-frames", "16"), "without --fvd omit them"),
        (("--fvd", "random", "--fvd-frames", "16"), "--frames must be at least 16"),
        (("--steps", "0"), "step"),
        (("--size", "big"), "A size is one number"),
        (("--model", "embedder"), "is an embedder"),
    ],
)
def test_errors_are_one_sentence(evaluate, arguments, words):
    assert_error(evaluate("--out", "other", *arguments), words)
