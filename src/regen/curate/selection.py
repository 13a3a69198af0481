"""Selection of files and shots: filters, then duplicates."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from regen.curate.analysis import Analysis, Shot
from regen.curate.options import Filters
from regen.curate.sources import SourceFile
from regen.data.shards import SampleInfo

# Reasons to drop a file or shot, in the order in which they are checked.
REASONS = {
    "damaged": "can't be read, or not in full",
    "slow": "took longer than the time limit (--time-limit, --retry)",
    "killed": "ended the process that read it (--retry)",
    "sidecar": "has a caption or class that can't be read",
    "short": "too short (--min-frames, --min-seconds)",
    "long": "too long (--max-frames, --max-seconds)",
    "small": "too few pixels (--min-side)",
    "cuts": "has shot cuts inside (--cuts)",
    "static": "hardly moves (--min-motion)",
    "bars": "has black bars (--max-bars)",
    "duplicate": "looks like another one (--duplicates, --duplicate-distance)",
    "unwritten": "could not be re-encoded (--retry)",
}


@dataclass(frozen=True)
class Rejection:
    """Why something is dropped: one of REASONS, the measured value, its limit, and both in words."""

    reason: str
    value: int | float
    limit: int | float
    text: str


@dataclass(frozen=True)
class Candidate:
    """A file as a whole (`number` is None) or one of its shots."""

    source: SourceFile
    analysis: Analysis
    shot: Shot
    number: int | None

    @property
    def info(self) -> SampleInfo:
        """What is known of the whole file."""
        assert self.analysis.info is not None
        return self.analysis.info

    @property
    def key(self) -> str:
        return self.source.key if self.number is None else f"{self.source.key}-{self.number:04d}"

    @property
    def title(self) -> str:
        """The name of the file, and the time at which a shot begins."""
        return self.source.path.name + ("" if self.number is None else f" at {self.shot.start:.1f} s")


@dataclass(frozen=True)
class Dropped:
    """A file or shot that is not kept, and why.

    There is no `candidate` for a file without analysis, or without samples that could be written. `original`
    is what a duplicate looks like.
    """

    source: SourceFile
    rejection: Rejection
    candidate: Candidate | None = None
    original: Candidate | None = None

    def as_json(self) -> dict[str, Any]:
        """A row of the report."""
        row = {"path": str(self.source.path)} | asdict(self.rejection)
        if self.candidate is not None and self.candidate.number is not None:
            shot = self.candidate.shot
            row |= {"start": round(shot.start, 3), "seconds": round(shot.seconds, 3)}
        return row if self.original is None else row | {"like": str(self.original.source.path)}

    def evidence(self) -> list[tuple[Path, float]]:
        """(file, seconds) of frames that show the reason: both sides of a cut, both ends of a static shot."""
        if self.candidate is None:
            return []
        path, shot, cuts = self.source.path, self.candidate.shot, self.candidate.analysis.cuts
        frame = 1 / self.candidate.info.frame_rate
        if self.rejection.reason == "cuts":
            return [(path, cuts[0] - frame), (path, cuts[0])]
        if self.rejection.reason == "static":
            return [(path, shot.start), (path, shot.start + shot.seconds - frame)]
        alike = [] if self.original is None else [(self.original.source.path, self.original.shot.middle)]
        return [(path, shot.middle), *alike]


def select(
    sources: Sequence[SourceFile], analyses: dict[str, Analysis], filters: Filters
) -> tuple[list[Candidate], list[Dropped]]:
    """(kept, dropped), both in the order of the sources."""
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    for source in sources:
        analysis = analyses[source.key]
        if analysis.failure is not None:
            rejection = Rejection(analysis.failure.reason, 1, 0, analysis.failure.text)
            dropped.append(Dropped(source, rejection))
        several = len(analysis.shots) > 1
        for number, shot in enumerate(analysis.shots):
            candidate = Candidate(source, analysis, shot, number if several else None)
            failed = check(candidate, filters)
            if failed is None:
                candidates.append(candidate)
            else:
                dropped.append(Dropped(source, failed, candidate))
    originals = _match_duplicates(candidates, filters)
    kept = []
    for candidate, original in zip(candidates, originals, strict=True):
        if original is None:
            kept.append(candidate)
            continue
        distance = hash_distance(candidate.shot.hashes, original.shot.hashes)
        text = f"like {'/'.join(original.source.path.parts[-2:])}; {100 * distance:.1f} % of the hash differ"
        rejection = Rejection("duplicate", round(distance, 4), filters.duplicate_distance, text)
        dropped.append(Dropped(candidate.source, rejection, candidate, original))
    orders = {source.key: order for order, source in enumerate(sources)}
    return kept, sorted(dropped, key=lambda drop: orders[drop.source.key])


def check(candidate: Candidate, filters: Filters) -> Rejection | None:
    """The first reason to drop a file or shot, or None; duplicates are not considered."""
    failed = None if candidate.info.is_image else _check_length(candidate.shot, filters)
    return failed or _check_picture(candidate, filters)


def _check_length(shot: Shot, filters: Filters) -> Rejection | None:
    frames, seconds = shot.frames, shot.seconds
    if frames < filters.min_frames:
        return Rejection("short", frames, filters.min_frames, f"{frames} frames")
    if seconds < filters.min_seconds:
        return Rejection("short", seconds, filters.min_seconds, f"{seconds:.2f} s")
    if 0 < filters.max_frames < frames:
        return Rejection("long", frames, filters.max_frames, f"{frames} frames")
    if 0 < filters.max_seconds < seconds:
        return Rejection("long", seconds, filters.max_seconds, f"{seconds:.0f} s")
    return None


def _check_picture(candidate: Candidate, filters: Filters) -> Rejection | None:
    info, shot, cuts = candidate.info, candidate.shot, candidate.analysis.cuts
    side = min(info.width, info.height)
    if side < filters.min_side:
        return Rejection("small", side, filters.min_side, f"{info.width} x {info.height} pixels")
    if filters.cuts == "drop" and cuts:
        text = f"{len(cuts)} cut{'s' * (len(cuts) > 1)}, the first at {cuts[0]:.2f} s"
        return Rejection("cuts", len(cuts), 0, text)
    if shot.motion is not None and not info.is_image and shot.motion < filters.min_motion:
        return Rejection("static", shot.motion, filters.min_motion, f"motion {shot.motion:.2f}")
    if 0 < filters.max_bars < shot.bars:
        return Rejection("bars", shot.bars, filters.max_bars, f"bars take {100 * shot.bars:.0f} %")
    return None


def _match_duplicates(candidates: Sequence[Candidate], filters: Filters) -> list[Candidate | None]:
    """For each candidate the one that it duplicates: the largest, longest, first one."""
    originals: list[Candidate | None] = [None] * len(candidates)
    if filters.duplicates == "keep":
        return originals
    hashed = [number for number, candidate in enumerate(candidates) if candidate.shot.hashes]
    for images in (False, True):
        numbers = [number for number in hashed if candidates[number].info.is_image == images]
        if not numbers:
            continue
        group = [candidates[number] for number in numbers]
        pixels = np.array([one.info.width * one.info.height for one in group])
        seconds = np.array([one.shot.seconds for one in group])
        rank = np.empty(len(group), dtype=np.int64)
        rank[np.lexsort((-seconds, -pixels))] = np.arange(len(group))
        hashes = from_hex([one.shot.hashes for one in group])
        found = find_duplicates(hashes, filters.duplicate_distance, rank)
        for number, better in zip(numbers, found.tolist(), strict=True):
            if better >= 0:
                originals[number] = group[better]
    return originals


def find_duplicates(
    hashes: UInt8[np.ndarray, "n d"], max_distance: float, rank: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """For each hash the number of the kept one of lower rank that it duplicates, or -1.

    Duplicates differ in at most the share `max_distance` of their bits. Candidate pairs agree in two bytes
    that lie far apart, one of d/2 such pairs of bytes: every pair of hashes is found that differs in fewer
    than d/2 bits, and for 96 bytes practically every one that differs in 80. Time and memory grow with the
    number of hashes and of candidate pairs, which are few where files differ.
    """
    order = np.argsort(rank, kind="stable")
    ranked = np.ascontiguousarray(hashes[order])
    # Equal ones first: a thousand copies would make half a million pairs.
    _, firsts, group = np.unique(ranked, axis=0, return_index=True, return_inverse=True)
    unique = np.sort(firsts)
    original = firsts[group]
    original[unique] = -1
    for better, worse in _close_pairs(ranked[unique], int(max_distance * hashes.shape[1] * 8)).tolist():
        if original[unique[better]] < 0 and original[unique[worse]] < 0:
            original[unique[worse]] = unique[better]
    copies = np.flatnonzero((original >= 0) & (original[original] >= 0))
    original[copies] = original[original[copies]]  # the copies of a duplicate
    found = np.full(len(hashes), -1)
    found[order] = np.where(original < 0, -1, order[original])
    return found


def _close_pairs(ranked: UInt8[np.ndarray, "n d"], limit: int) -> Int[np.ndarray, "pairs 2"]:
    """Pairs (better, worse) that differ in at most `limit` bits, the best first."""
    bands = range(ranked.shape[1] // 2)
    return np.unique(np.concatenate([_close_in_band(ranked, band, limit) for band in bands]), axis=0)


def _close_in_band(ranked: UInt8[np.ndarray, "n d"], band: int, limit: int) -> Int[np.ndarray, "pairs 2"]:
    """Pairs (better, worse) that agree in two bytes and differ in at most `limit` bits in all.

    The bytes are of hashes of different frames, since many videos may begin with the same picture.
    """
    half = ranked.shape[1] // 2
    values = ranked[:, band].astype(np.int64) * 256 + ranked[:, band + half]
    order = np.argsort(values, kind="stable")  # stable: among equals the better one stands first
    values = values[order]
    pairs = [np.empty((0, 2), np.int64)]
    rows = np.arange(len(values))
    for step in range(1, len(values)):
        rows = rows[rows + step < len(values)]
        rows = rows[values[rows] == values[rows + step]]
        if len(rows) == 0:
            break
        a, b = order[rows], order[rows + step]
        close = np.bitwise_count(ranked[a] ^ ranked[b]).sum(axis=1, dtype=np.int64) <= limit
        pairs.append(np.stack([a[close], b[close]], axis=1))
    return np.concatenate(pairs)


def from_hex(hashes: Sequence[Sequence[str]]) -> UInt8[np.ndarray, "n d"]:
    """The hashes of each file, in hexadecimal digits, as one row of bytes."""
    rows = [bytes.fromhex("".join(file)) for file in hashes]
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1)


def hash_distance(a: Sequence[str], b: Sequence[str]) -> float:
    """The share of the bits in which two files' hashes differ."""
    rows = from_hex([a, b])
    return float(np.bitwise_count(rows[0] ^ rows[1]).sum()) / (8 * rows.shape[1])
