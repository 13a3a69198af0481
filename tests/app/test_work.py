"""What the tabs do, without a page: files, figures and refusals."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_app import FRAMES, HEIGHT, WIDTH, make_bad_files, make_clip, tiny_app
from tiny_media import make_image, tiny_onedva

from regen import names
from regen.app.models import AppModels
from regen.app.work import App, CancelledError, Coding, Job, Wish, random_prompt
from regen.data.shape_world import parse_caption
from regen.io import file_sha256, write_json
from regen.media.reader import VideoReader

OWN_SIZE = Coding(short_side=None)


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[App]:
    with tiny_app(tmp_path_factory.mktemp) as app:
        yield app


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory) -> dict[str, Path]:
    return make_bad_files(tmp_path_factory.mktemp("bad"))


@pytest.fixture
def job(tmp_path) -> Job:
    """Collects progress and warnings in the lists `progress` and `warnings` of itself."""
    progress: list = []
    warnings: list = []
    job = Job(tmp_path, lambda done, total: progress.append((done, total)), warnings.append, lambda: None)
    object.__setattr__(job, "progress", progress)
    object.__setattr__(job, "warnings", warnings)
    return job


def frames_of(path: str) -> tuple[int, int, int]:
    with VideoReader(Path(path)) as reader:
        return len(reader.frame_times()), reader.info.height, reader.info.width


def test_a_reconstruction_with_its_figures_and_a_page_of_both_videos(app, clip, job):
    result = app.reconstruct(clip, ["tiny-regen"], OWN_SIZE, job)
    assert [Path(file).name for file in result.files] == ["reconstruction-tiny-regen.mp4", "comparison.mp4"]
    assert frames_of(result.files[0]) == (FRAMES, HEIGHT, WIDTH)
    figures = result.figures["tiny-regen"]
    assert re.fullmatch(r"-?\d+\.\d\d dB", figures["PSNR"]) and float(figures["SSIM"]) < 1
    assert figures["compression"].endswith("×") and figures["rate"].endswith("values/s")
    assert figures["1D latents"] == "-" and "frames/s" in figures["decoding"]
    assert result.page.count('type="text/plain" id="video-') == 2
    assert job.progress[-1][0] == FRAMES


def test_the_share_of_1d_latents_counts_for_models_that_have_them(app, clip, job):
    rates = []
    for share in (0.0, 1.0):
        result = app.reconstruct(clip, ["tiny-onedva"], Coding(None, share=share), job)
        rates.append(float(result.figures["tiny-onedva"]["rate"].removesuffix(" values/s").replace(",", "")))
        assert "in a chunk" in result.figures["tiny-onedva"]["1D latents"]
    assert rates[0] < rates[1]
    result = app.reconstruct(clip, ["tiny-regen"], Coding(None, share=0.5), job)
    assert result.figures["tiny-regen"]["1D latents"] == "-"


def test_two_models_beside_each_other(app, clip, job):
    result = app.reconstruct(clip, ["tiny-regen", "tiny-onedva"], Coding(12), job)
    assert list(result.figures) == ["tiny-regen", "tiny-onedva"]
    assert [frames_of(file) for file in result.files] == [(FRAMES, 12, 20)] * 2
    assert result.page.count('type="text/plain" id="video-') == 3
    with pytest.raises(ValueError, match="two different"):
        app.reconstruct(clip, ["tiny-regen", "tiny-regen"], OWN_SIZE, job)


def test_interpolation_multiplies_the_frames(app, clip, job):
    result = app.interpolate(clip, "tiny-regen", 3, OWN_SIZE, job)
    assert frames_of(result.files[0]) == (3 * FRAMES, HEIGHT, WIDTH)
    assert result.figures["3× by tiny-regen"]["before"] == "7 frames, 29.97 per second"
    assert result.figures["3× by tiny-regen"]["after"] == "21 frames, 89.91 per second"
    assert "21 frames, 89.91 per second" in result.page
    with pytest.raises(ValueError, match="28 frames, and at most 24 .* smaller multiple"):
        app.interpolate(clip, "tiny-regen", 4, OWN_SIZE, job)
    with pytest.raises(ValueError, match="is an image"):
        app.interpolate(make_image(job.folder / "a.png"), "tiny-regen", 2, OWN_SIZE, job)


def test_generation_from_a_prompt_an_image_and_a_class(app, job):
    video, sheet, text = app.generate("tiny-text", Wish("a red ball", frames=5, steps=2), job)
    assert frames_of(video) == (5, 48, 64) and Path(sheet).is_file()
    assert text.startswith("5 frames of 64x48 at 25 per second, by 4 network evaluations")
    image = make_image(job.folder / "first.png")
    plain = Path(video).read_bytes()
    app.generate("tiny-text", Wish("a red ball", image, frames=5, steps=2), job)
    assert Path(video).read_bytes() != plain
    app.generate("tiny-class", Wish("circle moving left", frames=5, steps=2), job)
    for name, wish, words in [
        ("tiny-text", Wish("  ", frames=5), "The prompt is empty; write one such as"),
        ("tiny-text", Wish("a" * 501, frames=5), "at most 500 characters"),
        ("tiny-text", Wish("a", frames=25), "25 frames, and at most 24"),
        ("tiny-class", Wish("a dog", frames=5), "no class 'a dog' among 16"),
        ("tiny-regen", Wish("a", frames=5), "There is no generator tiny-regen here"),
    ]:
        with pytest.raises(ValueError, match=words):
            app.generate(name, wish, job)


def test_only_the_models_that_are_offered(app, clip, job):
    assert app.models.embedders[:2] == ("tiny-onedva", "tiny-regen")
    assert app.models.generators[:2] == ("tiny-class", "tiny-text")
    assert app.models.adaptive[0] == "tiny-onedva" and app.models.interpolating[0] == "tiny-regen"
    for name in ("nothing", "tiny-text", str(clip.parent), "owner/name", "", None):
        with pytest.raises(ValueError, match="choose one of tiny-onedva, tiny-regen"):
            app.reconstruct(clip, [name], OWN_SIZE, job)
    with pytest.raises(ValueError, match="nothing"):
        AppModels(
            ["nothing"], app.models.embedder("tiny-regen").device, app.models.embedder("tiny-regen").dtype
        )


def test_published_models_are_offered_and_fetched_when_they_are_used(app, clip, job, tmp_path, monkeypatch):
    """By kind, without a download before; offline that is one sentence."""
    source = tmp_path / "mirror" / "owner"
    tiny_onedva().save_pretrained(source / "far")
    entry = {"kind": "embedder", "class_name": "AutoencoderOneDVA", "repository": "owner/far"}
    weights = source / "far" / names.WEIGHTS
    entry |= {"revision": "main", "sha256": file_sha256(weights), "size": 2_000_000}
    maker = entry | {"kind": "generator", "class_name": "LatentGenerator", "repository": "owner/maker"}
    monkeypatch.setattr(names, "MANIFEST", tmp_path / "manifest.json")
    write_json(names.MANIFEST, {"far": entry, "maker": maker, "tiny-regen": entry})
    monkeypatch.setenv(names.MIRROR, (tmp_path / "nothing").as_uri())
    device, dtype = app.models.embedder("tiny-regen").device, app.models.embedder("tiny-regen").dtype
    offline = App(AppModels((), device, dtype), app.limits)
    assert offline.models.embedders[-1] == "far" and offline.models.generators[-1] == "maker"
    assert "far" in offline.models.adaptive and "far" not in offline.models.interpolating
    assert dict(map(reversed, offline.models.choices(("tiny-regen", "far"))))["far"] == "far (fetched, 2 MB)"
    advice = "no published model owner/far.* in the mirror.*put a folder far"
    with pytest.raises(ValueError, match=advice) as caught:
        offline.reconstruct(clip, ["far"], OWN_SIZE, job)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="owner/maker"):
        offline.generate("maker", Wish("a red ball", frames=5), job)
    monkeypatch.setenv(names.MIRROR, (tmp_path / "mirror").as_uri())
    assert offline.reconstruct(clip, ["far"], OWN_SIZE, job).figures["far"]["1D latents"] != "-"


def test_a_clip_is_needed_and_checked(app, bad_files, job):
    with pytest.raises(ValueError, match="no clip yet"):
        app.reconstruct(None, ["tiny-regen"], OWN_SIZE, job)
    for file in bad_files.values():
        with pytest.raises(ValueError, match=file.name):
            app.reconstruct(file, ["tiny-regen"], OWN_SIZE, job)
    assert list(job.folder.iterdir()) == []


def test_random_prompts_are_captions():
    assert all(parse_caption(random_prompt()) is not None for _ in range(20))


@pytest.mark.parametrize("calls", [1, 3, 30])
@pytest.mark.parametrize("tab", ["reconstruct", "interpolate", "generate"])
def test_work_stops_when_nobody_waits_for_it(app, clip, tmp_path, tab, calls):
    """At the original, in the encoder, and in the decoder or generator; the models work afterwards."""
    left = calls

    def check() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise CancelledError

    progress: list[int] = []
    job = Job(tmp_path, lambda done, total: progress.append(done), lambda text: None, check)
    work = {
        "reconstruct": lambda: app.reconstruct(clip, ["tiny-regen"], OWN_SIZE, job),
        "interpolate": lambda: app.interpolate(clip, "tiny-regen", 2, OWN_SIZE, job),
        "generate": lambda: app.generate("tiny-text", Wish("a red ball", frames=5, steps=50), job),
    }[tab]
    with pytest.raises(CancelledError):
        work()
    assert left == 0 and len(progress) < 5
    models = [app.models.embedder("tiny-regen"), app.models.generator("tiny-text").model]
    assert not any(module._forward_pre_hooks for model in models for module in model.modules())
