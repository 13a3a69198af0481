"""Frames in image files: a folder of numbered images is a video, one image a video of one frame."""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from torch import Tensor

from regen.media.animation import Animation, is_animated
from regen.media.files import (
    BLACK,
    Colour,
    MissingFileError,
    Source,
    VideoError,
    holds_image,
    is_image,
    read_image,
)

FOLDER_RATE = Fraction(24)  # frames per second, which a folder does not tell: DAVIS's


def is_frames(source: Source) -> bool:
    """Whether `source` is an image or a folder."""
    return _is_folder(source) or holds_image(source)


def _is_folder(source: Source) -> bool:
    return isinstance(source, Path) and source.is_dir()


def list_frames(folder: Path) -> list[Path]:
    """The images in a folder in the order of the numbers in their names; hidden files are left out."""
    try:
        files = [path for path in folder.iterdir() if is_image(path) and not path.name.startswith(".")]
    except OSError:
        raise MissingFileError(f"The folder {folder} can't be read; check the path.") from None
    return sorted(files, key=_natural_order)


def _natural_order(path: Path) -> list[str | int]:
    """Text and numbers in turn, so that frame 10 follows frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


class ImageFrames:
    """The frames of one image, moving or not, or of a folder of images of one size, 24 per second.

    They are shrunk to a short side of at most `short_side`; `info` has the size in the files. Raises
    VideoError for a folder without images, and when a frame is damaged or of another size than the first.
    """

    def __init__(self, source: Source, short_side: int | None = None, background: Colour = BLACK) -> None:
        self._short_side, self._paths, self._background = short_side, [source], background
        self._animation: Animation | None = None
        is_folder = _is_folder(source)
        if not is_folder and is_animated(source):
            self._animation = Animation(source, short_side, background)
            self._first, self.info = self._animation[0], self._animation.info
            return
        if is_folder:
            self._paths = list(list_frames(Path(str(source))))
            if not self._paths:
                raise VideoError(f"{source} is a folder without images; give a video, or a folder of frames.")
        self._first, self.info = read_image(self._paths[0], short_side, background)
        if is_folder:
            frames = len(self._paths)
            self.info = replace(
                self.info,
                frame_rate=FOLDER_RATE,
                frames=frames,
                duration=float(frames / FOLDER_RATE),
                is_image=False,
            )

    def __len__(self) -> int:
        return len(self._paths) if self._animation is None else len(self._animation)

    def __getitem__(self, number: int) -> UInt8[Tensor, "h w 3"]:
        if number == 0:
            return self._first
        if self._animation is not None:
            return self._animation[number]
        image, info = read_image(self._paths[number], self._short_side, self._background)
        if (info.width, info.height) != (self.info.width, self.info.height):
            sizes = [f"{one.width}x{one.height}" for one in (self.info, info)]
            raise VideoError(f"{self._paths[number]} must be {sizes[0]} as the first frame, got {sizes[1]}.")
        return image

    def times(self) -> Float64[np.ndarray, " t"]:
        """The time of each frame in seconds."""
        if self._animation is not None:
            return self._animation.times
        return np.arange(len(self)) / float(self.info.frame_rate)

    def shown_at(self, times: Sequence[float], tolerance: float) -> list[int]:
        """The number of the last frame that starts no more than `tolerance` after each time, or else 0."""
        found = np.searchsorted(self.times(), np.asarray(times) + tolerance, side="right") - 1
        return found.clip(min=0).tolist()
