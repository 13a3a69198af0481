"""The report of an evaluation as one HTML file: table, plots, and players that show all models in step.

`page/` holds its parts: `index.html` is a `string.Template`, and the style and the scripts are copied into
it, as are the results (JSON) and the videos (base64). The page asks for nothing outside itself and opens from
a disk.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any
from uuid import uuid4

from regen.evaluate.benchmark.clip_list import clip_label
from regen.evaluate.benchmark.report_folder import result_key

Row = dict[str, Any]  # one clip through one model, or the means of a model
SCRIPTS = ("page.js", "table.js", "plots.js", "players.js")
BYTES_PER_MB = 1_000_000


@dataclass(frozen=True)
class ClipGroup:
    """One clip at one size: the original and what each model made of it, seen or left out together."""

    size: str
    clip: str
    rows: Sequence[Row]
    videos: Sequence[Path | None]  # the original's, then one per row; None where there is no such file

    @property
    def characters(self) -> int:
        """What the videos take in base64."""
        return sum(-(-path.stat().st_size // 3) * 4 for path in self.videos if path)


def write_report(folder: Path, limit_mb: float = 60.0) -> Path:
    """Write `folder/index.html` from what `regen evaluate` left in `folder`, and return its path.

    Read are `summary.json`, `clips.jsonl`, `clips.json`, `settings.json` and the videos under `videos/`. At
    most `limit_mb` megabytes of videos go into the page, counted in base64; the clips with the lowest mean
    PSNR come first, and of those that find no room the page shows the figures alone.

    Raises ValueError, one sentence, when one of the four files is missing or is not what it should be.
    """
    lines = _text(folder / "clips.jsonl").splitlines()
    data: dict[str, Any] = {
        "summary": _parse(_text(folder / "summary.json"), folder / "summary.json"),
        "clips": _parse(_text(folder / "clips.json"), folder / "clips.json")["clips"],
        "settings": _parse(_text(folder / "settings.json"), folder / "settings.json"),
        "rows": [_parse(line, folder / "clips.jsonl") for line in lines if line.strip()],
        "limit_mb": limit_mb,
    }
    if not data["summary"] or not data["rows"]:
        raise ValueError(f"{folder} holds no results yet; run regen evaluate to its end first.")
    data["originals"], videos = _embed(_scenes(folder, data["rows"]), int(limit_mb * BYTES_PER_MB))
    page = Template(_part("index.html")).substitute(
        title=escape(_title(data["summary"])),
        style=_part("page.css"),
        data=json.dumps(data, separators=(",", ":")).replace("<", r"\u003c"),
        videos="\n".join(
            f'<script type="text/plain" id="video-{number}">{video}</script>'
            for number, video in enumerate(videos)
        ),
        script="\n".join(_part(name) for name in SCRIPTS),
    )
    path, hidden = folder / "index.html", folder / f".index.{uuid4().hex[:8]}.partial"
    try:
        hidden.write_text(page, encoding="utf-8")
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    return path


def video_path(folder: Path, size: str, clip: str, model: str | None = None, steps: int = 0) -> Path:
    """Where the report looks for a video: the reconstruction by `model` in `steps`, or else the original."""
    return folder / "videos" / f"{result_key(model, size, steps, clip_label(clip))}.mp4"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist; give the folder into which regen evaluate wrote its results."
        ) from None


def _parse(text: str, path: Path) -> Any:
    """JSON that a browser reads too: NaN and infinity are none."""
    try:
        return json.loads(text, parse_constant=_reject)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); run regen evaluate again.") from None


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _scenes(folder: Path, rows: Sequence[Row]) -> list[ClipGroup]:
    """The worst clip of each size, then the second worst of each, and so on."""
    together: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        together[row["size"], row["clip"]].append(row)
    sizes: dict[str, list[ClipGroup]] = defaultdict(list)
    for (size, clip), group in sorted(together.items(), key=lambda item: fmean(r["psnr"] for r in item[1])):
        paths = [video_path(folder, size, clip)]
        paths += [video_path(folder, size, clip, row["model"], row["steps"]) for row in group]
        videos = [path if path.is_file() else None for path in paths]
        sizes[size].append(ClipGroup(size, clip, group, videos))
    ranked = [(rank, scene) for scenes in sizes.values() for rank, scene in enumerate(scenes)]
    return [scene for _, scene in sorted(ranked, key=lambda pair: pair[0])]


def _embed(scenes: Sequence[ClipGroup], room: int) -> tuple[list[Row], list[str]]:
    """The videos of the scenes that fit into `room` characters; each row learns its video's number.

    Returns what is known of the original of each scene, and the videos in base64.
    """
    originals: list[Row] = []
    videos: list[str] = []
    for scene in scenes:
        original: Row = {"size": scene.size, "clip": scene.clip, "left_out": scene.characters > room}
        originals.append(original)
        if original["left_out"]:
            continue
        room -= scene.characters
        for row, path in zip((original, *scene.rows), scene.videos, strict=True):
            if path:
                row["video"] = len(videos)
                videos.append(base64.b64encode(path.read_bytes()).decode())
    return originals, videos


def _title(summary: Sequence[Row]) -> str:
    models = list(dict.fromkeys(row["model"] for row in summary))
    return "Reconstruction: " + (", ".join(models) if len(models) <= 3 else f"{len(models)} models")


def _part(name: str) -> str:
    return (files("regen.evaluate") / "page" / name).read_text(encoding="utf-8")
