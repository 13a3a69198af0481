"""Moving images: PNG, WebP and AVIF files of several frames, read as videos."""

from fractions import Fraction
from io import BytesIO

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image
from torch import Tensor

from regen.console import first_line
from regen.media.files import (
    PILLOW_ERRORS,
    Blob,
    Colour,
    Source,
    VideoError,
    VideoInfo,
    read_start,
    shrink,
    to_rgb,
)

FORMATS = ("PNG", "WEBP", "AVIF", "GIF")  # the pages of a TIFF file are no frames
MIN_DURATION, DURATION = 10, 100  # milliseconds; browsers show frames of at most the first for the second


def is_animated(source: Source) -> bool:
    """Whether an image has several frames; False where it can't be read."""
    try:
        read_start(source)
        with Image.open(BytesIO(source.content) if isinstance(source, Blob) else source) as image:
            return image.format in FORMATS and getattr(image, "n_frames", 1) > 1
    except PILLOW_ERRORS:
        return False


class Animation:
    """The frames of a moving image by number, shrunk to a short side of at most `short_side`.

    `times` are in seconds; `info` has the size in the file. Raises VideoError when it is damaged.
    """

    def __init__(self, source: Source, short_side: int | None, background: Colour) -> None:
        self._source, self._short_side, self._background = source, short_side, background
        self._content = source.content if isinstance(source, Blob) else source.read_bytes()
        self._image = Image.open(BytesIO(self._content))
        durations = [self._load(number) for number in range(getattr(self._image, "n_frames", 1))]
        ends = np.cumsum(durations) / 1000
        self.times: Float64[np.ndarray, " t"] = np.concatenate([[0.0], ends[:-1]])
        seconds = Fraction(round(1000 * sum(durations)), 1_000_000)
        rate = (len(durations) / seconds).limit_denominator(10_000)
        self.info = VideoInfo(*self._image.size, rate, len(durations), float(seconds), False, False)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, number: int) -> UInt8[Tensor, "h w 3"]:
        self._load(number)
        return shrink(to_rgb(self._image, self._background), self._short_side)

    def _load(self, number: int) -> float:
        """Decode a frame; returns its duration in milliseconds."""
        try:
            if number < self._image.tell():  # Pillow can't go back in every format
                self._image = Image.open(BytesIO(self._content))
            self._image.seek(number)
            self._image.load()
        except PILLOW_ERRORS as error:
            raise VideoError(f"{self._source} is damaged at frame {number} ({first_line(error)}).") from None
        duration = float(self._image.info.get("duration") or 0)
        return duration if duration > MIN_DURATION else DURATION
