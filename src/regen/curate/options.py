"""Options of a build: filters and worker processes."""

import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Filters:
    """What is kept. The value 0 switches a limit off."""

    min_frames: int = 17
    """Minimum number of frames of a video: 17 make one chunk at ratio 16. 0: no limit, here and below."""
    max_frames: int = 0
    """Maximum number of frames of a video."""
    min_seconds: float = 0.0
    """Minimum duration of a video, in seconds."""
    max_seconds: float = 300.0
    """Maximum duration of a video, in seconds; training reads whole samples (see --cuts split)."""
    min_side: int = 128
    """Minimum length of the short side, in pixels."""
    cuts: Literal["drop", "split", "keep"] = "drop"
    """Videos with shot cuts: drop them, split them into a sample for each shot (re-encoded), or keep them and
    don't look for cuts."""
    cut_threshold: float = 3.0
    """How many times more than its neighbours a frame must differ from the previous one to be a cut."""
    min_motion: float = 0.1
    """Minimum motion: the mean change of a pixel in a quarter of a second, in levels of 255, without the
    first two levels, which may be noise."""
    max_bars: float = 0.05
    """Maximum part of the height or width that black bars take."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Of videos or images that look the same, also in another size or quality, keep the best one, or all."""
    duplicate_distance: float = 0.1
    """Maximum share of differing bits between the perceptual hashes of duplicates."""

    def validate(self) -> None:
        """Raises ValueError for values that are out of range."""
        numbers = {name: value for name, value in vars(self).items() if not isinstance(value, str)}
        check_minimums(self, **dict.fromkeys(numbers, 0))
        for low, high in (("min_frames", "max_frames"), ("min_seconds", "max_seconds")):
            if 0 < getattr(self, high) < getattr(self, low):
                raise ValueError(f"{flag_name(low)} must not be above {flag_name(high)}.")
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
        check_minimums(self, workers=1)
        if self.time_limit <= 0:
            raise ValueError(f"--time-limit must be positive, got {self.time_limit}.")


def check_minimums(options: object, **minimums: int) -> None:
    """Raise ValueError when one of these fields is below its minimum, unless it is None."""
    for name, minimum in minimums.items():
        value = getattr(options, name)
        if value is not None and value < minimum:
            raise ValueError(f"{flag_name(name)} must be at least {minimum}, got {value}.")


def flag_name(field: str) -> str:
    """The command-line option of a field."""
    return f"--{field.replace('_', '-')}"
