import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import PATIENCE, Process, Ran, Regen, StartCommand, assert_error, wait_until
from extras import require_perceptual
from tiny_benchmark import make_clips, make_models, results, timeless
from tiny_media import make_video
from tiny_sets import make_davis, make_frames

from regen.evaluate.benchmark.clip_list import read_clips
from regen.evaluate.benchmark.measure import ClipError, FittedClip
from regen.metrics.efficientnet import CLASS_PACKAGE
from regen.metrics.lpips import Lpips

COMMON = ("--data", "clips", "--device", "cpu", "--dtype", "fp32", "--size", "24x32")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_clips(folder / "clips")
    make_models(folder)
    return folder


@pytest.fixture
def folder(files, tmp_path, monkeypatch) -> Path:
    """The working directory: clips, and the models tiny and linear."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def evaluate(folder, capsys) -> Callable[..., Ran]:
    return partial(Regen(folder, capsys), "evaluate", "--report", "out", *COMMON)


def test_table_and_json(folder, evaluate):
    (folder / "clips" / "bad.mp4").write_bytes(b"no video")
    arguments = ("--model", "tiny", "--model", "linear", "--steps", "1", "--steps", "2")
    arguments += ("--max-frames", "6", "--fvd", "random", "--fvd-frames", "4")
    ran = evaluate(*arguments)
    out = "\n".join(ran.out)
    assert ran.status == 0 and "skipped: clips/bad.mp4" in "\n".join(ran.err)
    assert out.count("24x32") == 3 and "out/index.html" in out and "LPIPS" not in out
    for heading in ("PSNR", "SSIM", "FVD", "seams", "compression"):
        assert heading in out
    (line,) = evaluate(*arguments, "--json").out
    assert json.loads(line) == json.loads(Path("out/summary.json").read_text())


def test_published_sets(folder, capsys):
    """By name, at the sizes of the paper unless others are given, and resumable."""
    make_davis(folder / "DAVIS", "480p")
    evaluate = partial(Regen(folder, capsys), "evaluate", "--data", "davis/2017/val:DAVIS", "--report", "out")
    arguments = ("--model", "linear", "--device", "cpu", "--dtype", "fp32", "--max-frames", "2")
    assert evaluate(*arguments).status == 0
    rows = json.loads(Path("out/summary.json").read_text())
    expected = [("256x256", 2, 4), ("512x512", 2, 4)]
    assert [(row["size"], row["clips"], row["frames"]) for row in rows] == expected
    settings, clips = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("settings", "clips"))
    assert settings["set"] == "davis/2017/val"
    assert [clip["name"] for clip in clips["clips"]] == ["blackswan", "camel"]
    assert clips["clips"][0]["frame_rate"] == "24"
    assert evaluate(*arguments).files == set()
    (folder / "DAVIS" / "JPEGImages" / "480p" / "camel" / "00000.jpg").unlink()
    assert_error(evaluate(*arguments), "480p/camel was changed")


def test_reconstructions_as_folders_of_frames(folder, capsys):
    make_frames(folder / "own" / "one")
    make_frames(folder / "theirs" / "one")
    evaluate = partial(Regen(folder, capsys), "evaluate", "--data", "frames:own", "--report", "out")
    device = ("--device", "cpu", "--dtype", "fp32")
    assert evaluate(*device, "--reconstructions", "same=frames:theirs").status == 0
    (row,) = json.loads(Path("out/summary.json").read_text())
    assert (row["size"], row["frames"], row["psnr"]) == ("native", 3, 100.0)
    failed = evaluate(*device, "--reconstructions", "other=frames:nowhere")
    assert_error(failed, "--reconstructions needs a folder, got frames:nowhere")


def test_lpips_with_a_file_of_ones_own(folder, evaluate):
    layers = Lpips.random_for_tests("vgg").layers.state_dict()
    torch.save({f"features.{name}": value for name, value in layers.items()}, "weights.pth")
    lpips = ("--model", "linear", "--max-frames", "1", "--lpips-net", "vgg", "--lpips-weights", "weights.pth")
    assert_error(evaluate(*lpips), "weights.pth must have the SHA-256")
    known = subprocess.run(["sha256sum", "weights.pth"], capture_output=True, text=True, check=True).stdout
    assert evaluate(*lpips, "--lpips-sha256", known[:64]).status == 0
    (row,) = json.loads(Path("out/summary.json").read_text())
    assert row["lpips"] > 0 and row["absent"].keys() >= {"fvd"} and "lpips" not in row["absent"]
    assert json.loads(Path("out/settings.json").read_text())["lpips"] == {"net": "vgg", "sha256": known[:64]}


def test_perceptual_figures_need_the_extra(folder, evaluate, monkeypatch):
    arguments = ("--model", "linear", "--max-frames", "2", "--perceptual")
    monkeypatch.setitem(sys.modules, CLASS_PACKAGE, None)
    assert_error(evaluate(*arguments), "regen[perceptual]")
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    require_perceptual()
    out = "\n".join(evaluate(*arguments).out)
    for heading in ("features", "FD frames", "FD differences"):
        assert heading in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("at least one model", "--model")),
        (("--model", "nothing@25%"), ("no model nothing",)),
        (("--model", "tiny", "--size", "7"), ("got 7",)),
        (("--model", "tiny", "--data", "empty"), ("no video below empty",)),
        (("--model", "tiny", "--reconstructions", "empty"), ("NAME=FOLDER",)),
        (("--reconstructions", "theirs=empty"), ("empty has no reconstruction of a.mp4",)),
        (("--model", "tiny", "--lpips-net", "alex"), ("--lpips-weights",)),
        (("--model", "tiny", "--fvd", "i3d"), ("--fvd-weights",)),
        (("--model", "tiny", "--fvd", "i3d", "--fvd-weights", "x.pt"), ("x.pt",)),
        (("--model", "tiny", "--fvd-frames", "33"), ("--fvd i3d",)),
        (("--model", "tiny", "--fvd", "random", "--fvd-frames", "16", "33"), ("one --fvd-frames",)),
    ],
)
def test_invalid_options(folder, evaluate, arguments, words):
    (folder / "empty").mkdir()
    assert_error(evaluate(*arguments), *words)
    assert not list(folder.glob("out/results"))


@pytest.mark.parametrize("strict", [False, True])
def test_a_clip_that_fails_while_it_is_measured(folder, evaluate, monkeypatch, strict):
    """It is named, counted and skipped; the same command tries it again."""
    frames = FittedClip.frames

    def fail(fitted, reader):
        for number, frame in enumerate(frames(fitted, reader)):
            if fitted.path.name == "b.mkv" and number == 2:
                raise ClipError(f"{fitted.path} is damaged at 0.1 seconds.")
            yield frame

    monkeypatch.setattr(FittedClip, "frames", fail)
    arguments = ("--model", "linear", *(["--strict"] if strict else []))
    ran = evaluate(*arguments)
    assert ran.status == int(strict)
    assert "skipped: clips/b.mkv is damaged at 0.1" in "\n".join(ran.err)
    if not strict:
        assert "2 clips, 1 file skipped" in ran.out[-1]
    assert [row["clip"] for row in timeless(folder / "out")[1]] == ["a.mp4", "more/a.mp4"]
    monkeypatch.setattr(FittedClip, "frames", frames)
    assert evaluate(*arguments).status == 0
    assert len(timeless(folder / "out")[1]) == 3


def test_a_clip_that_is_gone_and_a_shorter_one(folder):
    clip = next(clip for clip in read_clips(Path("clips"), None).clips if clip.name == "a.mp4")
    fitted = FittedClip(Path("clips/a.mp4"), replace(clip, frames=9), None, None)
    with fitted.open() as reader, pytest.raises(ClipError, match="had 9 frames .* now 7"):
        list(fitted.frames(reader))
    Path("clips/a.mp4").unlink()
    with pytest.raises(ClipError, match="no file clips/a.mp4"):
        fitted.open()


def test_round_trips(folder, evaluate):
    """The first round is the reconstruction that is measured; later ones code what was decoded."""
    ran = evaluate("--model", "tiny", "--model", "linear", "--round-trips", "3")
    assert ran.status == 0 and "Coded again and again" in "\n".join(ran.out)
    rows = [json.loads(line) for line in Path("out/clips.jsonl").read_text().splitlines()]
    for row in rows:
        assert [one["round"] for one in row["drift"]] == [1, 2, 3]
        assert row["drift"][0]["psnr"] == pytest.approx(row["psnr"])
        assert row["drift"][0]["seam_ratio"] == row["seam_ratio"]
    for row in json.loads(Path("out/summary.json").read_text()):
        assert len(row["drift"]) == 3 and len(row["drift"][2]["colour"]) == 3
    assert "Coded again and again" in Path("out/index.html").read_text()
    settings = json.loads(Path("out/settings.json").read_text())
    assert settings["round_trips"] == 3
    assert_error(evaluate("--model", "tiny", "--round-trips", "2"), "round_trips was 3 and is now 2")
    assert_error(evaluate("--model", "tiny", "--round-trips", "0", "--report", "other"), "--round-trips")


@pytest.mark.integration
def test_a_failure_in_a_worker_is_reported(folder, evaluate):
    shutil.copytree("clips", "theirs")
    ran = evaluate("--reconstructions", "theirs=theirs", "--processes", "2")
    assert_error(ran, "theirs/", "must be 24x32")


def start_work(folder: Path, start_command: StartCommand, processes: str) -> Process:
    """A command that has some results and is at work on a clip that takes long."""
    make_video(folder / "clips" / "long.mp4", 250, 32, 40)
    arguments = "--report", "out", *COMMON, "--model", "tiny", "--processes", processes
    process = start_command("evaluate", *arguments)
    wait_until(lambda: list(folder.glob("out/results/tiny/*/b.json")), process)
    return process


def nothing_is_half_made(report: Path) -> bool:
    """A lock file may be left by a process that had just opened it; alone it holds nothing."""
    return {path.suffix for path in (report / ".work").iterdir()} == {".lock"}


@pytest.mark.integration
@pytest.mark.parametrize("count", ["1", "2"])
def test_killed_at_work_the_same_command_continues(folder, evaluate, start_command, count):
    process = start_work(folder, start_command, count)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    before = results(folder / "out")
    assert "tiny/24x32-1/long.json" not in before
    assert evaluate("--model", "tiny").status == 0
    after = results(folder / "out")
    assert before.items() <= after.items(), "what was done is not done again"
    assert nothing_is_half_made(folder / "out")
    assert evaluate("--model", "tiny", "--report", "whole").status == 0
    assert timeless(folder / "out") == timeless(folder / "whole")


@pytest.mark.integration
def test_ctrl_c(folder, start_command):
    process = start_work(folder, start_command, "2")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    line = error.strip().splitlines()[-1]
    assert "the same command continues" in line and "Traceback" not in error
    assert nothing_is_half_made(folder / "out")
