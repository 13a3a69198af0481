"""Raw video (.yuv): frames without a header, whose size and rate stand in the name or in a sidecar.

The name has _WIDTHxHEIGHT_RATE, as in MCL-JCV, videoSRC01_1920x1080_30.yuv, and in UVG,
Beauty_1920x1080_120fps_420_8bit_YUV.yuv: YUV 4:2:0 of 8 bits, or of 10 where it says 10bit. Otherwise
NAME.json lies beside NAME.yuv:

    {"width": 1920, "height": 1080, "frame_rate": "30000/1001", "pixel_format": "yuv420p"}
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.video.format import VideoFormat

from regen.io import read_json
from regen.media.files import Blob, Source, VideoError

SUFFIX = ".yuv"
IN_NAME = re.compile(r"_(\d{1,5})x(\d{1,5})_(\d{1,3}(?:\.\d{1,3})?)(?![\dx])")


@dataclass(frozen=True)
class RawVideo:
    """What FFmpeg must know of raw video; `pixel_format` is one of its names, such as yuv420p."""

    width: int
    height: int
    frame_rate: Fraction
    pixel_format: str = "yuv420p"

    @property
    def options(self) -> dict[str, str]:
        """Options of FFmpeg's demuxer rawvideo."""
        size, rate = f"{self.width}x{self.height}", str(self.frame_rate)
        return {"video_size": size, "framerate": rate, "pixel_format": self.pixel_format}

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame. Raises ValueError for an unknown pixel format."""
        planes = VideoFormat(self.pixel_format, self.width, self.height).components
        return sum(plane.width * plane.height * (1 + (plane.bits > 8)) for plane in planes)


def describe_raw_video(source: Source) -> RawVideo:
    """Size, rate and format of a raw video from its sidecar, or else from its name.

    Raises VideoError when neither has them, or the file does not hold whole frames of this size.
    """
    try:
        raw = _described(source)
        frame_bytes = raw.frame_bytes
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise VideoError(
            f"{source} is raw video without a size and rate; name it NAME_1920x1080_30.yuv, or give "
            'NAME.json with "width", "height", "frame_rate" and "pixel_format".'
        ) from None
    size = len(source.content) if isinstance(source, Blob) else source.stat().st_size
    if size % frame_bytes:
        raise VideoError(
            f"{source} must hold whole frames of {frame_bytes} bytes ({raw.width}x{raw.height}, "
            f"{raw.pixel_format}), got {size} bytes; correct the size in its name or NAME.json."
        )
    return raw


def _described(source: Source) -> RawVideo:
    """Raises ValueError, KeyError or TypeError where the description is missing or wrong."""
    sidecar = None if isinstance(source, Blob) else source.with_suffix(".json")
    fields: dict[str, Any] = read_json(sidecar) if sidecar is not None and sidecar.is_file() else {}
    match = IN_NAME.search(Path(str(source)).stem)
    if "width" in fields:
        size, rate = (fields["width"], fields["height"]), str(fields["frame_rate"])
        pixel_format = str(fields.get("pixel_format", "yuv420p"))
    elif match is not None:
        size, rate = (match[1], match[2]), match[3]
        pixel_format = "yuv420p10le" if "10bit" in Path(str(source)).stem.lower() else "yuv420p"
    else:
        raise ValueError(f"no size in {source}")
    raw = RawVideo(int(size[0]), int(size[1]), Fraction(rate), pixel_format)
    if raw.width <= 0 or raw.height <= 0 or raw.frame_rate <= 0:
        raise ValueError(f"{raw} has no frame")
    return raw
