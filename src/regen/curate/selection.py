"""Which files, or shots of them, become samples, and why the others do not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from regen.curate.analysis import Analysis, Shot
from regen.curate.duplicates import find_duplicates, from_hex, hash_distance
from regen.curate.filters import Filters, Measurements, Rejection, check
from regen.curate.sources import SourceFile


@dataclass(frozen=True)
class Candidate:
    """A file as a whole (`number` is None) or one of its shots."""

    source: SourceFile
    analysis: Analysis
    shot: Shot
    number: int | None

    @property
    def measures(self) -> Measurements:
        return self.analysis.measurements(self.shot)

    @property
    def key(self) -> str:
        return self.source.key if self.number is None else f"{self.source.key}-{self.number:04d}"


@dataclass(frozen=True)
class Dropped:
    """What is not kept, and why. `path` and, of a shot, when it begins and how many seconds it lasts.

    `at` are the moments in seconds that show the reason, `twin` is what a duplicate looks like, with the
    moment to compare.
    """

    path: str
    rejection: Rejection
    start: float | None = None
    seconds: float | None = None
    times: tuple[float, ...] = ()
    duplicate_of: tuple[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """A row of the report."""
        row = {"path": self.path} | asdict(self.rejection)
        if self.start is not None and self.seconds is not None:
            row |= {"start": round(self.start, 3), "seconds": round(self.seconds, 3)}
        return row if self.duplicate_of is None else row | {"like": self.duplicate_of[0]}


def select(
    sources: Sequence[SourceFile], analyses: dict[str, Analysis], filters: Filters
) -> tuple[list[Candidate], list[Dropped]]:
    """(kept, dropped), both in the order of the sources."""
    candidates: list[Candidate] = []
    dropped: list[tuple[int, Dropped]] = []
    for order, source in enumerate(sources):
        analysis = analyses[source.key]
        if analysis.failure is not None:
            failure = analysis.failure
            verdict = Rejection(failure.reason, 1, 0, failure.text)
            dropped.append((order, Dropped(str(source.path), verdict)))
        several = len(analysis.shots) > 1
        for number, shot in enumerate(analysis.shots):
            one = Candidate(source, analysis, shot, number if several else None)
            found = check(one.measures, filters)
            if found is None:
                candidates.append(one)
            else:
                dropped.append((order, _drop(one, found)))
    twins = _match_duplicates(candidates, filters)
    kept = [one for number, one in enumerate(candidates) if twins[number] is None]
    places = {source.key: order for order, source in enumerate(sources)}
    for one, twin in zip(candidates, twins, strict=True):
        if twin is not None:
            share = hash_distance(one.shot.hashes, twin.shot.hashes)
            like = "/".join(twin.source.path.parts[-2:])
            text = f"like {like}; {100 * share:.1f} % of the hash differ"
            verdict = Rejection("duplicate", round(share, 4), filters.duplicate_distance, text)
            dropped.append((places[one.source.key], _drop(one, verdict, twin)))
    return kept, [drop for _, drop in sorted(dropped, key=lambda pair: pair[0])]


def _drop(one: Candidate, verdict: Rejection, twin: Candidate | None = None) -> Dropped:
    shot, is_part = one.shot, one.number is not None
    return Dropped(
        path=str(one.source.path),
        rejection=verdict,
        start=shot.start if is_part else None,
        seconds=shot.seconds if is_part else None,
        times=_evidence_times(one, verdict.reason),
        duplicate_of=None if twin is None else (str(twin.source.path), twin.shot.middle),
    )


def _evidence_times(one: Candidate, reason: str) -> tuple[float, ...]:
    """When to look at what is dropped, in seconds: on both sides of a cut, at both ends of what is static."""
    rate = one.analysis.info.frame_rate if one.analysis.info else 1.0
    shot = one.shot
    match reason:
        case "cuts":
            return one.analysis.cuts[0] - 1 / rate, one.analysis.cuts[0]
        case "static":
            return shot.start, shot.start + shot.seconds - 1 / rate
    return (shot.middle,)


def _match_duplicates(candidates: Sequence[Candidate], filters: Filters) -> list[Candidate | None]:
    """For each candidate the one that it duplicates: the largest, longest, first one."""
    twins: list[Candidate | None] = [None] * len(candidates)
    if filters.duplicates == "keep":
        return twins
    for images in (False, True):
        numbers = [
            number
            for number, one in enumerate(candidates)
            if one.measures.is_image == images and one.shot.hashes
        ]
        if not numbers:
            continue
        measures = [candidates[number].measures for number in numbers]
        pixels = np.array([one.width * one.height for one in measures])
        seconds = np.array([one.seconds for one in measures])
        rank = np.empty(len(numbers), dtype=np.int64)
        rank[np.lexsort((-seconds, -pixels))] = np.arange(len(numbers))
        prints = from_hex([candidates[number].shot.hashes for number in numbers])
        found = find_duplicates(prints, filters.duplicate_distance, rank)
        for number, better in zip(numbers, found.tolist(), strict=True):
            if better >= 0:
                twins[number] = candidates[numbers[better]]
    return twins
