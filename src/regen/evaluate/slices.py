"""One row of pixels of every frame under another: seams between chunks as lines (REGEN paper, figure 9).

Time runs down and x to the right, so motion draws slanted edges, and a jump at the border of a chunk breaks
all of them in one horizontal line. Slices of several reconstructions stand side by side: their borders are
at the same height, and ticks beside each slice, never over it, tell where.
"""

import torch
from einops import repeat
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.streams import GREY, WHITE, label

GUTTER = 8  # pixels left of each slice, for the ticks


class SliceCollector:
    """Keeps one row of pixels of each frame of a video: row `row` from the top, or the middle one."""

    def __init__(self, row: int | None = None) -> None:
        self.row = row
        self._lines: list[Tensor] = []

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames, any number; ValueError when they have no such row."""
        height = frames.shape[1]
        row = height // 2 if self.row is None else self.row
        if not 0 <= row < height:
            raise ValueError(f"There is no row {row} in frames {height} high; choose 0 to {height - 1}.")
        self._lines.append(frames[:, row].cpu().clone())

    def picture(self) -> UInt8[Tensor, "t w 3"]:
        """The slice: one line per frame, the first on top; ValueError before the first frame."""
        if not any(len(lines) for lines in self._lines):
            raise ValueError("There is no frame to take a slice of; give the collector at least one.")
        return torch.cat(self._lines)


def compare_slices(
    slices: dict[str, UInt8[Tensor, "t _ 3"]], chunk_frames: int, lines_per_frame: int = 4
) -> UInt8[Tensor, "h2 w2 3"]:
    """Slices of equally many frames side by side, each under its name, in one picture.

    Every frame is `lines_per_frame` pixels tall (repeated, not smoothed). A tick two pixels tall marks each
    border between chunks of `chunk_frames` frames. Raises ValueError without a slice or with a number
    under 1.
    """
    if not slices:
        raise ValueError("There is no slice to show; give at least one.")
    if chunk_frames < 1 or lines_per_frame < 1:
        raise ValueError(
            f"{chunk_frames} frames per chunk and {lines_per_frame} pixels per frame make no picture; "
            "give 1 or more of both."
        )
    assert len({len(lines) for lines in slices.values()}) == 1, "show slices of equally many frames"
    columns = []
    for name, lines in slices.items():
        ticks = _ticks(len(lines), chunk_frames, lines_per_frame)
        picture = torch.cat([ticks, repeat(lines, "t w c -> (t n) w c", n=lines_per_frame)], dim=1)
        columns.append(torch.cat([label(name, picture.shape[1]), picture]))
    return torch.cat(columns, dim=1)


def _ticks(frames: int, chunk_frames: int, lines_per_frame: int) -> UInt8[Tensor, "h gutter 3"]:
    """The gutter: dark, with a bright tick over the last line of a chunk and the first of the next."""
    gutter = torch.tensor(GREY, dtype=torch.uint8).repeat(frames * lines_per_frame, GUTTER, 1)
    for border in range(chunk_frames, frames, chunk_frames):
        first = border * lines_per_frame
        gutter[first - 1 : first + 1, GUTTER // 4 :] = torch.tensor(WHITE, dtype=torch.uint8)
    return gutter
