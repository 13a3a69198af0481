"""What is kept of a collection of videos and images, and why the rest is not."""

from dataclasses import dataclass, fields
from typing import Literal

# Why something is dropped, in the order in which it is looked for.
REASONS = {
    "damaged": "can't be read, or not in full",
    "slow": "took longer than the time limit",
    "killed": "ended the process that read it",
    "sidecar": "has a caption or class that can't be read",
    "short": "too short",
    "long": "too long",
    "small": "too few pixels",
    "cuts": "has shot cuts inside",
    "static": "hardly moves",
    "bars": "has black bars",
    "duplicate": "looks like another one",
    "unwritten": "could not be encoded again",
}


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
    """Longest video: whoever trains reads a sample as a whole, so cut long ones (--cuts split)."""
    min_side: int = 128
    """Fewest pixels of the short side."""
    cuts: Literal["drop", "split", "keep"] = "drop"
    """Videos with shot cuts: drop them, split them into a sample for each shot (encoded again), or keep them
    as they are and don't look for cuts."""
    cut_threshold: float = 3.0
    """A cut is where a frame differs from the last one so many times as much as its neighbours do."""
    min_motion: float = 0.1
    """Least motion: by how many of 255 levels pixels change in a quarter of a second, on average, the first
    two levels of each not counted, which may be noise."""
    max_bars: float = 0.05
    """Largest part of the height or width that black bars may take."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Of videos or images that look the same, also in another size or quality, keep the best one, or all."""
    duplicate_distance: float = 0.1
    """Two look the same when their perceptual hashes differ in at most this share of the bits."""

    def validate(self) -> None:
        """Raises ValueError for values that make no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"--{field.name.replace('_', '-')} is {value}; give 0 or more.")
        for low, high in (("min_frames", "max_frames"), ("min_seconds", "max_seconds")):
            if 0 < getattr(self, high) < getattr(self, low):
                names = f"--{low.replace('_', '-')}", f"--{high.replace('_', '-')}"
                raise ValueError(f"Nothing is kept when {names[0]} is above {names[1]}; lower the first one.")
        if self.duplicate_distance > 0.25:
            raise ValueError(
                f"--duplicate-distance is {self.duplicate_distance}; above 0.25 videos that have nothing in "
                "common look the same."
            )


@dataclass(frozen=True)
class Measurements:
    """What the filters look at, of a whole file or of one shot.

    `seconds` includes the last frame's own time. `motion` is None where there are too few frames to tell,
    `bars` the larger share of height or width, `cuts` the times of the shot cuts in seconds.
    """

    frames: int
    seconds: float
    width: int
    height: int
    is_image: bool
    cuts: tuple[float, ...]
    motion: float | None
    bars: float


@dataclass(frozen=True)
class Rejection:
    """Why something is not kept: one of REASONS, the measured value, its limit, and both in words."""

    reason: str
    value: int | float
    limit: int | float
    text: str


def check(measured: Measurements, filters: Filters) -> Rejection | None:
    """The first reason not to keep it, or None. Duplicates are not looked for here."""
    return (None if measured.is_image else _check_length(measured, filters)) or _check_picture(
        measured, filters
    )


def _check_length(measured: Measurements, filters: Filters) -> Rejection | None:
    frames, seconds = measured.frames, measured.seconds
    if frames < filters.min_frames:
        return Rejection("short", frames, filters.min_frames, f"{frames} frames")
    if seconds < filters.min_seconds:
        return Rejection("short", seconds, filters.min_seconds, f"{seconds:.2f} s")
    if 0 < filters.max_frames < frames:
        return Rejection("long", frames, filters.max_frames, f"{frames} frames")
    if 0 < filters.max_seconds < seconds:
        return Rejection("long", seconds, filters.max_seconds, f"{seconds:.0f} s")
    return None


def _check_picture(measured: Measurements, filters: Filters) -> Rejection | None:
    side = min(measured.width, measured.height)
    if side < filters.min_side:
        return Rejection("small", side, filters.min_side, f"{measured.width} x {measured.height} pixels")
    if filters.cuts == "drop" and measured.cuts:
        count = len(measured.cuts)
        text = f"{count} cut{'s' * (count > 1)}, the first at {measured.cuts[0]:.2f} s"
        return Rejection("cuts", count, 0, text)
    if measured.motion is not None and not measured.is_image and measured.motion < filters.min_motion:
        return Rejection("static", measured.motion, filters.min_motion, f"motion {measured.motion:.2f}")
    if 0 < filters.max_bars < measured.bars:
        return Rejection("bars", measured.bars, filters.max_bars, f"bars take {100 * measured.bars:.0f} %")
    return None
