"""State of a build, from which it continues after an interruption."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from filelock import FileLock, Timeout

from regen.console import first_line
from regen.curate.analysis import Analysis
from regen.data.shards import INDEX
from regen.io import check_settings, parse_json, read_json, write_bytes, write_json


def shard_name(number: int) -> str:
    return f"{number:05d}.tar"


class BuildFolder:
    """The folder of shards `path`, with the state from which an interrupted build continues.

    .build/config.json      options; a build with others is refused
    .build/analysis.jsonl   analyses of files, a line each
    .build/unwritten.jsonl  samples that could not be encoded
    .build/encoded/ID.mp4   encoded samples, until their shard is written
    .build/shards/N.json    rows and sample ids of a written shard
    """

    def __init__(self, path: Path) -> None:
        self.path, self._state = path, path / ".build"
        self.encoded, self.shards = self._state / "encoded", self._state / "shards"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other builds out, and tidy up after a killed one. Raises ValueError, also for any OSError."""
        try:
            self.encoded.mkdir(parents=True, exist_ok=True)
            self.shards.mkdir(exist_ok=True)
            with FileLock(self._state / "lock", blocking=False, fallback_to_soft=False):
                for leftover in (*self.path.glob("*.partial"), *self._state.rglob("*.partial")):
                    leftover.unlink()
                yield
        except Timeout:
            raise ValueError(f"Another process builds shards in {self.path}; wait for it.") from None
        except OSError as error:
            raise ValueError(
                f"The shards can't be written to {self.path} ({first_line(error)}); free some space or see "
                "to its permissions, and the same command continues."
            ) from None

    def forget_all(self) -> None:
        """Remove the shards, index and state of an earlier build; shards from elsewhere stay."""
        if not (self._state / "config.json").exists():
            return
        self.forget_shards(0)
        self.forget_index()
        for folder in (self.encoded, self.shards):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        for name in ("analysis.jsonl", "unwritten.jsonl", "config.json"):  # the mark of a build goes last
            (self._state / name).unlink(missing_ok=True)

    def check_config(self, config: dict[str, Any]) -> None:
        """Raises ValueError when the folder belongs to a build with other options."""
        file = self._state / "config.json"
        if not file.exists():
            if any(self.path.glob("*.tar")):
                raise ValueError(
                    f"{self.path} holds shards from elsewhere; give another --out, or index them by "
                    f"regen shards index {self.path}."
                )
            write_json(file, config)
        before = read_json(file)
        check_settings(
            str(self.path), before, config, "give the same again, another --out, or --fresh to begin anew"
        )

    def analyses(self) -> dict[str, Analysis]:
        """The latest analysis of each file, by key."""
        rows = _read_lines(self._state / "analysis.jsonl")
        return {row["key"]: Analysis.from_json(row) for row in rows}

    def analysis_log(self) -> TextIO:
        return (self._state / "analysis.jsonl").open("a", encoding="utf-8")

    def unwritten(self) -> dict[str, str]:
        """Why samples could not be encoded, by their id."""
        return {row["id"]: row["text"] for row in _read_lines(self._state / "unwritten.jsonl")}

    def note_unwritten(self, sample: str, text: str) -> None:
        with (self._state / "unwritten.jsonl").open("a", encoding="utf-8") as file:
            append_line(file, {"id": sample, "text": text})

    def forget_unwritten(self) -> None:
        (self._state / "unwritten.jsonl").unlink(missing_ok=True)

    def written(self, number: int) -> dict[str, Any] | None:
        """The record of shard `number`, when both exist."""
        record = self.shards / f"{number:05d}.json"
        if not record.exists() or not (self.path / shard_name(number)).exists():
            return None
        content: dict[str, Any] = read_json(record)
        return content

    def note_written(self, number: int, record: dict[str, Any]) -> None:
        write_json(self.shards / f"{number:05d}.json", record)

    def forget_index(self) -> None:
        """Remove the index before a shard changes, since it would point to other samples."""
        (self.path / INDEX).unlink(missing_ok=True)

    def forget_shards(self, count: int) -> None:
        """Remove the shards of an earlier build from number `count` on."""
        for record in self.shards.glob("*.json"):
            if int(record.stem) >= count:
                self.forget_index()
                (self.path / shard_name(int(record.stem))).unlink(missing_ok=True)
                record.unlink()

    def finish(self, index: bytes) -> None:
        """Write the index, which completes the shards."""
        write_bytes(self.path / INDEX, index)
        shutil.rmtree(self.encoded)


def append_line(file: TextIO, row: dict[str, Any]) -> None:
    """Append one line and flush it, so that only a failing machine loses it."""
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
    return [parse_json(line) for line in content[:whole].splitlines()]
