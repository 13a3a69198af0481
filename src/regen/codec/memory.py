"""Memory: the largest tile that fits a budget, and smaller ones after running out."""

import re
from collections.abc import Callable
from math import inf
from typing import TypeVar

import psutil
import torch

from regen.embedders.interface import Embedder
from regen.tiling import MIN_TILE_SIDE, Tile

T = TypeVar("T")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
OVERLAP = 32  # pixels
WHOLE_FRAME_BYTES = 26  # for each value of the clip: noise, prediction and the state of the solver


def parse_memory(text: str) -> int:
    """Bytes of "8GB", "500 MB" or "2e9", in powers of 1000. Raises ValueError for anything else."""
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([KMGT]?)i?B?\s*", text, flags=re.IGNORECASE)
    try:
        value = float(match[1]) * UNITS[match[2].upper()] if match else 0.0
    except ValueError:
        value = 0.0
    if not 1 <= value < inf:
        raise ValueError(f"An amount of memory must be a number such as 8GB or 500MB, got {text!r}.")
    return int(value)


def used_memory(device: torch.device) -> int:
    """Bytes allocated on the GPU, or the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def free_memory(device: torch.device) -> int:
    """Bytes available on the GPU, or in main memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def largest_tile(model: Embedder, frames: int, height: int, width: int, budget: int | None) -> Tile | None:
    """The largest tile for `frames` frames of `height` x `width` pixels in `budget` bytes, if any is needed.

    The budget covers the whole process, or all that it has on the GPU; the default is the memory in use plus
    80 % of the free memory. The smallest tile is returned even if its (conservative) estimate exceeds the
    budget.
    """
    if budget is None:
        budget = used_memory(model.device) + free_memory(model.device) * 4 // 5
    frame_bytes = 3 * frames * height * width * WHOLE_FRAME_BYTES
    available = budget - used_memory(model.device) - frame_bytes
    tile, sides = None, (height, width)
    while model.activation_bytes(frames, *sides) > available:
        smaller = halve_tile(tile, height, width)
        if smaller is None:
            break
        tile, sides = smaller, (smaller.height, smaller.width)
    return tile


def halve_tile(tile: Tile | None, height: int, width: int) -> Tile | None:
    """Half of `tile`, or of a picture of `height` x `width` pixels; None when it can't be halved."""
    height, width, overlap = _round_up(height), _round_up(width), OVERLAP
    if tile is not None:  # the part outside the picture saves no memory
        height, width, overlap = min(height, tile.height), min(width, tile.width), tile.overlap
    return Tile(height, width, min(overlap, height // 2, width // 2)).halved()


def _round_up(side: int) -> int:
    return max(MIN_TILE_SIDE, -(-side // 8) * 8)


class OomRetry:
    """Repeats work with half the tile whenever memory runs out, and keeps the smaller tile."""

    def __init__(self, tile: Tile | None) -> None:
        self.tile = tile

    def run(self, work: Callable[[Tile | None], T], height: int, width: int) -> T:
        """Return `work(tile)` for a picture of this size. Raises MemoryError when no tile fits."""
        while True:
            try:
                return work(self.tile)
            except RuntimeError as error:
                if not is_oom(error):
                    raise
            smaller = halve_tile(self.tile, height, width)  # outside `except`, which keeps tensors alive
            if smaller is None:
                raise MemoryError(
                    f"Not enough memory for {width}x{height} pixels even in small tiles; choose a smaller "
                    "--size, --dtype bf16, or a device with more memory."
                )
            self.tile = smaller
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_oom(error: RuntimeError) -> bool:
    """Whether the error is an out-of-memory error; on the CPU and MPS only the message identifies it."""
    messages = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)
