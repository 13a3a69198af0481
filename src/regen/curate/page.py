"""The report of a build as one HTML file, which asks for nothing outside itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from regen.curate.thumbnails import HEIGHT, ThumbnailSpec

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
img {{ height: {HEIGHT}px; border-radius: 3px; }}
figcaption {{ width: 0; min-width: 100%; margin-top: 0.25rem; font-size: 0.82rem; line-height: 1.35;
  overflow-wrap: anywhere; }}
figcaption b {{ display: block; font-weight: 600; }}
figcaption span {{ color: var(--soft); }}
.bare {{ width: 16rem; border-left: 2px solid var(--line); padding-left: 0.6rem; }}
"""
SIDE_BY_SIDE = {
    "cuts": "the last frame of a shot, and the first one of the next",
    "static": "the first and the last frame",
    "duplicate": "what is dropped, and what is kept of the same",
}


@dataclass(frozen=True)
class Card:
    """One file: its name, what was measured, and where to look, if anything is to be seen."""

    name: str
    text: str
    glimpse: ThumbnailSpec | None


@dataclass(frozen=True)
class Section:
    """Files that were dropped for one reason, or kept: how many, and some of them."""

    reason: str
    title: str
    count: int
    cards: Sequence[Card]


def make_page(
    figures: dict[str, Any], sections: Sequence[Section], pictures: Mapping[ThumbnailSpec, Sequence[str]]
) -> str:
    """The page; `figures` are those of an Outcome, `pictures` the JPEG files in base64."""
    head = (
        f"<h1>{figures['samples']:,} samples kept, {figures['dropped']:,} dropped</h1>"
        f"<p>{figures['files']:,} files looked at; {figures['hours']:.2f} hours and "
        f"{figures['bytes'] / 1e6:,.0f} MB are in {figures['shards']:,} "
        f"{'shard' if figures['shards'] == 1 else 'shards'}.</p>"
    )
    body = "".join(_show(section, pictures) for section in sections)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>What was kept and what was not</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style>{head}{_table(sections)}{body}</html>\n"
    )


def _table(sections: Sequence[Section]) -> str:
    most = max(section.count for section in sections) or 1
    rows = [
        f'<tr class="{section.reason}"><td><a href="#{section.reason}">{section.title}</a></td>'
        f'<td class="count">{section.count:,}</td>'
        f'<td><i style="width: {max(1.0, 300 * section.count / most):.0f}px"></i></td></tr>'
        for section in sections
    ]
    return f"<table>{''.join(rows)}</table>"


def _show(section: Section, pictures: Mapping[ThumbnailSpec, Sequence[str]]) -> str:
    title = section.title[0].upper() + section.title[1:]
    notes = [f"{section.count:,}"]
    if len(section.cards) < section.count:
        notes.append(f"{len(section.cards)} of them here")
    if section.reason in SIDE_BY_SIDE:
        notes.append(SIDE_BY_SIDE[section.reason])
    cards = "".join(
        _figure(card, pictures.get(card.glimpse, ()) if card.glimpse else ()) for card in section.cards
    )
    return (
        f'<h2 id="{section.reason}">{title} <small>{"; ".join(notes)}</small></h2>'
        f'<div class="cards">{cards}</div>'
    )


def _figure(card: Card, pictures: Sequence[str]) -> str:
    words = f"<figcaption><b>{escape(card.name)}</b><span>{escape(card.text)}</span></figcaption>"
    if not pictures:
        return f'<figure class="bare">{words}</figure>'
    images = "".join(f'<img alt="" src="data:image/jpeg;base64,{picture}">' for picture in pictures)
    return f'<figure><div class="pictures">{images}</div>{words}</figure>'
