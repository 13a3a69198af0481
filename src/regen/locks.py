"""Claims: any number of processes, on machines that share a folder, make its parts, each by one of them.

What is being made stands in a folder of its own until it is whole. A claim is a lock that belongs to a
process and ends with it, however it ends.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

ALL = "all.lock"


class Claims:
    """The locks and the unfinished parts, in the folder `path`. It holds no open file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Make the folder. Raises OSError when nothing can be written there."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ALL).open("ab"):
            pass

    @contextmanager
    def alone(self) -> Iterator[None]:
        """In the block: no other process is in such a block; waits for it if there is one."""
        with (self.path / ALL).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claim(self, key: str) -> Iterator[Path | None]:
        """In the block: an empty folder in which this process alone makes the part `key`.

        None, at once, when another process is making it or has just made it.
        """
        place = self.path / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        with place.with_suffix(".lock").open("ab") as file:
            mine = _lock(file.fileno(), place.with_suffix(".lock"))
            if mine:
                shutil.rmtree(place, ignore_errors=True)  # what a process that was killed has left
                place.mkdir()
            try:
                yield place if mine else None
            finally:
                if mine:
                    shutil.rmtree(place, ignore_errors=True)
                    place.with_suffix(".lock").unlink()

    def tidy(self) -> None:
        """Remove what processes have left that were killed after their part was there."""
        for lock in self.path.glob("*.lock"):
            if lock.name == ALL:
                continue
            with lock.open("ab") as file:
                if _lock(file.fileno(), lock):
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()

    def write_text(self, path: Path, text: str) -> None:
        """A file that is whole under its name, or not there; `path` lies on the disk of the claims."""
        while True:
            with self.claim(uuid4().hex) as place:
                if place is not None:  # None: a process that tidies up was at the lock first
                    with (place / "text").open("w", encoding="utf-8") as file:
                        file.write(text)
                        file.flush()
                        os.fsync(file.fileno())
                    path.parent.mkdir(parents=True, exist_ok=True)
                    (place / "text").replace(path)
                    return


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file without waiting; False also when it is no longer the one at `path`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
