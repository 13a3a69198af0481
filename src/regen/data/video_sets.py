"""Finding videos and images: below folders, and in published sets by name.

    FOLDER            videos and images by their suffixes, recursively
    frames:FOLDER     each folder of images at or below FOLDER is one video
    davis:FOLDER      DAVIS: JPEGImages/Full-Resolution/CLIP/00000.jpg, else JPEGImages/480p
    mcl-jcv:FOLDER    MCL-JCV: videoSRC01_1920x1080_30.yuv or videoSRC01.mp4, to videoSRC30
    ucf101:FOLDER     UCF-101: CLASS/v_CLASS_g01_c01.avi, in FOLDER or in FOLDER/UCF-101

davis/2017/val:FOLDER and ucf101/testlist01:FOLDER are the clips of one of the set's own lists, which are in
ImageSets/2017/val.txt and ucfTrainTestlist/testlist01.txt.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regen.io import file_sha256
from regen.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoError
from regen.media.frame_folder import list_frames

SETS = {"davis": ("256", "512"), "mcl-jcv": ("256", "512"), "ucf101": ("256",), "frames": ()}  # with sizes
NO_SHA256 = 64 * "0"  # of a file that can't be opened
LAYOUTS = {
    "davis": "JPEGImages",
    "mcl-jcv": "videoSRC01_1920x1080_30.yuv or videoSRC01.mp4",
    "ucf101": "UCF-101, or its folders of classes",
    "frames": "the images, or their folders",
}
MCL_JCV = re.compile(
    r"videoSRC(\d\d)(_\d+x\d+(_[\d.]+(-\w+)?)?)?", re.IGNORECASE
)  # not its compressed versions


@dataclass(frozen=True)
class VideoSet:
    """A folder, or a published set by name with one of its lists, if any."""

    kind: str  # one of SETS, or "" for a plain folder
    clip_list: str
    folder: Path

    @classmethod
    def parse(cls, address: Path) -> "VideoSet":
        """Read "SET:FOLDER", "SET/LIST:FOLDER" or "FOLDER". What exists by that name is a plain path."""
        prefix, colon, folder = str(address).partition(":")
        kind, _, clip_list = prefix.partition("/")
        kind = kind.lower()
        if not colon or kind not in SETS or address.exists():
            return cls("", "", address)
        return cls(kind, clip_list, Path(folder or "."))

    @property
    def name(self) -> str:
        """The set and its list: "davis/2017/val"; "" for a plain folder."""
        return f"{self.kind}/{self.clip_list}" if self.clip_list else self.kind

    @property
    def paper_sizes(self) -> tuple[str, ...]:
        """Sizes at which REGEN is measured on this set, such as "256"; none for others."""
        return SETS.get(self.kind, ())

    @property
    def root(self) -> Path:
        """The folder to which the names of the clips are relative."""
        options = {
            "davis": [self.folder / "JPEGImages" / size for size in ("Full-Resolution", "480p")],
            "ucf101": [self.folder / "UCF-101"],
            "frames": [self.folder.parent] if self.folder.is_dir() and list_frames(self.folder) else [],
        }.get(self.kind, [])
        return next((folder for folder in options if folder.is_dir()), self.folder)

    def find(self) -> list[Path]:
        """The clips, sorted by path: files, or folders of frames.

        Raises VideoError when the folder does not exist, has another layout, or lacks a clip of the list.
        """
        if not self.folder.exists():
            raise VideoError(f"There is no file or folder {self.folder}; check the path.")
        if self.clip_list and self.kind not in ("davis", "ucf101"):
            raise VideoError(f"Only davis and ucf101 have lists, got {self.name}; give {self.kind}:FOLDER.")
        found = self._find()
        if self.kind and not found:
            raise VideoError(
                f"{self.folder} has no clip of {self.kind}; give the folder that holds {LAYOUTS[self.kind]}."
            )
        return self._listed(found) if self.clip_list else sorted(found)

    def _find(self) -> list[Path]:
        if not self.kind:
            return _walk(self.folder) if self.folder.is_dir() else [self.folder]
        if self.kind == "frames":
            return list(dict.fromkeys(path.parent for path in _walk(self.folder, IMAGE_SUFFIXES)))
        if self.kind == "davis":
            return [path for path in self.root.iterdir() if path.is_dir() and list_frames(path)]
        if self.kind == "ucf101":
            return list(self.root.glob("*/v_*.avi"))
        files = [path for path in _walk(self.folder, VIDEO_SUFFIXES) if MCL_JCV.fullmatch(path.stem)]
        by_number: dict[str, Path] = {}  # the original, not a compressed version of it
        for path in sorted(files, key=lambda path: (path.suffix.lower() not in (".yuv", ".y4m"), path)):
            by_number.setdefault(path.stem[: len("videoSRC00")].lower(), path)
        return list(by_number.values())

    def _listed(self, found: Sequence[Path]) -> list[Path]:
        """The clips of the list, without a suffix and labels: "bear", "CLASS/v_CLASS_g01_c01.avi 1"."""
        folders = {
            "davis": [self.folder / "ImageSets"],
            "ucf101": [parent / "ucfTrainTestlist" for parent in (self.folder, self.root.parent)],
        }[self.kind]
        files = [folder / f"{self.clip_list}.txt" for folder in (*folders, self.folder)]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise VideoError(f"{self.name} needs the list {files[0]}; unpack it there, or omit its name.")
        by_name = {path.relative_to(self.root).as_posix(): path for path in found}
        names = [line.split()[0] for line in file.read_text("utf-8").splitlines() if line.strip()]
        if not names:
            raise VideoError(f"{file} lists no clip; unpack it again, or omit its name.")
        missing = next((name for name in names if name not in by_name), None)
        if missing is not None:
            raise VideoError(f"{file} lists {missing}, which {self.root} lacks; unpack the whole set.")
        return sorted({by_name[name] for name in names})


def find_media(addresses: Sequence[Path]) -> list[Path]:
    """All videos and images of some files, folders and sets, sorted, each once.

    In folders the suffix decides and hidden files are left out; a file that is named itself is kept whatever
    its suffix. In frames: and davis: a video is a folder. Raises VideoError when a path does not exist.
    """
    found: dict[str, Path] = {}  # by real path, so that links do not count twice
    for address in addresses:
        for file in VideoSet.parse(address).find():
            found.setdefault(os.path.realpath(file), file)
    return sorted(found.values())


def check_outside(output: Path, data: Sequence[str | Path], flag: str) -> None:
    """Raise ValueError when a folder of `data` has `output` in it, so that outputs would become data."""
    place = output.resolve()
    for address in data:
        if "://" in str(address):
            continue
        folder = VideoSet.parse(Path(address)).folder.resolve()
        if place == folder or folder in place.parents:
            raise ValueError(f"{flag} must lie outside of the data, got {output} in {address}.")


def check_exist(data: Sequence[str | Path]) -> None:
    """Raise VideoError when a part of `data` does not exist; addresses are not looked at."""
    for address in (address for address in data if "://" not in str(address)):
        if not VideoSet.parse(Path(address)).folder.exists():
            raise VideoError(f"There is no file or folder {address}; check the path.")


def media_sha256(path: Path) -> str:
    """SHA-256 of a file, or of the names and sums of the frames in a folder; 0 when it can't be opened."""
    if not path.is_dir():
        if not path.is_file():  # a pipe could be read once
            return NO_SHA256
        try:
            return file_sha256(path)
        except OSError:
            return NO_SHA256
    lines = [f"{file_sha256(frame)} {frame.name}\n" for frame in list_frames(path)]
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


def _walk(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES + VIDEO_SUFFIXES) -> list[Path]:
    seen: set[str] = set()  # real paths, so that links that form a circle end
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        files = [] if real in seen else files
        seen.add(real)
        paths = (Path(root, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in suffixes]
    return found
