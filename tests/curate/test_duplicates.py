"""What is found through parts of fingerprints is what comparing all pairs finds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regen.curate.selection import find_duplicates

BYTES = 96
BITS = BYTES * 8


def changed(print_: np.ndarray, bits: int, draw: np.random.Generator) -> np.ndarray:
    """The fingerprint with that many of its bits turned over."""
    unpacked = np.unpackbits(print_)
    unpacked[draw.choice(BITS, bits, replace=False)] ^= 1
    return np.packbits(unpacked)


def by_all_pairs(prints: np.ndarray, share: float, rank: np.ndarray) -> np.ndarray:
    """Each in the order of its rank is kept unless it is close to one that is."""
    found = np.full(len(prints), -1)
    kept: list[int] = []
    for number in np.argsort(rank, kind="stable").tolist():
        distances = [int(np.bitwise_count(prints[number] ^ prints[other]).sum()) for other in kept]
        close = [other for other, d in zip(kept, distances, strict=True) if d <= int(share * BITS)]
        if close:
            found[number] = close[0]
        else:
            kept.append(number)
    return found


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60))
def test_finds_the_same_as_comparing_all_pairs(seed, count):
    draw = np.random.default_rng(seed)
    prints = draw.integers(0, 256, (count, BYTES), dtype=np.uint8)
    for _ in range(count // 2):  # copies, copies of copies, exact ones among them
        source, target = draw.integers(0, count, 2)
        prints[target] = changed(prints[source], int(draw.choice([0, 0, 3, 20, 40, 120])), draw)
    rank = draw.permutation(count)
    assert find_duplicates(prints, 0.06, rank).tolist() == by_all_pairs(prints, 0.06, rank).tolist()


def test_copies_among_many():
    draw = np.random.default_rng(0)
    prints = draw.integers(0, 256, (20_000, BYTES), dtype=np.uint8)
    copies = {source: 10_000 + source for source in range(0, 3000, 3)}
    for source, target in copies.items():
        prints[target] = changed(prints[source], source % 77, draw)
    prints[18_000:] = prints[17_999]  # one file, very often
    prints[14_000:15_000, :32] = prints[0, :32]  # files with the same start
    found = find_duplicates(prints, 0.1, np.arange(len(prints)))
    assert all(found[target] == source for source, target in copies.items())
    assert (found[18_000:] == 17_999).all()
    assert (found >= 0).sum() == len(copies) + 2_000
