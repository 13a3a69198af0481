"""Small pictures of moments of videos, made in processes that a damaged file can't harm."""

import base64
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from regen.curate.workers import ExtendDeadline, Failure, PoolOptions, run_jobs
from regen.media.reader import VideoReader

HEIGHT = 108  # pixels
QUALITY = 78  # of JPEG


@dataclass(frozen=True)
class ThumbnailSpec:
    """Moments (path, seconds), to be seen side by side."""

    moments: tuple[tuple[str, float], ...]


def thumbnails(glimpses: Sequence[ThumbnailSpec], work: PoolOptions) -> dict[ThumbnailSpec, list[str]]:
    """JPEG files in base64, one for each moment; without those of files that can't be read."""
    with closing(
        run_jobs(make_thumbnails, dict.fromkeys(glimpses), work.workers, work.time_limit)
    ) as results:
        return {glimpse: result for glimpse, result in results if not isinstance(result, Failure)}


def make_thumbnails(glimpse: ThumbnailSpec, extend: ExtendDeadline) -> list[str]:
    """The pictures of one glimpse."""
    pictures = []
    for path, moment in glimpse.moments:
        with VideoReader(Path(path), threads=1, short_side=2 * HEIGHT) as reader:
            pictures.append(as_jpeg(reader.read_at([moment])[0].numpy(), HEIGHT))
    return pictures


def as_jpeg(image: UInt8[np.ndarray, "h w 3"], height: int) -> str:
    """The image at that height, as JPEG in base64."""
    target = BytesIO()
    scaled(image, height).save(target, "JPEG", quality=QUALITY)
    return base64.b64encode(target.getvalue()).decode()


def scaled(image: UInt8[np.ndarray, "h w 3"], height: int) -> Image.Image:
    """The image at that height, in its own proportions."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
