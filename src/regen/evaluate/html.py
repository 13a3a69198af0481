"""Pages in one HTML file, which load nothing else: the report of a benchmark, and a player of one clip.

`evaluate/page/` has their parts. A page is a `string.Template` into which the style, the scripts, the results
(JSON) and the videos (base64) are copied.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from regen.codec.report import Report
from regen.media.pixels import Size

PLAYER_SCRIPTS = ("shared.js", "players.js", "player.js")


def render_page(
    template: str,
    title: str,
    data: dict[str, Any],
    videos: Sequence[bytes],
    scripts: Sequence[str],
    drift: str = "",
) -> str:
    """The page `template` with these results and videos; `video` of a result is a number of `videos`.

    `drift` is a section in HTML.
    """
    return Template(_part(template)).substitute(
        title=escape(title),
        drift=drift,
        style=_part("page.css"),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", r"\u003c"),
        videos="\n".join(
            f'<script type="text/plain" id="video-{number}">{base64.b64encode(video).decode()}</script>'
            for number, video in enumerate(videos)
        ),
        script="\n".join(_part(name) for name in scripts),
    )


@dataclass(frozen=True)
class PlayedVideo:
    """A video beside its original: its file, a name, and the report of its coding.

    A `note` stands in the place of PSNR, SSIM and compression.
    """

    path: Path
    name: str
    report: Report
    note: str = ""


def player_page(clip: str, original: Path, videos: Sequence[PlayedVideo], size: Size) -> str:
    """A page with the players of one clip of `size`: the original and `videos`, all in step."""
    rows = [
        {
            "clip": clip,
            "model": video.name,
            "size": "native",
            "steps": 1,
            "frames": video.report.frames,
            "psnr": video.report.psnr,
            "ssim": video.report.ssim,
            "seam_ratio": video.report.seam_ratio,
            "compression_factor": video.report.compression,
            "note": video.note,
            "video": number,
        }
        for number, video in enumerate(videos, 1)
    ]
    data = {
        "clips": [{"name": clip, "height": size.height, "width": size.width}],
        "originals": [{"clip": clip, "size": "native", "left_out": False, "video": 0}],
        "rows": rows,
        "summary": rows,
    }
    contents = [path.read_bytes() for path in (original, *(video.path for video in videos))]
    return render_page("player.html", clip, data, contents, PLAYER_SCRIPTS)


def _part(name: str) -> str:
    return (resources.files("regen.evaluate") / "page" / name).read_text(encoding="utf-8")
