"""Overlapping tiles of a picture, blended without seams.

Tiles are measured in latents (of 8 x 8 pixels unless an embedder has another stride). Where two tiles
overlap, one fades into the other linearly with weights that sum to one. A tile that covers the picture is
returned as is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

LATENT_STRIDE = 8  # pixels along the side of a latent
MIN_TILE_SIDE = 64  # pixels; tiles are not halved further

Span = tuple[int, int]  # first latent, and the one after the last
Box = tuple[Span, Span]  # rows and columns of a tile


@dataclass(frozen=True)
class Tile:
    """Largest tile size and overlap of neighbouring tiles, in pixels."""

    height: int
    width: int
    overlap: int = 64

    def __post_init__(self) -> None:
        if self.overlap < 0 or min(self.height, self.width) < max(8, 2 * self.overlap):
            raise ValueError(
                "The sides of a tile must be at least 8 pixels and twice the overlap, got "
                f"{self.height}x{self.width} with an overlap of {self.overlap}."
            )

    def halved(self) -> "Tile | None":
        """The tile with its longer side halved and the overlap reduced to fit; None at the minimum size."""
        height, width = self.height, self.width
        if max(height, width) <= MIN_TILE_SIDE:
            return None
        if width >= height:
            width = max(MIN_TILE_SIDE, width // 2 // LATENT_STRIDE * LATENT_STRIDE)
        else:
            height = max(MIN_TILE_SIDE, height // 2 // LATENT_STRIDE * LATENT_STRIDE)
        return Tile(height, width, min(self.overlap, height // 2, width // 2))


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """The fewest, about equal spans of at most `tile` that cover `length` with the given overlap."""
    if tile >= length:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    covered = length + (count - 1) * overlap
    ends = [covered * i // count for i in range(count + 1)]
    return [(start - i * overlap, stop - i * overlap) for i, (start, stop) in enumerate(pairwise(ends))]


@dataclass(frozen=True)
class Tiling:
    """The tiles of a picture: spans of rows and columns."""

    rows: list[Span]
    columns: list[Span]

    @classmethod
    def of(cls, height: int, width: int, tile: Tile | None, stride: int = LATENT_STRIDE) -> "Tiling":
        """Tiles for `height` x `width` latents of `stride` pixels a side; a single one if `tile` is None."""
        if tile is None:
            return cls([(0, height)], [(0, width)])
        rows, columns = max(1, tile.height // stride), max(1, tile.width // stride)
        overlap = min(tile.overlap // stride, rows // 2, columns // 2)
        return cls(spans(height, rows, overlap), spans(width, columns, overlap))

    @classmethod
    def non_overlapping(cls, height: int, width: int, side: int) -> "Tiling":
        """About equal tiles of at most `side` x `side` latents without overlap."""
        return cls(spans(height, side, 0), spans(width, side, 0))

    def group_by_shape(self, max_batch: int) -> list[list[int]]:
        """Indices of the tiles in batches of equal shape, at most `max_batch` in each."""
        shapes: dict[tuple[int, int], list[int]] = {}
        for index, ((top, bottom), (left, right)) in enumerate(self.boxes):
            shapes.setdefault((bottom - top, right - left), []).append(index)
        return [
            indices[start : start + max_batch]
            for indices in shapes.values()
            for start in range(0, len(indices), max_batch)
        ]

    @property
    def boxes(self) -> list[Box]:
        """Rows and columns of every tile, row by row."""
        return [(row, column) for row in self.rows for column in self.columns]

    def blend(self, parts: Iterable[Float[Tensor, "..."]], unit: int) -> Float[Tensor, "... h w"]:
        """The picture from one result per tile, in the order of `boxes`; a latent has `unit` x `unit` values.

        Of a generator, one part at a time is consumed.
        """
        rest = iter(parts)
        lines = (_blend((next(rest) for _ in self.columns), self.columns, unit, -1) for _ in self.rows)
        return _blend(lines, self.rows, unit, -2)


def crop(x: Float[Tensor, "... h w"], box: Box, unit: int) -> Float[Tensor, "... y x"]:
    """The part of a picture inside a tile."""
    (top, bottom), (left, right) = box
    return x[..., top * unit : bottom * unit, left * unit : right * unit]


def _blend(parts: Iterable[Tensor], spans: list[Span], unit: int, dim: int) -> Tensor:
    """Place parts at their spans along `dim`, cross-fading where they overlap."""
    if len(spans) == 1:
        return next(iter(parts))
    whole, done = torch.empty(0), 0
    for part, (start, stop) in zip(parts, spans, strict=True):
        if done == 0:
            shape = list(part.shape)
            shape[dim] = spans[-1][1] * unit
            whole = part.new_empty(shape)
        shared = (done - start) * unit
        if shared:
            weight = (torch.arange(shared, device=part.device, dtype=part.dtype) + 0.5) / shared
            both = whole.narrow(dim, start * unit, shared)
            both.copy_(
                torch.lerp(both, part.narrow(dim, 0, shared), weight if dim == -1 else weight[:, None])
            )
        fresh = part.narrow(dim, shared, part.shape[dim] - shared)
        whole.narrow(dim, start * unit + shared, fresh.shape[dim]).copy_(fresh)
        done = stop
    return whole
