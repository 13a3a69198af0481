"""Benchmarks: each result is computed once, by any process, and only comparable results are mixed."""

import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from extras import require_perceptual
from tiny_benchmark import CPU, SIZE, make_benchmark, make_clips, make_models, results, run, timeless
from tiny_media import make_video, tiny_regen

from regen.evaluate.benchmark.benchmark import Benchmark, prepare, run_jobs
from regen.evaluate.benchmark.clip_list import read_clips
from regen.evaluate.benchmark.measure import FittedClip, MetricConfig, ReportFolder
from regen.evaluate.benchmark.systems import SystemSpec
from regen.evaluate.quality import evaluate_clip
from regen.media.pixels import Size
from regen.media.reader import VideoReader, VideoWriter
from regen.pretrained.models import load
from regen.runtime import one_thread

CLIPS = ("a.mp4", "b.mkv", "more/a.mp4")
PERCEPTUAL = ("feature_distance", "frechet_frames", "frechet_differences")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_clips(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(data, models, tmp_path_factory) -> Path:
    """A report of both models in 1 and 2 steps; tests that change it take a copy."""
    report = tmp_path_factory.mktemp("reports") / "whole"
    run(make_benchmark(models, data, report))
    return report


def test_one_row_for_each_clip_and_setting(finished, models):
    summary, rows = timeless(finished)
    tiny, linear = models
    variants = [(linear, 1), (tiny, 1), (tiny, 2)]  # steps make no difference to the linear one
    assert [(row["model"], row["steps"]) for row in summary] == variants
    expected = [(*variant, clip) for variant in variants for clip in CLIPS]
    assert [(row["model"], row["steps"], row["clip"]) for row in rows] == expected
    for row in summary:
        own = [each for each in rows if (each["model"], each["steps"]) == (row["model"], row["steps"])]
        for name in ("psnr", "psnr_pooled", "ssim", "sharpness", "temporal_mae"):
            assert row[name] == pytest.approx(sum(each[name] for each in own) / 3)
        assert (row["size"], row["clips"], row["frames"], row["ratio"]) == ("24x32", 3, 16, 4)
        assert row["compression_factor"] == pytest.approx(3 * 5 * 24 * 32 / (2 * 4 * 3 * 4))
        assert row["values_per_second"] == pytest.approx(
            sum(-(-each["frames"] // 5) * 96 * 30000 / 1001 / each["frames"] for each in own) / 3
        )
        assert row["fvd"] > 0 and {*row["absent"]} == {"lpips", *PERCEPTUAL}
        assert all(row[name] is None for name in row["absent"])


def test_metrics_equal_those_of_a_single_clip(finished, data, models):
    row = next(row for row in timeless(finished)[1] if (row["model"], row["steps"]) == (models[0], 2))
    assert row["clip"] == "a.mp4"
    benchmark = make_benchmark(models, data, finished)
    job = next(job for job in prepare(benchmark, CPU) if job.key.endswith("tiny/24x32-2/a"))
    options = benchmark.decode_options(job)
    assert options.seed == row["seed"]
    with one_thread(), VideoReader(data / "a.mp4") as reader:
        frames = FittedClip(data / "a.mp4", job.clip, SIZE, None).frames(reader)
        alone = evaluate_clip(load(models[0], CPU, torch.float32), frames, "a", options)
    for name in ("psnr", "ssim", "seam_ratio", "border_ratio", "sharpness", "temporal_mae", "frames"):
        assert getattr(alone, name) == row[name], name


def test_recorded_files(finished, models):
    label = models[0].replace("/", "--")
    for folder in (f"videos/{label}/24x32-1", "videos/original/24x32"):
        assert {path.name for path in (finished / folder).iterdir()} == {"a.mp4", "b.mp4", "more--a.mp4"}
        with VideoReader(finished / folder / "a.mp4") as reader:
            assert (reader.info.width, reader.info.height, reader.info.frames) == (32, 24, 7)
    assert [clip["name"] for clip in json.loads((finished / "clips.json").read_text())["clips"]] == [*CLIPS]
    assert (finished / "index.html").is_file()
    assert [path.name for path in (finished / ".work").iterdir()] == ["all.lock"]


def test_odd_sizes_can_be_played(data, models, tmp_path):
    options = {"sizes": (Size(25, 33), None), "max_frames": 2, "metrics": MetricConfig()}
    run(make_benchmark(models[1:], data, tmp_path, **options))
    with VideoReader(tmp_path / "videos" / "original" / "25x33" / "a.mp4") as reader:
        assert (reader.info.width, reader.info.height, reader.info.frames) == (34, 26, 2)
    summary, rows = timeless(tmp_path)
    assert [row["size"] for row in summary] == ["native", "25x33"]
    assert {row["frames"] for row in rows} == {2}


def test_results_do_not_depend_on_the_batch(data, models, tmp_path):
    for batch in (1, 3):
        run(make_benchmark(models[:1], data, tmp_path / str(batch), steps=(1,), batch=batch, max_frames=6))
    single, together = ([row for rows in timeless(tmp_path / batch) for row in rows] for batch in ("1", "3"))
    for one, other in zip(single, together, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():  # the last bits of a product depend on how many rows it has
            assert other[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


def test_results_do_not_depend_on_order_or_other_clips(finished, data, models, tmp_path):
    run(make_benchmark(models[::-1], data, tmp_path / "other", steps=(2, 1)))
    assert timeless(tmp_path / "other") == timeless(finished)
    (tmp_path / "alone").mkdir()
    shutil.copy(data / "b.mkv", tmp_path / "alone" / "renamed.mkv")
    run(make_benchmark(models, tmp_path / "alone", tmp_path / "report"))
    known = [row | {"clip": "renamed.mkv"} for row in timeless(finished)[1] if row["clip"] == "b.mkv"]
    assert timeless(tmp_path / "report")[1] == known


def test_perceptual_figures(data, models, tmp_path):
    """Of each clip the distance, of all clips the Fréchet distances; all are absent for single frames."""
    require_perceptual()
    metrics = MetricConfig(perceptual=True)
    benchmark = make_benchmark(models, data, tmp_path / "whole", steps=(1,), metrics=metrics)
    for row in run(benchmark):
        assert {*row["absent"]} == {"fvd", "lpips"} and all(row[name] > 0 for name in PERCEPTUAL)
    summary, rows = timeless(tmp_path / "whole")
    assert run(benchmark) and timeless(tmp_path / "whole")[0] == summary
    own = [row["feature_distance"] for row in rows if row["model"] == models[1]]
    assert summary[0]["feature_distance"] == pytest.approx(sum(own) / 3) and len({*own}) == 3
    with pytest.raises(ValueError, match="perceptual was .*EfficientNet.* and is now None"):
        run(make_benchmark(models, data, tmp_path / "whole", steps=(1,), metrics=MetricConfig()))
    options = {"steps": (1,), "max_frames": 1, "metrics": metrics}
    (row,) = run(make_benchmark(models[1:], data, tmp_path / "frame", **options))
    assert row["frechet_frames"] > 0 and row["frechet_differences"] is None
    assert row["absent"]["frechet_differences"] == "no clip has a second frame"


@pytest.mark.integration
def test_results_do_not_depend_on_the_processes(finished, data, models, tmp_path):
    run(make_benchmark(models, data, tmp_path), processes=2)
    assert timeless(tmp_path) == timeless(finished)


def test_models_sizes_and_steps_are_added(finished, data, models, tmp_path):
    run(make_benchmark(models[:1], data, tmp_path, steps=(1,)))
    before = results(tmp_path)
    run(make_benchmark(models[:1], data, tmp_path, steps=(2,)))
    run(make_benchmark(models[1:], data, tmp_path))
    assert timeless(tmp_path) == timeless(finished)
    assert {name: results(tmp_path)[name] for name in before} == before
    run(make_benchmark(models[1:], data, tmp_path, sizes=(Size(16, 16),)))
    assert [row["size"] for row in timeless(tmp_path)[0]].count("16x16") == 1


def test_other_settings_are_refused(finished, data, models):
    for changes, words in (
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"max_frames": 3}, "max_frames was None and is now 3"),
        ({"metrics": MetricConfig()}, "fvd was .*random.* and is now None"),
    ):
        with pytest.raises(ValueError, match=f"other settings .*{words}"):
            run(make_benchmark(models, data, finished, **changes))


def test_other_weights_or_clips_are_refused(data, tmp_path):
    tiny, _ = make_models(tmp_path)
    shutil.copytree(data, clips := tmp_path / "clips")
    benchmark = make_benchmark([tiny], clips, tmp_path / "report", steps=(1,), max_frames=2)
    run(benchmark)
    torch.manual_seed(1)
    tiny_regen().save_pretrained(tiny)
    with pytest.raises(ValueError, match=f"results of another {tiny}"):
        run(benchmark)
    make_video(clips / "b.mkv", 4)
    with pytest.raises(ValueError, match="b.mkv was changed"):
        run(benchmark)


@pytest.fixture
def theirs(data, tmp_path) -> Path:
    """The clips themselves at the measured size, coded again, as what another program would have made."""
    (folder := tmp_path / "theirs").mkdir()
    for clip in read_clips(data, None).clips:
        write_reconstruction(data, folder, clip.name, SIZE, clip.frames)
    return folder


def write_reconstruction(data: Path, folder: Path, name: str, size: Size, frames: int) -> None:
    (clip,) = (clip for clip in read_clips(data, frames).clips if clip.name == name)
    target = folder / Path(name).with_suffix(".mp4")
    target.parent.mkdir(exist_ok=True)
    writer = VideoWriter(target, size.width, size.height, Fraction(25))
    with VideoReader(data / name) as reader, writer:
        for frame in FittedClip(data / name, clip, size, frames).frames(reader):
            writer.write(frame)


def precomputed_by(folder: Path, data: Path, report: Path) -> Benchmark:
    return make_benchmark([], data, report, systems=(SystemSpec("theirs", folder),))


def test_finished_reconstructions(data, theirs, tmp_path):
    benchmark = precomputed_by(theirs, data, tmp_path / "report")
    (row,) = run(benchmark)
    assert (row["model"], row["steps"], row["frames"]) == ("theirs", 1, 16)
    assert row["psnr"] > 30
    names = "seam_ratio", "compression_factor", "values_per_second", "frames_per_latent", "decode_megabytes"
    for name in ("ratio", *names):
        assert row[name] is None and "precomputed" in row["absent"][name]
    write_reconstruction(data, theirs, "b.mkv", SIZE, 5)
    with pytest.raises(ValueError, match=r"results of another theirs: b\.mkv"):
        run(benchmark)


def test_reconstructions_that_do_not_fit(data, theirs, tmp_path):
    def fails(words: str) -> None:
        with pytest.raises(ValueError, match=words):
            run(precomputed_by(theirs, data, tmp_path / "report"))

    write_reconstruction(data, theirs, "b.mkv", SIZE, 5)
    fails("theirs/b.mp4 must have 6 frames .* got 5")
    write_reconstruction(data, theirs, "b.mkv", Size(24, 24), 6)
    fails("theirs/b.mp4 must be 24x32 .* got 24x24")
    shutil.copy(theirs / "a.mp4", theirs / "b.mp4")
    fails("theirs/b.mp4 .* got 7")
    (theirs / "b.mp4").unlink()
    fails("no reconstruction of b.mkv")


def test_jobs_of_another_process_are_waited_for(data, models, tmp_path, monkeypatch):
    """A locked result is passed over; when its process ends without it, it is made here."""
    benchmark = make_benchmark(models[1:], data, tmp_path, max_frames=2)
    jobs = prepare(benchmark, CPU)
    folder = ReportFolder(tmp_path)
    claim = folder.claims.claim(jobs[0].key)
    claim.__enter__()
    waited = []

    def end_the_other(seconds: float) -> None:
        waited.append([folder.is_done(job.key) for job in jobs])
        claim.__exit__(None, None, None)

    monkeypatch.setattr("regen.evaluate.benchmark.benchmark.time.sleep", end_the_other)
    run_jobs(benchmark, jobs, CPU, lambda done, total, what: None)
    assert waited == [[False] + [True] * (len(jobs) - 1)]
    assert all(folder.is_done(job.key) for job in jobs)


def test_invalid_options(data, models, tmp_path):
    def fails(words: str, make: Callable[[], object]) -> None:
        with pytest.raises(ValueError, match=words):
            make()

    fails("unique", lambda: make_benchmark([models[0]] * 2, data, tmp_path))
    fails("steps", lambda: make_benchmark(models, data, tmp_path, steps=(0,)))
    fails("--max-frames", lambda: make_benchmark(models, data, tmp_path, max_frames=0))
    for name in ("original", "..", "."):
        fails("named", lambda name=name: SystemSpec(name))
    fails("got .*nowhere", lambda: SystemSpec("theirs", tmp_path / "nowhere"))
    for options in ({"lpips": "alex"}, {"lpips_weights": tmp_path}, {"lpips_sha256": "0" * 64}):
        fails("--lpips-weights", lambda options=options: MetricConfig(**options))
    fails("--processes", lambda: run(make_benchmark(models, data, tmp_path), processes=0))
    (tmp_path / "file").write_text("")
    benchmark = make_benchmark(models, data, tmp_path / "file" / "report")
    fails("file/report is not writable", lambda: run(benchmark))


def test_names_of_clips_that_are_no_text(models, tmp_path):
    """As other systems or damaged archives leave them: bytes that are not UTF-8."""
    data = tmp_path / "data"
    data.mkdir()
    name = os.fsdecode(b"caf\xe9 \xff.mp4")
    try:
        make_video(data / "a.mp4", 9)
        (data / "a.mp4").rename(data / name)
    except OSError:
        pytest.skip("the file system takes no such name")
    for _ in range(2):  # the second time reads the report
        run(make_benchmark(models[1:], data, tmp_path / "report"))
    _, rows = timeless(tmp_path / "report")
    assert [row["clip"] for row in rows] == [name]
