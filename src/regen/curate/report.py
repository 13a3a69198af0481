"""Report of a build: report.json, and report.html with thumbnails."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from regen.curate.options import PoolOptions
from regen.curate.selection import REASONS, Candidate, Dropped
from regen.io import write_bytes, write_json
from regen.media.reader import VideoReader
from regen.workers import ExtendDeadline, Failure, run_jobs

MAX_DROPPED_CARDS = 12  # for each reason
MAX_KEPT_CARDS = 24
THUMBNAIL_HEIGHT = 108  # pixels
JPEG_QUALITY = 78
STYLE = f"""
:root {{ --paper: #fbfbf9; --ink: #1b1d20; --soft: #62666c; --line: #dddcd6;
  --bar: #c04d00; --good: #007a57; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #131518; --ink: #e4e4e0; --soft: #989da4; --line: #2f3338;
    --bar: #f08c42; --good: #2fc79a; }}
}}
body {{ margin: 0 auto; padding: 2.2rem clamp(0.9rem, 3vw, 2.5rem) 4rem; max-width: 1300px;
  background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ margin: 0; font-size: 1.7rem; letter-spacing: -0.015em; }}
h2 {{ margin: 2.4rem 0 0.8rem; font-size: 1.15rem; }}
h2 small, p {{ color: var(--soft); font-weight: 400; }}
table {{ border-spacing: 0; margin-top: 1.2rem; font-variant-numeric: tabular-nums; }}
td {{ padding: 0.2rem 1rem 0.2rem 0; }}
td.count {{ text-align: right; }}
td i {{ display: block; height: 0.8rem; border-radius: 2px; background: var(--bar); }}
tr.kept i {{ background: var(--good); }}
a {{ color: inherit; text-decoration-color: var(--line); }}
.cards {{ display: flex; flex-wrap: wrap; gap: 1.1rem 0.9rem; }}
figure {{ margin: 0; min-width: 7.5rem; display: flex; flex-direction: column; }}
.pictures {{ display: flex; gap: 2px; }}
img {{ height: {THUMBNAIL_HEIGHT}px; border-radius: 3px; }}
figcaption {{ width: 0; min-width: 100%; margin-top: 0.25rem; font-size: 0.82rem; line-height: 1.35;
  overflow-wrap: anywhere; }}
figcaption b {{ display: block; font-weight: 600; }}
figcaption span {{ color: var(--soft); }}
.bare {{ width: 16rem; border-left: 2px solid var(--line); padding-left: 0.6rem; }}
"""
Places = tuple[tuple[Path, float], ...]
"""(path, seconds) of frames that are shown side by side."""
TITLES = REASONS | {"kept": "kept"}
SIDE_BY_SIDE = {
    "cuts": "the last frame of a shot, and the first one of the next",
    "static": "the first and the last frame",
    "duplicate": "what is dropped, and what is kept of the same",
}


@dataclass(frozen=True)
class BuildResult:
    """A finished build: number of files, rows of each shard, what was kept and what was dropped."""

    out: Path
    settings: dict[str, Any]
    files: int
    shards: Sequence[Sequence[dict[str, Any]]]
    kept: Sequence[Candidate]
    dropped: Sequence[Dropped]

    @property
    def page(self) -> Path:
        return self.out / "report.html"

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many were dropped for each reason, in the order of REASONS."""
        counts = Counter(drop.rejection.reason for drop in self.dropped)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}

    def as_json(self) -> dict[str, Any]:
        """The figures; hours are from the first to the last frame of each sample."""
        rows = [row for shard in self.shards for row in shard]
        return {
            "files": self.files,
            "samples": len(rows),
            "dropped": len(self.dropped),
            "hours": round(sum(row["seconds"] for row in rows) / 3600, 4),
            "bytes": sum(row["size"] for row in rows),
            "shards": len(self.shards),
            "reasons": self.counts,
        }


@dataclass(frozen=True)
class Card:
    """One file on the page: its name, what was measured, and its thumbnails, if any."""

    name: str
    text: str
    places: Places


def write_report(result: BuildResult, pool: PoolOptions) -> None:
    """Write both files into the folder of the shards. Raises OSError when they can't be written."""
    drops = [drop.as_json() for drop in result.dropped]
    write_json(result.out / "report.json", result.as_json() | {"settings": result.settings, "drops": drops})
    cards = {reason: _dropped_cards(reason, result) for reason in result.counts}
    cards["kept"] = _kept_cards(result)
    jobs = dict.fromkeys(card.places for group in cards.values() for card in group if card.places)
    with closing(run_jobs(make_thumbnails, jobs, pool.workers, pool.time_limit)) as results:
        pictures = {places: images for places, images in results if not isinstance(images, Failure)}
    write_bytes(result.page, make_page(result, cards, pictures).encode(errors="replace"))


