"""The clips of a benchmark: listed once with their hashes, then frozen.

Means over different clips can't be compared, nor can Fréchet distances of different sets. So the first run
writes the list, and later runs on the same report stop when a file was changed, removed or added.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from regen.data.video_sets import VideoSet, find_media, media_sha256
from regen.media.pixels import Size
from regen.media.reader import VideoError, VideoReader

OnWarning = Callable[[str], None]
OnProgress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True)
class Clip:
    """A file, or a folder of frames, by its path below the root of the data, and its size.

    `frames` are those that are measured; `height` and `width` are in pixels, as shown; `frame_rate` is a
    fraction, in frames per second.
    """

    name: str
    sha256: str
    frames: int
    height: int
    width: int
    frame_rate: str

    @property
    def label(self) -> str:
        return clip_label(self.name)

    @property
    def seed(self) -> int:
        """32 bits of the file's hash."""
        return int(self.sha256[:8], 16)

    def sides(self, size: Size | None) -> tuple[int, int]:
        """Height and width in pixels when it is fitted to `size`, if any."""
        return (self.height, self.width) if size is None else (size.height, size.width)

    @property
    def rate(self) -> Fraction:
        return Fraction(self.frame_rate)


@dataclass(frozen=True)
class ClipList:
    """The clips by name, and the hashes of unreadable files by name."""

    clips: tuple[Clip, ...]
    skipped: dict[str, str]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ClipList":
        """The inverse of `dataclasses.asdict`."""
        return cls(tuple(Clip(**clip) for clip in content["clips"]), content["skipped"])


def clip_label(name: str) -> str:
    """A path below the data folder as one word: "a/b.mp4" is "a--b"."""
    return Path(name).with_suffix("").as_posix().replace("/", "--")


def hash_files(data: Path) -> dict[str, str]:
    """SHA-256 by relative path. Raises ValueError without files, or for two that differ only in suffix."""
    videos = VideoSet.parse(data)
    if not videos.folder.is_dir():
        raise ValueError(f"{data} is not a folder; give a folder of videos with --data.")
    files = {path.relative_to(videos.root).as_posix(): path for path in find_media([data])}
    if not files:
        raise ValueError(f"There is no video below {data}; give a folder of videos with --data.")
    labels = Counter(map(clip_label, files))
    duplicates = [name for name in files if labels[clip_label(name)] > 1]
    if duplicates:
        raise ValueError(f"{duplicates[0]} and {duplicates[1]} below {data} need different names.")
    return {name: media_sha256(path) for name, path in files.items()}


def read_clips(
    data: Path,
    max_frames: int | None,
    on_warning: OnWarning = lambda text: None,
    on_progress: OnProgress = lambda done, total: None,
) -> ClipList:
    """Decode up to `max_frames` of each clip; warn of damaged ones. Raises ValueError if none is left."""
    hashes, root = hash_files(data), VideoSet.parse(data).root
    clips, skipped = [], {}
    for done, (name, sha256) in enumerate(hashes.items()):
        on_progress(done, len(hashes))
        try:
            clips.append(_read(root / name, name, sha256, max_frames))
        except VideoError as error:
            skipped[name] = sha256
            on_warning(f"skipped: {error}")
    if not clips:
        raise ValueError(f"None of the {len(skipped)} files below {data} can be read.")
    return ClipList(tuple(clips), skipped)


def check_unchanged(frozen: ClipList, data: Path, report: Path) -> None:
    """Raises ValueError, naming the first file, when the files below `data` are not those of the list."""
    before = {clip.name: clip.sha256 for clip in frozen.clips} | frozen.skipped
    now, root = hash_files(data), VideoSet.parse(data).root
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            change = "was removed" if name not in now else "was changed" if name in before else "was added"
            raise ValueError(
                f"{root / name} {change} after {report} was begun; undo that or use another --report."
            )


def _read(path: Path, name: str, sha256: str, max_frames: int | None) -> Clip:
    with VideoReader(path, short_side=8) as reader:
        frames = sum(1 for _ in islice(reader, max_frames))
        info, damage = reader.info, reader.damage
    if damage is not None:
        raise VideoError(f"{path}: {damage}.")
    return Clip(name, sha256, frames, info.height, info.width, str(info.frame_rate))
