"""Claims: processes that share a folder make its parts, each by one of them.

A part is made in a folder of its own. Its claim is a lock of the operating system, which is released when the
process ends, however it ends.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

ALL = "all.lock"
RUNNING = ".running.lock"


class Claims:
    """Locks and unfinished parts in the folder `path`, which may be shared by several machines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Make the folder. Raises OSError when it can't be written to."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / ALL).touch()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run the block in one process at a time; the others wait."""
        with FileLock(self.path / ALL, fallback_to_soft=False):
            yield

    @contextmanager
    def claim(self, key: str) -> Iterator[Path | None]:
        """An empty folder in which the block makes the part `key`; None when another process is making it.

        Another process may have just finished the part: check whether it exists inside the block.
        """
        folder = self.path / hashlib.blake2b(os.fsencode(key), digest_size=16).hexdigest()
        with _try_lock(folder.with_suffix(".lock")) as is_mine:
            if not is_mine:
                yield None
                return
            try:
                shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
                folder.mkdir()
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what killed processes have left."""
        for folder in {path.with_suffix("") for path in self.path.iterdir() if path.name != ALL}:
            with _try_lock(folder.with_suffix(".lock")) as is_mine:
                if is_mine:
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def lock_folder(folder: Path, activity: str) -> Iterator[None]:
    """Keep other processes from the same `activity` in a folder, which is made if need be.

    A folder that stays empty is removed. Raises ValueError when another process has it, or it is not
    writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUNNING).touch()
    except OSError as error:
        raise ValueError(f"{folder} must be writable ({error.strerror}); choose another folder.") from None
    try:
        with _try_lock(folder / RUNNING) as is_mine:
            if not is_mine:
                raise ValueError(
                    f"Another {activity} runs in {folder}; wait for it, or choose another folder."
                )
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    """Whether the block has the lock, whose file is removed at the end; does not wait for it."""
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink()
        lock.release()