def _dropped_cards(reason: str, result: BuildResult) -> list[Card]:
    """Some of what was dropped for one reason, sorted by the measured value."""
    drops = [drop for drop in result.dropped if drop.rejection.reason == reason]
    drops.sort(key=lambda drop: drop.rejection.value)
    cards = []
    for drop in evenly_spaced(drops, MAX_DROPPED_CARDS):
        title = drop.source.path.name if drop.candidate is None else drop.candidate.title
        cards.append(Card(title, drop.rejection.text, tuple(drop.evidence())))
    return cards


def _kept_cards(result: BuildResult) -> list[Card]:
    cards = []
    for kept in evenly_spaced(result.kept, MAX_KEPT_CARDS):
        info, shot = kept.info, kept.shot
        text = f"{info.width} x {info.height}"
        if not info.is_image:
            text += f", {shot.seconds:.1f} s"
            text += "" if shot.motion is None else f", motion {shot.motion:.1f}"
        cards.append(Card(kept.title, text, ((kept.source.path, shot.middle),)))
    return cards


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def make_thumbnails(places: Places, extend: ExtendDeadline) -> list[str]:
    """JPEG files in base64, one for each place."""
    pictures = []
    for path, time in places:
        with VideoReader(path, threads=1, short_side=2 * THUMBNAIL_HEIGHT) as reader:
            target = BytesIO()
            image = scale_to_height(reader.read_at([time])[0].numpy(), THUMBNAIL_HEIGHT)
            image.save(target, "JPEG", quality=JPEG_QUALITY)
            pictures.append(base64.b64encode(target.getvalue()).decode())
    return pictures


def scale_to_height(image: UInt8[np.ndarray, "h w 3"], height: int) -> Image.Image:
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)


def make_page(
    result: BuildResult, cards: Mapping[str, Sequence[Card]], pictures: Mapping[Places, Sequence[str]]
) -> str:
    """The HTML page, which loads nothing else, with `cards` by reason or "kept"."""
    figures, counts = result.as_json(), result.counts | {"kept": len(result.kept)}
    head = (
        f"<h1>{figures['samples']:,} samples kept, {figures['dropped']:,} dropped</h1>"
        f"<p>{figures['files']:,} files analysed; {figures['hours']:.2f} hours and "
        f"{figures['bytes'] / 1e6:,.0f} MB are in {figures['shards']:,} "
        f"{'shard' if figures['shards'] == 1 else 'shards'}.</p>"
    )
    body = "".join(_section(reason, count, cards[reason], pictures) for reason, count in counts.items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>What was kept and what was not</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style>{head}{_table(counts)}{body}</html>\n"
    )


def _table(counts: Mapping[str, int]) -> str:
    largest = max(counts.values()) or 1
    rows = [
        f'<tr class="{reason}"><td><a href="#{reason}">{TITLES[reason]}</a></td>'
        f'<td class="count">{count:,}</td>'
        f'<td><i style="width: {max(1.0, 300 * count / largest):.0f}px"></i></td></tr>'
        for reason, count in counts.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _section(reason: str, count: int, cards: Sequence[Card], pictures: Mapping[Places, Sequence[str]]) -> str:
    title = TITLES[reason][0].upper() + TITLES[reason][1:]
    notes = [f"{count:,}"]
    if len(cards) < count:
        notes.append(f"{len(cards)} of them here")
    if reason in SIDE_BY_SIDE:
        notes.append(SIDE_BY_SIDE[reason])
    figures = "".join(_figure(card, pictures.get(card.places, ())) for card in cards)
    return (
        f'<h2 id="{reason}">{title} <small>{"; ".join(notes)}</small></h2><div class="cards">{figures}</div>'
    )


def _figure(card: Card, pictures: Sequence[str]) -> str:
    words = f"<figcaption><b>{escape(card.name)}</b><span>{escape(card.text)}</span></figcaption>"
    if not pictures:
        return f'<figure class="bare">{words}</figure>'
    images = "".join(f'<img alt="" src="data:image/jpeg;base64,{picture}">' for picture in pictures)
    return f'<figure><div class="pictures">{images}</div>{words}</figure>'
