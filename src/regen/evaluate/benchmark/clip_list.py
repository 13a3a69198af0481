"""The clips that models are compared on: found once, frozen with their hashes, and the same ever after.

Means over different clips can't be compared, and neither can Fréchet distances of different sets. So the list
is written down at the first run, and a later one on the same report refuses to go on when a file has changed,
is missing or is new.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from regen.media.reader import VideoError, VideoReader, find_media

OnWarning = Callable[[str], None]
OnProgress = Callable[[int, int], None]  # files done, files in all


@dataclass(frozen=True)
class Clip:
    """A file below the folder of the data, by its path in there, and what is measured of it.

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
        """The name of everything that is kept about the clip, without a suffix."""
        return clip_label(self.name)

    @property
    def seed(self) -> int:
        """32 bits that follow from the content of the file."""
        return int(self.sha256[:8], 16)

    @property
    def rate(self) -> Fraction:
        return Fraction(self.frame_rate)


@dataclass(frozen=True)
class ClipList:
    """The clips in the order of their names, and by name the hash of each file that can't be read."""

    clips: tuple[Clip, ...]
    skipped: dict[str, str]

    def hashes(self) -> dict[str, str]:
        """The hash of every file by its name, readable or not."""
        return {clip.name: clip.sha256 for clip in self.clips} | self.skipped

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ClipList":
        """What `dataclasses.asdict` made of a list."""
        return cls(tuple(Clip(**clip) for clip in content["clips"]), content["skipped"])


def clip_label(name: str) -> str:
    """The path of a clip below the folder of the data as one word: "a/b.mp4" is "a--b"."""
    return Path(name).with_suffix("").as_posix().replace("/", "--")


def hash_files(data: Path) -> dict[str, str]:
    """SHA-256 of each video and image below the folder `data`, by its path in there, in order.

    Raises ValueError when the folder is missing or empty, or two files differ in their suffix alone.
    """
    if not data.is_dir():
        reason = "is a file" if data.exists() else "does not exist"
        raise ValueError(f"The folder of clips {data} {reason}; give a folder of videos with --data.")
    files = {path.relative_to(data).as_posix(): path for path in find_media([data])}
    if not files:
        raise ValueError(f"There is no video below {data}; give a folder of videos with --data.")
    labels = Counter(clip_label(name) for name in files)
    twins = [name for name in files if labels[clip_label(name)] > 1]
    if twins:
        raise ValueError(f"{twins[0]} and {twins[1]} below {data} need different names; rename one of them.")
    return {name: hash_file(path) for name, path in files.items()}


def read_clips(
    data: Path,
    max_frames: int | None,
    on_warning: OnWarning | None = None,
    on_progress: OnProgress | None = None,
) -> ClipList:
    """Decode each file below `data` once, at most `max_frames` of it; damaged ones are left out and told of.

    Raises ValueError when there is none, or none that can be read.
    """
    hashes = hash_files(data)
    clips, skipped = [], {}
    for done, (name, sha256) in enumerate(hashes.items()):
        if on_progress is not None:
            on_progress(done, len(hashes))
        try:
            clips.append(_read(data / name, name, sha256, max_frames))
        except VideoError as error:
            skipped[name] = sha256
            if on_warning is not None:
                on_warning(f"left out: {error}")
    if not clips:
        raise ValueError(f"None of the {len(skipped)} files below {data} can be read; give whole videos.")
    return ClipList(tuple(clips), skipped)


def check_unchanged(frozen: ClipList, data: Path, report: Path) -> None:
    """Raises ValueError, naming the first file, when the files below `data` are not those of the list."""
    before, now = frozen.hashes(), hash_files(data)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) == now.get(name):
            continue
        what = "is missing" if name not in now else "has changed" if name in before else "is new"
        raise ValueError(
            f"{data / name} {what} since the list of clips in {report} was frozen; "
            "undo that, or use another --report."
        )


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, name: str, sha256: str, max_frames: int | None) -> Clip:
    with VideoReader(path, short_side=8) as reader:
        frames = sum(1 for _ in islice(reader, max_frames))
        info, damage = reader.info, reader.damage
    if damage is not None:
        raise VideoError(f"{path}: {damage}.")
    return Clip(name, sha256, frames, info.height, info.width, str(info.frame_rate))
