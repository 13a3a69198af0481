"""Systems with latents of adaptive length: names, lengths and rates."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_benchmark import CPU, make_benchmark, make_models, results, run, timeless, tiny_one_dva

from regen.codec.rate_control import FixedLength, TargetPsnr
from regen.codec.sessions import DecodeOptions
from regen.diffusion import heun
from regen.evaluate.benchmark.clip_list import Clip
from regen.evaluate.benchmark.measure import MetricConfig
from regen.evaluate.benchmark.systems import SystemSpec, load_system
from regen.evaluate.quality import CodingStats
from regen.media.reader import VideoWriter

RATE, FRAMES = Fraction(10), 34  # two chunks
GRID = 4 * 5 * 2 * 2  # structural values of a chunk of 24 x 32 pixels; all its 1D latents have as many
PIXELS = 3 * 17 * 24 * 32
MODELS = ("one@0%", "one@100%", "one@25%", "one@8", "one@3dB", "one")
Row = dict[str, Any]


def write(path: Path, frames: list[torch.Tensor]) -> None:
    with VideoWriter(path, 32, 24, RATE) as writer:
        for frame in frames:
            writer.write(frame)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The model one, a folder of a still and a lively clip, and their report."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lengths")
    tiny_one_dva().save_pretrained(folder / "one")
    (folder / "clips").mkdir()
    picture = torch.randint(0, 256, (24, 32, 3), dtype=torch.uint8)
    write(folder / "clips" / "still.mp4", [picture] * FRAMES)
    write(folder / "clips" / "lively.mp4", [picture, 255 - picture] * (FRAMES // 2))
    evaluate(folder, *MODELS)
    return folder


def evaluate(folder: Path, *models: str, report: str = "out", **changes: Any) -> list[Row]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        systems = tuple(map(SystemSpec.parse, models))
        options = {"systems": systems, "steps": (1,), "metrics": MetricConfig()} | changes
        return run(make_benchmark([], folder / "clips", folder / report, **options))


@pytest.fixture(scope="module")
def rows(place) -> dict[tuple[str, str], Row]:
    return {(row["model"], row["clip"].split(".")[0]): row for row in timeless(place / "out")[1]}


def test_every_length_is_a_system(place):
    summary, _ = timeless(place / "out")
    assert [row["model"] for row in summary] == ["one", "one@8", "one@0%", "one@25%", "one@100%", "one@3dB"]
    assert (place / "out" / "videos" / "one@25%" / "24x32-1" / "still.mp4").is_file()
    assert len({row["psnr"] for row in summary}) > 3
    for row in summary:
        assert not row["absent"].keys() & {"values_per_second", "compression_factor", "frames_per_latent"}


def test_rates_follow_the_lengths(place, rows):
    for row in timeless(place / "out")[0]:
        for name in ("compression_factor", "values_per_second", "frames_per_latent"):
            both = [rows[row["model"], clip][name] for clip in ("still", "lively")]
            assert row[name] == pytest.approx(sum(both) / 2)
    for (model, clip), row in rows.items():
        assert row["frames_per_latent"] == pytest.approx(17 / 5), "of the structural grid"
        assert len(row["lengths"]) == 2
        values = 2 * GRID + 4 * sum(row["lengths"])
        assert row["values_per_second"] == pytest.approx(values * RATE / FRAMES), (model, clip)
        assert row["compression_factor"] == pytest.approx(2 * PIXELS / values)
    for clip in ("still", "lively"):
        assert rows["one@0%", clip]["compression_factor"] == pytest.approx(PIXELS / GRID)
        assert rows["one@100%", clip]["compression_factor"] == pytest.approx(PIXELS / (2 * GRID))
        assert rows["one@25%", clip]["lengths"] == [5, 5]
        assert rows["one@8", clip]["lengths"] == [8, 8]


def test_an_adaptive_length_follows_the_clip(rows):
    still, lively = (rows["one", clip]["lengths"] for clip in ("still", "lively"))
    assert 0 <= max(still) < min(lively) <= 20
    lowest, highest = (rows[model, "still"]["values_per_second"] for model in ("one@0%", "one@100%"))
    assert lowest <= rows["one", "still"]["values_per_second"] < highest
    assert rows["one", "still"]["compression_factor"] > rows["one", "lively"]["compression_factor"]


def test_lengths_take_steps(place):
    names = ("one@50%", "one@2.5dB")
    rows = evaluate(place, *names, report="steps", steps=(1, 2), max_frames=18)
    assert [(row["model"], row["steps"]) for row in rows] == [(n, steps) for n in names for steps in (1, 2)]
    assert len({row["psnr"] for row in rows[:2]}) == 2
    for row in rows[:2]:
        assert row["compression_factor"] == pytest.approx(PIXELS / (1.5 * GRID))


def test_lengths_can_be_added_and_are_not_done_again(place, tmp_path):
    shutil.copytree(place / "out", report := tmp_path / "out")
    before = results(report)
    evaluate(place, "one@25.0%", "one@3db", "one@75%", report=str(report))
    after = results(report)
    new = {name for name in after if before.get(name) != after[name]}
    assert {name.split("/")[0] for name in new} == {"one@75%"} and before.items() <= after.items()
    assert [row["model"] for row in timeless(report)[0]].index("one@75%") == 4, "between 25% and 100%"


def test_the_psnr_aimed_at_is_that_of_the_decoding(place, monkeypatch):
    """The search decodes as the evaluation does: in as many steps, with the noise of the clip."""
    seen, choose = [], TargetPsnr.choose

    def record(self: TargetPsnr, *arguments: Any) -> torch.Tensor:
        seen.append((self.steps, self.seed, self.solver))
        return choose(self, *arguments)

    monkeypatch.setattr(TargetPsnr, "choose", record)
    spec = SystemSpec("one", model=str(place / "one"), lengths=TargetPsnr(3.0))
    system, stats = load_system(spec, [], None, CPU, torch.float32), CodingStats()
    frames = list(torch.zeros(3, 24, 32, 3, dtype=torch.uint8))
    options = DecodeOptions(steps=2, seed=7, solver="heun")
    pairs = system.reconstruct(Clip("a.mp4", "0f" * 32, 3, 24, 32, "10"), frames, options, stats)
    assert sum(len(originals) for originals, _ in pairs) == 3
    assert seen == [(2, 7, heun)]
    assert len(stats.latents.lengths) == 1


@pytest.mark.parametrize(
    ("text", "name", "model", "lengths"),
    [
        ("small", "small", "small", None),
        ("small@25%", "small@25%", "small", FixedLength(share=0.25)),
        ("small@12.50%", "small@12.5%", "small", FixedLength(share=0.125)),
        ("small@320", "small@320", "small", FixedLength(count=320)),
        ("small@30dB", "small@30dB", "small", TargetPsnr(30.0)),
        ("owner/small@30.5DB", "owner/small@30.5dB", "owner/small", TargetPsnr(30.5)),
        ("mine=run@25%", "mine@25%", "run", FixedLength(share=0.25)),
        ("mine=run", "mine", "run", None),
        ("a@b", "a@b", "a@b", None),
        ("a@b@0%", "a@b@0%", "a@b", FixedLength(share=0.0)),
        ("mine=a@b", "mine", "a@b", None),
        ("my@own=run@7", "my@own@7", "run", FixedLength(count=7)),
        ("runs@home/best", "best", "runs@home/best", None),
        ("runs@home/best@1%", "best@1%", "runs@home/best", FixedLength(share=0.01)),
        ("runs@home/gone", "runs@home/gone", "runs@home/gone", None),
        ("owner@1/small", "owner@1/small", "owner@1/small", None),
        ("whole@25%", "whole@25%", "whole@25%", None),
        ("@25%", "@25%", "@25%", None),
    ],
)
def test_names(tmp_path, monkeypatch, text, name, model, lengths):
    for folder in ("run", "a@b", "runs@home/best", "whole@25%"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    spec = SystemSpec.parse(text)
    assert (spec.name, spec.model or spec.name, spec.lengths) == (name, model, lengths)
    assert spec.label == name.replace("/", "--")


def test_impossible_lengths_are_errors(place, tmp_path):
    for length in ("", "main", "-1", "101%", "nan%", "0dB", "100dB", "dB", "1.5", "25 percent"):
        with pytest.raises(ValueError, match=r"small@LENGTH .* got"):
            SystemSpec.parse(f"small@{length}")
    _, linear = make_models(tmp_path)
    for models, words in (
        ([f"{linear}@25%"], "@25% needs a One-DVA model, got .*linear"),
        (["one@21"], "lively.mp4 at 24x32 has at most 20 1D latents, got @21"),
        (["one@25%", "one@25.0%"], "unique"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(place, *models, report=str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("results"))
