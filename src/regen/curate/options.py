"""Options of a build: filters and worker processes."""

import os
from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True)
class Filters:
    """What is kept. The value 0 switches a limit off."""

    min_frames: int = 17
    """Fewest frames of a video: 17 make one chunk at ratio 16. 0: no limit, here and below."""
    max_frames: int = 0
    """Most frames of a video."""
    min_seconds: float = 0.0
    """Shortest video, in seconds."""
    max_seconds: float = 300.0
    """Longest video, in seconds. Training reads whole samples, so cut long videos (--cuts split)."""
    min_side: int = 128
    """Fewest pixels of the short side."""
    cuts: Literal["drop", "split", "keep"] = "drop"
    """Videos with shot cuts: drop them, split them into a sample for each shot (encoded again), or keep them
    and don't look for cuts."""
    cut_threshold: float = 3.0
    """How many times more than its neighbours a frame must differ from the previous one to be a cut."""
    min_motion: float = 0.1
    """Least motion: the mean change of a pixel in a quarter of a second, in levels of 255, without the first
    two levels, which may be noise."""
    max_bars: float = 0.05
    """Largest part of the height or width that black bars may take."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Of videos or images that look the same, also in another size or quality, keep the best one, or all."""
    duplicate_distance: float = 0.1
    """Largest share of differing bits between the perceptual hashes of duplicates."""

    def validate(self) -> None:
        """Raises ValueError for values that are out of range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{_flag(field.name)} must be at least 0, got {value}.")
        for low, high in (("min_frames", "max_frames"), ("min_seconds", "max_seconds")):
            if 0 < getattr(self, high) < getattr(self, low):
                raise ValueError(f"{_flag(low)} must not be above {_flag(high)}, which keeps nothing.")
        if self.duplicate_distance > 0.25:
            raise ValueError(f"--duplicate-distance must be at most 0.25, got {self.duplicate_distance}.")


@dataclass(frozen=True)
class PoolOptions:
    """How the work is distributed; the shards do not depend on it."""

    workers: int = os.cpu_count() or 1
    """Worker processes."""
    time_limit: float = 60.0
    """Seconds for a file, beyond what its size and number of frames explain."""
    retry: bool = False
    """Try again files that took too long or ended the process that read them."""

    def validate(self) -> None:
        """Raises ValueError for values that are out of range."""
        if self.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {self.workers}.")
        if self.time_limit <= 0:
            raise ValueError(f"--time-limit must be positive, got {self.time_limit}.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
