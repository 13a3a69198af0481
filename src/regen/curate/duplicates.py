"""Files that look the same, found among very many by their perceptual hashes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8


def find_duplicates(
    hashes: UInt8[np.ndarray, "n d"], max_distance: float, rank: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """For each fingerprint the number of one of better (lower) rank that it doubles and that is kept, or -1.

    Two are the same when at most `share` of their bits differ. Candidates agree in two bytes that lie far
    apart, one of d/2 such pairs: every pair of fingerprints is found that differs in fewer than d/2 bits, and
    for 96 bytes practically every one that differs in 80. Time and memory grow with the number of
    fingerprints and of candidates, which are few where files differ.
    """
    order = np.argsort(rank, kind="stable")
    ranked = np.ascontiguousarray(hashes[order])
    # Equal ones first: a thousand copies would make half a million pairs.
    _, firsts, group = np.unique(ranked, axis=0, return_index=True, return_inverse=True)
    places = np.sort(firsts)
    double = firsts[group]
    double[places] = -1
    for better, worse in _close_pairs(ranked[places], int(max_distance * hashes.shape[1] * 8)).tolist():
        if double[places[better]] < 0 and double[places[worse]] < 0:
            double[places[worse]] = places[better]
    copies = np.flatnonzero((double >= 0) & (double[double] >= 0))
    double[copies] = double[double[copies]]  # the copies of what is itself a duplicate
    found = np.full(len(hashes), -1)
    found[order] = np.where(double < 0, -1, order[double])
    return found


def _close_pairs(ranked: UInt8[np.ndarray, "n d"], limit: int) -> Int[np.ndarray, "pairs 2"]:
    """Pairs (better, worse) that differ in at most `limit` bits, the best first."""
    bands = range(ranked.shape[1] // 2)
    return np.unique(np.concatenate([_close_in(ranked, band, limit) for band in bands]), axis=0)


def _close_in(ranked: UInt8[np.ndarray, "n d"], band: int, limit: int) -> Int[np.ndarray, "pairs 2"]:
    """Pairs (better, worse) that agree in two bytes and differ in at most `limit` bits in all.

    The bytes are of hashes of different frames, for many videos may begin with the same picture.
    """
    half = ranked.shape[1] // 2
    values = ranked[:, band].astype(np.int64) * 256 + ranked[:, band + half]
    order = np.argsort(values, kind="stable")  # stable: among equals the better one stands first
    values = values[order]
    pairs = [np.empty((0, 2), np.int64)]
    here = np.arange(len(values))
    for step in range(1, len(values)):
        here = here[here + step < len(values)]
        here = here[values[here] == values[here + step]]
        if len(here) == 0:
            break
        a, b = order[here], order[here + step]
        same = _differing(ranked[a], ranked[b]) <= limit
        pairs.append(np.stack([a[same], b[same]], axis=1))
    return np.concatenate(pairs)


def _differing(a: UInt8[np.ndarray, "n d"], b: UInt8[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
    return np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int64)


def from_hex(texts: Sequence[Sequence[str]]) -> UInt8[np.ndarray, "n d"]:
    """The fingerprints of files from their hashes in hexadecimal digits, which are joined."""
    joined = [bytes.fromhex("".join(hashes)) for hashes in texts]
    return np.frombuffer(b"".join(joined), dtype=np.uint8).reshape(len(joined), -1)


def hash_distance(a: Sequence[str], b: Sequence[str]) -> float:
    """The share of the bits in which two files' hashes differ."""
    prints = from_hex([a, b])
    return float(np.bitwise_count(prints[0] ^ prints[1]).sum()) / (8 * prints.shape[1])
