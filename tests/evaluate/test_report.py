"""The report page as a file: it needs nothing but itself, and no name or number can break it."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny_report import ABSENT, CLIPS, RUNS, make_report_folder

from regen.evaluate.benchmark.report import video_path, write_report

HOSTILE = '<b>&"x</script><!--.mp4'.replace("/", "")
SIZE = "48x64"


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self._script: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id")
            self.scripts[self._script] = ""

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[self._script] += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])

    @property
    def videos(self) -> list[str]:
        return [text for name, text in self.scripts.items() if name and name.startswith("video-")]


def report(folder: Path, limit_mb: float = 60.0) -> Elements:
    path = write_report(folder, limit_mb)
    assert path == folder / "index.html"
    return Elements(path.read_text(encoding="utf-8"))


def test_page_is_one_file_that_needs_no_other(tmp_path):
    folder = make_report_folder(tmp_path, frames=2)
    elements = report(folder)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, no place
    assert not [tag for tag, attributes in elements.tags if {"src", "srcset", "data"} & attributes.keys()]
    assert all(
        str(attributes["href"]).startswith("#") for tag, attributes in elements.tags if "href" in attributes
    )
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page


def test_videos_are_inside_and_numbered(tmp_path):
    folder = make_report_folder(tmp_path, frames=2)
    elements = report(folder)
    assert len(elements.videos) == len(CLIPS) * (1 + len(RUNS))
    for row in [*elements.data["rows"], *elements.data["originals"]]:
        path = video_path(folder, row["size"], row["clip"], row.get("model"), row.get("steps", 0))
        assert base64.b64decode(elements.scripts[f"video-{row['video']}"]) == path.read_bytes()


def test_slashes_in_names_are_no_folders(tmp_path):
    for arguments, expected in (
        (("256x256", "a.b.mov", "lab/model", 4), "lab--model/256x256-4/a.b.mp4"),
        ((SIZE, "in/a.mkv", "dva@25%", 1), f"dva@25%/{SIZE}-1/in--a.mp4"),
        (("native", "a.mkv"), "original/native/a.mp4"),
    ):
        assert video_path(tmp_path, *arguments) == tmp_path / "videos" / expected


def test_names_cannot_break_out(tmp_path):
    model = "</title></script><img onerror=x>"
    folder = make_report_folder(tmp_path, [(model, SIZE, 1, 30.0)], [HOSTILE], frames=0)
    elements = report(folder)
    assert elements.videos == [] and elements.data["originals"][0]["left_out"] is False
    assert elements.data["summary"][0]["absent"] == ABSENT
    assert elements.data["rows"][0]["clip"] == elements.data["clips"][0]["name"] == HOSTILE
    assert elements.data["summary"][0]["model"] == model
    assert "img" not in [tag for tag, _ in elements.tags]
    assert "<" not in elements.scripts["data"]
    script = elements.scripts[None]
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script and "document.write" not in script


def test_worst_clips_are_embedded_up_to_the_limit(tmp_path):
    folder = make_report_folder(tmp_path, frames=2)
    everything = report(folder)
    characters = sum(map(len, everything.videos))
    elements = report(folder, limit_mb=characters * 0.7 / 1e6)
    left_out = {one["clip"]: one["left_out"] for one in elements.data["originals"]}
    assert left_out == {"hard.mp4": False, "middle.mp4": False, "easy.mp4": True}
    assert sum(map(len, elements.videos)) <= characters * 0.7
    assert all(("video" in row) == (row["clip"] != "easy.mp4") for row in elements.data["rows"])
    assert report(folder, limit_mb=0.0).videos == []
    assert len(report(folder, limit_mb=characters / 1e6).videos) == len(everything.videos)


def test_sizes_take_turns_and_a_large_one_leaves_room(tmp_path):
    runs = [("a", "native", 1, 20.0), ("a", SIZE, 1, 30.0)]
    folder = make_report_folder(tmp_path, runs, frames=2)
    for clip in CLIPS:
        video_path(folder, "native", clip).write_bytes(b"0" * 1_000_000)
    shown = [
        (one["size"], one["clip"]) for one in report(folder, 1.5).data["originals"] if not one["left_out"]
    ]
    assert shown == [("native", "hard.mp4"), (SIZE, "hard.mp4"), (SIZE, "middle.mp4"), (SIZE, "easy.mp4")]


def test_damaged_results_are_an_error(tmp_path):
    folder = make_report_folder(tmp_path, frames=0)
    (folder / "summary.json").write_text('[{"model": ')
    with pytest.raises(ValueError, match=r"summary\.json"):
        write_report(folder)
