"""Each filter drops the clips that were made for it, and can be switched off."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_clips import FRAMES, HEIGHT, WIDTH, letterboxed, moving, resized, run, samples, texture, write
from movies import damage, truncate
from PIL import Image

from regen.curate.analysis import Analysis, analyse, bar_share
from regen.curate.options import Filters
from regen.curate.selection import select
from regen.curate.sources import SourceFile, list_sources
from regen.workers import Failure

# Name of a clip to the reason for which it is dropped; each other one is kept.
DROPPED = {
    "cut.mp4": "cuts",
    "static.mp4": "static",
    "letterbox.mp4": "bars",
    "pillarbox.mp4": "bars",
    "copy.mp4": "duplicate",
    "short.mp4": "short",
    "tiny.mp4": "small",
    "damaged.mp4": "damaged",
    "truncated.mp4": "damaged",
    "text.mp4": "damaged",
    "empty.png": "damaged",
    "copy.jpg": "duplicate",
    "boxed.png": "bars",
}
KEPT = {"good.mp4", "other.mp4", "night.mp4", "picture.png", "pan.mp4"}


def make_clips(folder: Path) -> Path:
    good = moving(1)
    write(folder / "good.mp4", good)
    write(folder / "other.mp4", moving(2))
    write(folder / "cut.mp4", moving(3, FRAMES // 2) + moving(4, FRAMES // 2))
    write(folder / "static.mp4", [texture(5)] * FRAMES)
    write(folder / "letterbox.mp4", letterboxed(moving(6), 12))
    upright = letterboxed(moving(7, height=WIDTH, width=HEIGHT), 16)
    write(folder / "pillarbox.mp4", [image.transpose(1, 0, 2) for image in upright])
    write(folder / "copy.mp4", resized(good, 112, 140)[: FRAMES - 1], quality=30)
    write(folder / "short.mp4", moving(8, 6))
    write(folder / "tiny.mp4", moving(9, height=64, width=96))
    damage(write(folder / "damaged.mp4", moving(10, 40)), 0.3, 0.6)
    truncate(write(folder / "truncated.mp4", moving(11)), 0.5)
    (folder / "text.mp4").write_text("This is no video. " * 50)
    (folder / "empty.png").touch()
    write(folder / "night.mp4", planets())
    write(folder / "pan.mp4", pan())
    Image.fromarray(texture(12)).save(folder / "picture.png")
    smaller = Image.fromarray(resized([texture(12)], 100, 130)[0]).resize((144, 130))
    smaller.save(folder / "copy.jpg", quality=60)
    Image.fromarray(letterboxed([texture(13)], 20)[0]).save(folder / "boxed.png")
    return folder


def planets() -> list[np.ndarray]:
    """A disc that moves in the black night: its rows above and below are no bars."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    images = []
    for index in range(FRAMES):
        disc = (rows - HEIGHT / 2) ** 2 + (columns - 40 - 4 * index) ** 2 < 30**2
        images.append((disc[..., None] * texture(14)).astype(np.uint8))
    return images


def pan() -> list[np.ndarray]:
    """A camera that turns fast: every frame differs much from the last one, and none is a cut."""
    wide = texture(15, width=WIDTH * 3)
    return [np.ascontiguousarray(wide[:, 16 * index : 16 * index + WIDTH]) for index in range(FRAMES)]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("filters")
    run(make_clips(folder / "clips"), folder / "shards", Filters(min_side=100))
    return folder


@pytest.fixture(scope="module")
def analysed(built) -> tuple[list[SourceFile], dict[str, Analysis]]:
    sources = list_sources([built / "clips"])
    analyses = {}
    for source in sources:
        try:
            analyses[source.key] = analyse(source, lambda seconds: None, filters=Filters())
        except ValueError as error:
            failure = Failure("damaged", str(error))
            analyses[source.key] = Analysis(source.key, source.stamp, failure=failure)
    return sources, analyses


@pytest.fixture(scope="module")
def report(built) -> dict[str, Any]:
    """The report, with the dropped files by name."""
    report = json.loads((built / "shards" / "report.json").read_text())
    return report | {"drops": {Path(drop["path"]).name: drop for drop in report["drops"]}}


def test_every_filter_drops_what_was_made_for_it_and_nothing_else(built, report):
    assert {name: drop["reason"] for name, drop in report["drops"].items()} == DROPPED
    assert samples(built / "shards").keys() == {name.partition(".")[0] for name in KEPT}


def test_the_report_has_the_measured_values(report):
    by_name = report["drops"]
    assert (report["files"], report["samples"]) == (len(DROPPED) + len(KEPT), len(KEPT))
    assert sum(report["reasons"].values()) == report["dropped"] == len(DROPPED)
    assert by_name["cut.mp4"]["value"] == 1 and by_name["cut.mp4"]["text"].endswith("at 0.50 s")
    assert by_name["letterbox.mp4"]["value"] == pytest.approx(24 / HEIGHT, abs=0.04)
    assert by_name["pillarbox.mp4"]["value"] == pytest.approx(32 / WIDTH, abs=0.04)
    assert by_name["static.mp4"]["value"] < by_name["static.mp4"]["limit"] == 0.1
    assert (by_name["short.mp4"]["value"], by_name["tiny.mp4"]["value"]) == (6, 64)
    assert by_name["copy.mp4"]["like"].endswith("good.mp4")
    assert by_name["copy.mp4"]["text"].startswith("like clips/good.mp4; ")
    assert 0 < by_name["copy.mp4"]["value"] < by_name["copy.mp4"]["limit"] == 0.1
    assert "could not be read" in by_name["damaged.mp4"]["text"]


