"""Slices through time: one row of pixels of every frame, stacked (REGEN, Fig. 9).

Time runs down and x to the right: motion draws slanted edges, and a jump at the border of a chunk breaks all
of them in one horizontal line. Slices of several reconstructions are shown side by side, with ticks at the
borders in a gutter next to each.
"""

import torch
from einops import repeat
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.transcode import GREY, WHITE, label

GUTTER = 8  # pixels left of each slice


class SliceCollector:
    """Collects one row of pixels of each frame: row `row` from the top, by default the middle one."""

    def __init__(self, row: int | None = None) -> None:
        self.row = row
        self._lines: list[Tensor] = []

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames, any number. Raises ValueError when they have no such row."""
        height = frames.shape[1]
        row = height // 2 if self.row is None else self.row
        if not 0 <= row < height:
            raise ValueError(f"row must be between 0 and {height - 1}, got {row}.")
        self._lines.append(frames[:, row].cpu().clone())

    def picture(self) -> UInt8[Tensor, "t w 3"]:
        """One line per frame, the first on top. Raises ValueError before the first frame."""
        if not any(len(lines) for lines in self._lines):
            raise ValueError("A slice needs at least one frame, got none.")
        return torch.cat(self._lines)


def compare_slices(
    slices: dict[str, UInt8[Tensor, "t _ 3"]], chunk_frames: int, lines_per_frame: int = 4
) -> UInt8[Tensor, "h2 w2 3"]:
    """Slices of equally many frames side by side, each under its name.

    Every frame is repeated `lines_per_frame` times. A tick two pixels tall marks each border between chunks
    of `chunk_frames` frames. Raises ValueError without slices or for numbers under 1.
    """
    if not slices:
        raise ValueError("A picture needs at least one slice, got none.")
    if chunk_frames < 1 or lines_per_frame < 1:
        raise ValueError(
            f"chunk_frames and lines_per_frame must be at least 1, got {chunk_frames} and {lines_per_frame}."
        )
    assert len({len(lines) for lines in slices.values()}) == 1, "slices must have equally many frames"
    columns = []
    for name, lines in slices.items():
        ticks = _ticks(len(lines), chunk_frames, lines_per_frame)
        picture = torch.cat([ticks, repeat(lines, "t w c -> (t n) w c", n=lines_per_frame)], dim=1)
        columns.append(torch.cat([label(name, picture.shape[1]), picture]))
    return torch.cat(columns, dim=1)


def _ticks(frames: int, chunk_frames: int, lines_per_frame: int) -> UInt8[Tensor, "h gutter 3"]:
    """The gutter: grey, with a white tick over the last line of a chunk and the first of the next."""
    gutter = torch.tensor(GREY, dtype=torch.uint8).repeat(frames * lines_per_frame, GUTTER, 1)
    for border in range(chunk_frames, frames, chunk_frames):
        first = border * lines_per_frame
        gutter[first - 1 : first + 1, GUTTER // 4 :] = torch.tensor(WHITE, dtype=torch.uint8)
    return gutter
