"""The folder of an evaluation: one file per result, written whole, and locks for processes that share it.

    clips.json  settings.json           what is frozen by the first run
    results/MODEL/SIZE-STEPS/CLIP.json  one result; `videos` and `features` have the same names below them
    clips.jsonl  summary.json           all results, and their means

A result's JSON is written last, so where it is the rest of the result is, too. What is being made stands in
.work until then. A lock belongs to a process and ends with it, however it ends.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

ORIGINAL = "original"  # stands for a model in the names of what is kept of the originals


def label_of(model: str) -> str:
    """The name of a model's folders in a report."""
    return model.replace("/", "--")


def key_of(model: str | None, size: str, steps: int, clip: str) -> str:
    """The name of a result's files: of a model at a size, for a clip by its label; None is the original."""
    if model is None:
        return f"{ORIGINAL}/{size}/{clip}"
    return f"{label_of(model)}/{size}-{steps}/{clip}"


class ReportFolder:
    """Reads and writes a report; `path` is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path, self.work = path, path / ".work"
        self.clips, self.settings = path / "clips.json", path / "settings.json"

    def open(self) -> None:
        """Raises ValueError when nothing can be written there."""
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            with (self.work / "report.lock").open("ab"):
                pass
        except OSError as error:
            raise ValueError(
                f"The report can't be kept in {self.path} ({error.strerror}); give another --report."
            ) from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """In the block: no other process is in such a block; waits for it if there is one."""
        with (self.work / "report.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claim(self, key: str) -> Iterator[Path | None]:
        """In the block: an empty folder in which this process alone makes the result `key`.

        None, at once, when another process is making it or has just made it.
        """
        place = self.work / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
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
        """Remove what processes have left that were killed after their result was there."""
        for lock in self.work.glob("*.lock"):
            if lock.name == "report.lock":
                continue
            with lock.open("ab") as file:
                if _lock(file.fileno(), lock):
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()

    def is_done(self, key: str) -> bool:
        """Whether the result `key` is there."""
        return self.result(key).is_file()

    def result(self, key: str) -> Path:
        return self.path / "results" / f"{key}.json"

    def features(self, key: str) -> Path:
        return self.path / "features" / f"{key}.npy"

    def publish(self, key: str, place: Path, row: dict[str, Any]) -> None:
        """Give video.mp4 and features.npy, where they are in the folder `place`, and `row` their names."""
        parts = {"video.mp4": self.path / "videos" / f"{key}.mp4", "features.npy": self.features(key)}
        for name, target in parts.items():
            if (place / name).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(place / name, target)
        self.write_json(self.result(key), row)

    def rows(self) -> list[dict[str, Any]]:
        """Every result of a contestant so far, in no order."""
        paths = (self.path / "results").glob("*/*/*.json")
        rows = map(self.read_json, paths)
        return [row for row in rows if "model" in row]

    def write_json(self, path: Path, content: Any) -> None:
        self.write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """A file that is whole under its name, or not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.work / f"{uuid4().hex}.tmp"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def read_json(self, path: Path) -> Any:
        """ValueError when the file is damaged."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path} is damaged; delete it or use another --report.") from None


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file without waiting; False also when it is no longer the one at `path`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False
