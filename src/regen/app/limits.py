"""Limits of the app: how long and how large the videos are that it takes and makes."""

from dataclasses import dataclass
from pathlib import Path

from regen.codec.memory import parse_memory
from regen.media.files import shrunk_size
from regen.media.pixels import Size
from regen.media.reader import VideoReader

ADVICE = "start the app with"


@dataclass(frozen=True)
class Limits:
    """Frames of a video, pixels of its longer side as computed, and bytes of an upload (such as "100MB")."""

    max_frames: int = 300
    max_side: int = 640
    max_upload: str = "100MB"

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise ValueError(f"--max-frames must be at least 1, got {self.max_frames}.")
        if self.max_side < 16:
            raise ValueError(f"--max-side must be at least 16 pixels, got {self.max_side}.")
        parse_memory(self.max_upload)

    @property
    def upload_bytes(self) -> int:
        return parse_memory(self.max_upload)

    def check_upload(self, path: Path) -> None:
        """Raise ValueError for a file that is too large."""
        size = path.stat().st_size
        if size > self.upload_bytes:
            raise ValueError(
                f"{path.name} has {size / 1e6:.1f} MB, and at most {self.max_upload} are allowed here; give "
                f"a smaller file, or {ADVICE} a larger --max-upload."
            )

    def check_frames(self, frames: int, what: str, advice: str) -> None:
        """Raise ValueError for a video, `what` in words, of more frames than allowed."""
        if frames > self.max_frames:
            raise ValueError(
                f"{what} has {frames} frames, and at most {self.max_frames} are allowed here; {advice}, or "
                f"{ADVICE} --max-frames {frames}."
            )

    def check_clip(self, path: Path, short_side: int | None) -> tuple[Size, int]:
        """The size of a clip shrunk to a short side (None: as it is), even, and its number of frames.

        Raises ValueError for a file that is not a video, and for clips that are too long or too large.
        """
        self.check_upload(path)
        with VideoReader(path) as reader:
            info = reader.info
            frames = 1 if info.is_image else len(reader.frame_times())
        name = f"{path.name} ({float(frames / info.frame_rate):.1f} seconds)"
        self.check_frames(frames, name, "give a shorter one")
        width, height = shrunk_size(info.width, info.height, short_side)
        if max(width, height) > self.max_side:
            raise ValueError(
                f"{path.name} has {width}x{height} pixels, and at most {self.max_side} a side are allowed "
                f"here; choose a smaller size, or {ADVICE} --max-side {max(width, height)}."
            )
        return Size(max(8, height - height % 2), max(8, width - width % 2)), frames
