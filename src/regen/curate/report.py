"""What a build kept and dropped and why: report.json for programs, report.html for people."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from regen.curate.build_folder import write_bytes, write_json
from regen.curate.filters import REASONS
from regen.curate.page import Card, Section, make_page
from regen.curate.selection import Candidate, Dropped
from regen.curate.thumbnails import ThumbnailSpec, thumbnails
from regen.curate.workers import PoolOptions

PICTURES = 12  # of each reason
KEPT_PICTURES = 24


@dataclass(frozen=True)
class BuildResult:
    """A build that is done: how many files, the rows of each shard, what was kept and what was dropped."""

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
        """How many were dropped for each reason that there was, in the order of REASONS."""
        counts = Counter(drop.rejection.reason for drop in self.dropped)
        return {reason: counts[reason] for reason in REASONS if counts[reason]}

    def as_json(self) -> dict[str, Any]:
        """The figures; of samples the seconds from the first to the last frame."""
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


def write_report(outcome: BuildResult, work: PoolOptions) -> None:
    """Both files, in the folder of the shards. Raises OSError when they can't be written."""
    drops = [drop.as_json() for drop in outcome.dropped]
    content = outcome.as_json() | {"settings": outcome.settings, "drops": drops}
    write_json(outcome.out / "report.json", content)
    sections = [_section(reason, outcome) for reason in outcome.counts]
    sections.append(_kept(outcome))
    glimpses = [card.glimpse for section in sections for card in section.cards if card.glimpse is not None]
    pictures = thumbnails(glimpses, work)
    write_bytes(outcome.page, make_page(outcome.as_json(), sections, pictures).encode(errors="replace"))


def _section(reason: str, outcome: BuildResult) -> Section:
    """What was dropped for one reason: samples from the least to the most of what was measured."""
    drops = [drop for drop in outcome.dropped if drop.rejection.reason == reason]
    drops.sort(key=lambda drop: drop.rejection.value)
    cards = [_card(drop) for drop in _spread(drops, PICTURES)]
    return Section(reason, REASONS[reason], len(drops), cards)


def _card(drop: Dropped) -> Card:
    moments = [(drop.path, moment) for moment in drop.times]
    if drop.duplicate_of is not None:
        moments.append(drop.duplicate_of)
    return Card(
        _name(drop.path, drop.start), drop.rejection.text, ThumbnailSpec(tuple(moments)) if moments else None
    )


def _kept(outcome: BuildResult) -> Section:
    cards = []
    for one in _spread(outcome.kept, KEPT_PICTURES):
        measures = one.measures
        text = f"{measures.width} x {measures.height}"
        if not measures.is_image:
            text += f", {measures.seconds:.1f} s"
            text += "" if measures.motion is None else f", motion {measures.motion:.1f}"
        path, start = str(one.source.path), None if one.number is None else one.shot.start
        cards.append(Card(_name(path, start), text, ThumbnailSpec(((path, one.shot.middle),))))
    return Section("kept", "kept", len(outcome.kept), cards)


def _name(path: str, start: float | None) -> str:
    """What a file, or the shot of it that begins at `start` seconds, is called on the page."""
    return Path(path).name + ("" if start is None else f" at {start:.1f} s")


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]
