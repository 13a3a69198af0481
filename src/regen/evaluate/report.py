"""Report of a benchmark as one HTML file: table, plots, and synchronised players.

`page/` has its parts: `index.html` is a `string.Template` into which the style, the scripts, the results
(JSON) and the videos (base64) are copied. The page loads nothing else and opens from a disk.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

from regen.evaluate.benchmark.clip_list import clip_label
from regen.evaluate.benchmark.measure import result_key
from regen.io import read_json, write_text

Row = dict[str, Any]  # one clip through one system, or the means of a system
SCRIPTS = ("page.js", "table.js", "plots.js", "players.js")
BYTES_PER_MB = 1_000_000


@dataclass(frozen=True)
class ClipGroup:
    """One clip at one size: the original and all reconstructions, embedded together or not at all."""

    size: str
    clip: str
    rows: Sequence[Row]
    videos: Sequence[Path | None]  # the original's, then one per row; None if missing

    @property
    def characters(self) -> int:
        """Size of the videos in base64."""
        return sum(-(-path.stat().st_size // 3) * 4 for path in self.videos if path)


def write_report(folder: Path, limit_mb: float = 60.0) -> Path:
    """Write `folder/index.html` from the results of `regen evaluate` in `folder`, and return its path.

    Reads `summary.json`, `clips.jsonl`, `clips.json`, `settings.json` and `videos/`. The page embeds at most
    `limit_mb` megabytes of videos, counted in base64, of the clips with the lowest mean PSNR; the other clips
    have numbers only. Raises ValueError when one of the four files is missing or invalid.
    """
    files = ("summary.json", "clips.json", "settings.json", "clips.jsonl")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder / missing[0]} does not exist; give the --report folder of regen evaluate.")
    data: dict[str, Any] = {
        "summary": read_json(folder / "summary.json"),
        "clips": read_json(folder / "clips.json")["clips"],
        "settings": read_json(folder / "settings.json"),
        "rows": [json.loads(line) for line in (folder / "clips.jsonl").read_text("utf-8").splitlines()],
        "limit_mb": limit_mb,
    }
    if not data["summary"] or not data["rows"]:
        raise ValueError(f"{folder} has no complete results; run regen evaluate again.")
    data["originals"], videos = _embed(_clip_groups(folder, data["rows"]), int(limit_mb * BYTES_PER_MB))
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
    path = folder / "index.html"
    write_text(path, page)
    return path


def video_path(folder: Path, size: str, clip: str, model: str | None = None, steps: int = 0) -> Path:
    """Path of a video: the reconstruction by `model` in `steps`, or the original."""
    return folder / "videos" / f"{result_key(model, size, steps, clip_label(clip))}.mp4"


def _clip_groups(folder: Path, rows: Sequence[Row]) -> list[ClipGroup]:
    """The clip with the lowest PSNR of each size, then the second lowest of each, and so on."""
    by_clip: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_clip[row["size"], row["clip"]].append(row)
    by_size: dict[str, list[ClipGroup]] = defaultdict(list)
    for (size, clip), group in sorted(by_clip.items(), key=lambda item: fmean(r["psnr"] for r in item[1])):
        paths = [video_path(folder, size, clip)]
        paths += [video_path(folder, size, clip, row["model"], row["steps"]) for row in group]
        videos = [path if path.is_file() else None for path in paths]
        by_size[size].append(ClipGroup(size, clip, group, videos))
    ranked = [(rank, group) for groups in by_size.values() for rank, group in enumerate(groups)]
    return [group for _, group in sorted(ranked, key=lambda pair: pair[0])]


def _embed(groups: Sequence[ClipGroup], budget: int) -> tuple[list[Row], list[str]]:
    """Embed the videos of the groups that fit into `budget` characters; set `video`, its number, in the rows.

    Returns a row for the original of each group, and the videos in base64.
    """
    originals: list[Row] = []
    videos: list[str] = []
    for group in groups:
        original: Row = {"size": group.size, "clip": group.clip, "left_out": group.characters > budget}
        originals.append(original)
        if original["left_out"]:
            continue
        budget -= group.characters
        for row, path in zip((original, *group.rows), group.videos, strict=True):
            if path:
                row["video"] = len(videos)
                videos.append(base64.b64encode(path.read_bytes()).decode())
    return originals, videos


def _title(summary: Sequence[Row]) -> str:
    models = list(dict.fromkeys(row["model"] for row in summary))
    return "Reconstruction: " + (", ".join(models) if len(models) <= 3 else f"{len(models)} models")


def _part(name: str) -> str:
    return (resources.files("regen.evaluate") / "page" / name).read_text(encoding="utf-8")
