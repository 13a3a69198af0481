"""How large a tile fits into a budget of memory, and what to do when it does not after all."""

import re
import resource
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch

from regen.tiling import SMALLEST, Tile

T = TypeVar("T")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
OVERLAP = 32  # pixels
WHOLE_FRAME_BYTES = 26  # for each value of the clip: noise, answer and what the solver keeps beside them


@runtime_checkable
class HasMemoryEstimate(Protocol):
    """A model that can tell how much it needs."""

    @property
    def device(self) -> torch.device: ...

    def activation_bytes(self, frames: int, height: int, width: int) -> int: ...


def parse_memory(text: str) -> int:
    """Bytes of "8GB", "500 MB" or "2e9"; units are powers of 1000. Raises ValueError for anything else."""
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([KMGT]?)i?B?\s*", text, flags=re.IGNORECASE)
    try:
        value = float(match[1]) * UNITS[match[2].upper()] if match else 0.0
    except ValueError:
        value = 0.0
    if not 1 <= value < inf:
        raise ValueError(f"{text!r} is no amount of memory; give a number with a unit, such as 8GB or 500MB.")
    return int(value)


def used_memory(device: torch.device) -> int:
    """Bytes in use: allocated on a GPU, or the memory of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device; 1 TB where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    known = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return int(known[1]) * 1024 if known else 10**12


def largest_tile(
    model: HasMemoryEstimate, frames: int, height: int, width: int, budget: int | None
) -> Tile | None:
    """The largest tile with which `frames` frames of `height` x `width` pixels stay within `budget` bytes.

    None when they do without tiles. The budget is for all of the process (or of what it has on the GPU); by
    default four fifths of what is free may be taken too. The smallest tile is tried even where it should not
    fit: estimates are on the safe side.
    """
    if budget is None:
        budget = used_memory(model.device) + free_memory(model.device) * 4 // 5
    held = 3 * frames * height * width * WHOLE_FRAME_BYTES
    room = budget - used_memory(model.device) - held
    if model.activation_bytes(frames, height, width) <= room:
        return None
    tile = halve_tile(None, height, width)
    while tile is not None and model.activation_bytes(frames, tile.height, tile.width) > room:
        smaller = halve_tile(tile, height, width)
        if smaller is None:
            return tile
        tile = smaller
    return tile


def halve_tile(tile: Tile | None, height: int, width: int) -> Tile | None:
    """A tile of half the size of `tile`, or of the picture; None where there is nothing left to halve."""
    height, width, overlap = _up(height), _up(width), OVERLAP
    if tile is not None:  # what reaches beyond the picture saves nothing
        height, width, overlap = min(height, tile.height), min(width, tile.width), tile.overlap
    return Tile(height, width, min(overlap, height // 2, width // 2)).halved()


def _up(side: int) -> int:
    return max(SMALLEST, -(-side // 8) * 8)


class OomRetry:
    """The tile that work is done on; it halves whenever memory runs out, and stays so."""

    def __init__(self, tile: Tile | None) -> None:
        self.tile = tile

    def run(self, work: Callable[[Tile | None], T], height: int, width: int) -> T:
        """`work(tile)` for a picture of `height` x `width` pixels, again with half the tile while it fails.

        Raises MemoryError, in one sentence, when not even the smallest tile fits.
        """
        while True:
            try:
                return work(self.tile)
            except RuntimeError as error:
                if not is_oom(error):
                    raise
            smaller = halve_tile(
                self.tile, height, width
            )  # not inside `except`, which still holds the tensors
            if smaller is None:
                raise MemoryError(
                    f"Not enough memory for {width}x{height} pixels even in small tiles; choose a smaller "
                    "--size, --dtype bf16, or a device with more memory."
                )
            self.tile = smaller
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_oom(error: RuntimeError) -> bool:
    """Whether memory was wanting: CUDA has an error of its own, CPU's and MPS's allocators only say so."""
    said = ("can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)
