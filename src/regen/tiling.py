"""Pictures cut into overlapping tiles, and results joined again without seams.

Tiles are counted in latent places (of 8 x 8 pixels, where an embedder has no other size of its own). Where
two tiles overlap, one fades into the other linearly; the two weights add up to one, so what both agree on
comes back unchanged. A tile that covers the picture is the picture: nothing is cut and nothing blended.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

PLACE = 8  # pixels along the side of a latent place
SMALLEST = 64  # pixels: the side at which tiles are not halved any more

Span = tuple[int, int]  # first place, and the one after the last


@dataclass(frozen=True)
class Tile:
    """The largest tile to work on at once, and how far neighbours overlap, all in pixels."""

    height: int
    width: int
    overlap: int = 64

    def __post_init__(self) -> None:
        if self.overlap < 0 or min(self.height, self.width) < max(8, 2 * self.overlap):
            raise ValueError(
                f"Tiles of {self.height}x{self.width} pixels can't overlap by {self.overlap}; "
                "let each side be at least 8 and twice the overlap."
            )

    def halved(self) -> "Tile | None":
        """The longer side halved, and the overlap where it must; None where tiles are tiny already."""
        height, width = self.height, self.width
        if max(height, width) <= SMALLEST:
            return None
        if width >= height:
            width = max(SMALLEST, width // 2 // PLACE * PLACE)
        else:
            height = max(SMALLEST, height // 2 // PLACE * PLACE)
        return Tile(height, width, min(self.overlap, height // 2, width // 2))


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """The fewest spans of at most `tile` places that cover `length`, about equal, with this `overlap`."""
    if tile >= length:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    covered = length + (count - 1) * overlap
    ends = [covered * i // count for i in range(count + 1)]
    return [(start - i * overlap, stop - i * overlap) for i, (start, stop) in enumerate(pairwise(ends))]


@dataclass(frozen=True)
class Tiling:
    """The tiles of one picture: rows and columns of places."""

    rows: list[Span]
    columns: list[Span]

    @classmethod
    def of(cls, height: int, width: int, tile: Tile | None) -> "Tiling":
        """Tiles of at most the size of `tile` for a picture of `height` x `width` places; one when None."""
        if tile is None:
            return cls([(0, height)], [(0, width)])
        overlap = tile.overlap // PLACE
        rows = spans(height, tile.height // PLACE, overlap)
        return cls(rows, spans(width, tile.width // PLACE, overlap))

    @classmethod
    def apart(cls, height: int, width: int, side: int) -> "Tiling":
        """About equal tiles of at most `side` x `side` places that do not overlap."""
        return cls(spans(height, side, 0), spans(width, side, 0))

    def alike(self, most: int) -> list[list[int]]:
        """The numbers of the tiles, those of one shape together, at most `most` at a time."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for number, ((top, bottom), (left, right)) in enumerate(self.places):
            shapes.setdefault((bottom - top, right - left), []).append(number)
        return [
            numbers[start : start + most]
            for numbers in shapes.values()
            for start in range(0, len(numbers), most)
        ]

    @property
    def places(self) -> list[tuple[Span, Span]]:
        """Rows and columns of every tile, row by row."""
        return [(row, column) for row in self.rows for column in self.columns]

    def join(self, parts: Iterable[Float[Tensor, "..."]], unit: int) -> Float[Tensor, "... h w"]:
        """The picture from one result per tile, in their order, with `unit` x `unit` values for a place.

        The parts are taken one by one, so they may be made on the way.
        """
        rest = iter(parts)
        lines = (_join((next(rest) for _ in self.columns), self.columns, unit, -1) for _ in self.rows)
        return _join(lines, self.rows, unit, -2)


def cut(x: Float[Tensor, "... h w"], place: tuple[Span, Span], unit: int) -> Float[Tensor, "... y x"]:
    """The part of a picture that a tile covers."""
    (top, bottom), (left, right) = place
    return x[..., top * unit : bottom * unit, left * unit : right * unit]


def _join(parts: Iterable[Tensor], places: list[Span], unit: int, dim: int) -> Tensor:
    """Lay parts at their places along `dim`; where one begins before the last one ends, fade into it."""
    if len(places) == 1:
        return next(iter(parts))
    whole, done = torch.empty(0), 0
    for part, (start, stop) in zip(parts, places, strict=True):
        if done == 0:
            shape = list(part.shape)
            shape[dim] = places[-1][1] * unit
            whole = part.new_empty(shape)
        shared = (done - start) * unit
        if shared:
            both = whole.narrow(dim, start * unit, shared)
            both.copy_(_fade(both, part.narrow(dim, 0, shared), dim))
        fresh = part.narrow(dim, shared, part.shape[dim] - shared)
        whole.narrow(dim, start * unit + shared, fresh.shape[dim]).copy_(fresh)
        done = stop
    return whole


def _fade(before: Tensor, after: Tensor, dim: int) -> Tensor:
    steps = before.shape[dim]
    weight = (torch.arange(steps, device=before.device, dtype=before.dtype) + 0.5) / steps
    return torch.lerp(before, after, weight if dim == -1 else weight[:, None])
