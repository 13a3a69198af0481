"""What a build keeps beside the shards, so that it goes on after an interruption.

SHARDS/.build/config.json      what is built; another build does not go there
SHARDS/.build/analysis.jsonl   what was found out of each file, a line each
SHARDS/.build/unwritten.jsonl  samples that could not be encoded
SHARDS/.build/encoded/ID.mp4   encoded again, until their shard is there
SHARDS/.build/shards/N.json    the rows of a shard that is there, and which samples it holds
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from regen.curate.analysis import Analysis
from regen.data.shards import INDEX


class BuildFolder:
    """The folder of shards `path`, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path, self._work = path, path / ".build"
        self.encoded, self.shards = self._work / "encoded", self._work / "shards"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """In the block no other build works here. Raises ValueError when one does, or nothing can be written.

        What a killed build has left half done is removed.
        """
        try:
            self.encoded.mkdir(parents=True, exist_ok=True)
            self.shards.mkdir(exist_ok=True)
            lock = (self._work / "lock").open("ab")
        except OSError as error:
            raise ValueError(
                f"Shards can't be written to {self.path} ({error.strerror}); give another --out."
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"Another process builds shards in {self.path}; wait for it or give another --out."
                ) from None
            for left in (*self.path.glob("*.part"), *self._work.rglob("*.part"), *self.encoded.glob(".*")):
                left.unlink()
            yield

    def begin(self, config: dict[str, Any]) -> None:
        """Raises ValueError when the folder was begun with another configuration, and names a difference."""
        file = self._work / "config.json"
        if not file.exists():
            if any(self.path.glob("*.tar")):
                raise ValueError(
                    f"{self.path} holds shards from elsewhere; give another --out, or index them by "
                    f"regen shards index {self.path}."
                )
            write_json(file, config)
        before = json.loads(file.read_text())
        for name in (*config, *before):
            if before.get(name) != config.get(name):
                raise ValueError(
                    f"{self.path} was begun with {name} = {before.get(name)}, not {config.get(name)}; give "
                    "the same again, or another --out."
                )

    def analyses(self) -> dict[str, Analysis]:
        """What is known so far, by key; the last word on each."""
        rows = _read_lines(self._work / "analysis.jsonl")
        return {row["key"]: Analysis.from_json(row) for row in rows}

    @contextmanager
    def analysis_log(self) -> Iterator[TextIO]:
        """A file to which lines are appended by `append`."""
        with (self._work / "analysis.jsonl").open("a", encoding="utf-8") as file:
            yield file

    def unwritten(self) -> dict[str, str]:
        """Why samples could not be encoded, by their id."""
        return {row["id"]: row["text"] for row in _read_lines(self._work / "unwritten.jsonl")}

    def note_unwritten(self, sample: str, text: str) -> None:
        with (self._work / "unwritten.jsonl").open("a", encoding="utf-8") as file:
            append(file, {"id": sample, "text": text})

    def forget_unwritten(self) -> None:
        (self._work / "unwritten.jsonl").unlink(missing_ok=True)

    def written(self, number: int) -> dict[str, Any] | None:
        """What shard `number` holds, when it is there."""
        record = self.shards / f"{number:05d}.json"
        if not record.exists() or not (self.path / shard_name(number)).exists():
            return None
        content: dict[str, Any] = json.loads(record.read_text())
        return content

    def note_written(self, number: int, record: dict[str, Any]) -> None:
        write_json(self.shards / f"{number:05d}.json", record)

    def forget_index(self) -> None:
        """Before a shard changes: an index that does not fit would give other samples."""
        (self.path / INDEX).unlink(missing_ok=True)

    def forget_shards(self, count: int) -> None:
        """Remove the shards of an earlier build from number `count` on."""
        for record in self.shards.glob("*.json"):
            if int(record.stem) >= count:
                self.forget_index()
                (self.path / shard_name(int(record.stem))).unlink(missing_ok=True)
                record.unlink()

    def finish(self, index: bytes) -> None:
        """The index, with which the shards are complete."""
        write_bytes(self.path / INDEX, index)
        shutil.rmtree(self.encoded)


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


def append(file: TextIO, row: dict[str, Any]) -> None:
    """One line, at once with the system, so that only a failing machine loses it."""
    file.write(json.dumps(row) + "\n")
    file.flush()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """All rows of a file of JSON lines; a last line that was cut off by an interruption is removed."""
    if not path.exists():
        return []
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        file.truncate(whole)
    return [json.loads(line) for line in content[:whole].splitlines()]


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A file that is whole under its name, or not there."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
