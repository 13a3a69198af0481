"""Cache of decoded frames on disk, as uint8 arrays."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64, UInt8

from regen.console import first_line
from regen.io import atomic_path
from regen.media.files import MissingFileError
from regen.media.reader import VideoReader

FORMAT = 1  # part of the file names; raise it when what lies in the files changes
OPEN_FILES = 64


class FrameCache:
    """A folder with one array `t h w 3` per video or image, and another one of its frame times.

    The name of a file depends on the path, size and date of its video and on `short_side`, so a changed video
    is decoded again. Several processes may share the folder.
    """

    def __init__(self, folder: Path, short_side: int | None) -> None:
        self.folder, self.short_side = folder, short_side
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failure(error) from None

    def read(self, path: Path) -> tuple[UInt8[np.ndarray, "t h w 3"], Float64[np.ndarray, " t"]]:
        """Frames (mapped from disk) and times in seconds, decoded if new. Raises VideoError or ValueError."""
        frames = self._name(path)
        if not frames.exists():
            self._fill(path, frames)
        return _mapped(frames)

    def _name(self, path: Path) -> Path:
        try:
            status = path.stat()
        except OSError as error:
            raise MissingFileError(f"{path} can't be opened ({first_line(error)}) any more.") from None
        key = f"{FORMAT}|{path.absolute()}|{status.st_size}|{status.st_mtime_ns}|{self.short_side}"
        return self.folder / f"{hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()}.npy"

    def _fill(self, path: Path, frames: Path) -> None:
        with VideoReader(path, short_side=self.short_side) as reader:
            try:
                with atomic_path(frames) as temporary:  # replaced last, since it marks the entry as complete
                    times = _write_frames(reader, temporary)
                    with (
                        atomic_path(_times_of(frames)) as temporary_times,
                        temporary_times.open("wb") as file,
                    ):
                        np.save(file, np.array(times, dtype=np.float64))
            except OSError as error:
                raise self._failure(error) from None

    def _failure(self, error: OSError) -> ValueError:
        return ValueError(
            f"The frame cache {self.folder} can't be written ({first_line(error)}); free some space."
        )


def _times_of(frames: Path) -> Path:
    return frames.with_suffix(".times.npy")


def _write_frames(reader: VideoReader, path: Path) -> list[float]:
    """Append frame after frame; the header, whose length is constant, is written twice."""
    times: list[float] = []
    with path.open("wb") as file:
        for frame in reader:
            if not times:
                size = _write_header(file, (0, *frame.image.shape))
            file.write(frame.image.numpy().data)
            times.append(frame.time)
        file.seek(0)
        assert _write_header(file, (len(times), *frame.image.shape)) == size
    return times


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the header of a .npy file of bytes; returns its length."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


@lru_cache(maxsize=OPEN_FILES)
def _mapped(frames: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.lib.format.open_memmap(frames, mode="r"), np.load(_times_of(frames))