def test_the_page_shows_pictures_of_every_reason_that_can_be_seen(built):
    page = (built / "shards" / "report.html").read_text()
    assert "5 samples kept, 13 dropped" in page and "http" not in page
    figures = {part.split("</b>")[0].split("<b>")[1]: part for part in page.split("<figure")[1:]}
    pictures = {name: part.count("data:image/jpeg;base64,") for name, part in figures.items()}
    assert [pictures[name] for name in ("cut.mp4", "static.mp4", "copy.mp4", "tiny.mp4")] == [2, 2, 2, 1]
    assert pictures["text.mp4"] == 0 and pictures["good.mp4"] == 1


OFF = [
    ("min_frames", 0, "short.mp4"),
    ("min_side", 0, "tiny.mp4"),
    ("cuts", "keep", "cut.mp4"),
    ("min_motion", 0.0, "static.mp4"),
    ("max_bars", 0.0, "letterbox.mp4"),
    ("duplicates", "keep", "copy.mp4"),
]


@pytest.mark.parametrize(("name", "value", "clip"), OFF, ids=[name for name, *_ in OFF])
def test_each_filter_can_be_switched_off(analysed, name, value, clip):
    sources, analyses = analysed
    before, _ = select(sources, analyses, Filters(min_side=100))
    after, _ = select(sources, analyses, replace(Filters(min_side=100), **{name: value}))
    new = {one.source.path.name for one in after} - {one.source.path.name for one in before}
    assert clip in new
    assert all(DROPPED[one] == DROPPED[clip] for one in new)


LIMITS = [
    ("max_frames", FRAMES - 1, {"copy.mp4"}),
    ("max_seconds", 0.97, {"copy.mp4"}),
    ("min_seconds", 1.01, set[str]()),
    ("min_seconds", 0.99, {"good.mp4", "other.mp4", "night.mp4", "pan.mp4"}),
    ("min_motion", 200.0, set[str]()),
    ("cut_threshold", 3.0, {"good.mp4", "other.mp4", "night.mp4", "pan.mp4"}),
]


@pytest.mark.parametrize(("name", "value", "videos"), LIMITS, ids=[f"{one[0]} {one[1]}" for one in LIMITS])
def test_limits(analysed, name, value, videos):
    sources, analyses = analysed
    kept, dropped = select(sources, analyses, replace(Filters(min_side=100), **{name: value}))
    names = {one.source.path.name for one in kept}
    assert {name for name in names if name.endswith(".mp4")} == videos
    assert "picture.png" in names  # length and motion say nothing of a picture
    assert len(names) + len(dropped) == len(sources)


def test_the_larger_of_two_that_look_the_same_is_kept(tmp_path):
    small, large = resized(moving(1), 112, 140), resized(moving(1), 168, 210)
    write(tmp_path / "clips" / "a.mp4", small)
    write(tmp_path / "clips" / "b.mp4", large)
    outcome = run(tmp_path / "clips", tmp_path / "shards", Filters(min_side=100))
    assert [one.source.path.name for one in outcome.kept] == ["b.mp4"]


def test_nothing_kept_is_an_error_with_a_report(tmp_path):
    write(tmp_path / "clips" / "a.mp4", moving(1))
    with pytest.raises(ValueError, match=r"None of the 1 files is kept; .*report.html shows why"):
        run(tmp_path / "clips", tmp_path / "shards", Filters(min_frames=100))
    assert "too short" in (tmp_path / "shards" / "report.html").read_text()
    assert not (tmp_path / "shards" / "index.safetensors").exists()


@pytest.mark.parametrize(
    ("lit", "share"),
    [
        ([0, 0, 1, 1, 1, 1, 1, 1, 0, 0], 0.4),
        ([0, 0.01, 1, 1, 1, 1, 1, 1, 0.02, 0], 0.4),  # specks in the bars
        ([0, 0.3, 1, 1, 1, 1, 1, 1, 0.3, 0], 0.2),  # half a line of picture
        ([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], 0.0),  # on one side only
        ([0, 0, 0, 0, 0, 0, 1, 1, 1, 0], 0.0),  # too uneven
        ([0, 0, 0.1, 0.15, 0.2, 0.8, 0.4, 0.2, 0.1, 0, 0], 0.0),  # no sharp edge
        ([1] * 10, 0.0),
        ([0] * 10, 0.0),
    ],
)
def test_bars_are_even_and_sharp(lit, share):
    assert bar_share(np.array(lit, dtype=float)) == pytest.approx(share)
