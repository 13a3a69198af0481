"""Atomic writing of files, JSON files, checks of settings and checksums."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` for the block to write; it replaces `path` at the end.

    Readers see the old file or the new one, whole and synced to disk. After an error the temporary file is
    removed and `path` is as before. The temporary name is hidden, short (for any name that `path` may have)
    and ends in .partial, so that no pattern such as *.json finds it.
    """
    temporary = path.with_name(f".{uuid4().hex[:16]}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename in (str(temporary), temporary):
            with suppress(AttributeError):  # the names of PyAV's errors can't be set
                error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, indented."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError when it is not JSON, OSError when it can't be read."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, but it can't be parsed: {error}.") from None


def check_settings(what: str, before: dict[str, Any], now: dict[str, Any], advice: str) -> None:
    """Raise ValueError that names all differences, unless `what` has the same settings as before."""
    differences = [
        f"{name} was {before.get(name, 'absent')} and is now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(f"{what} has other settings ({'; '.join(differences)}); {advice}.")


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut: POSIX requires a sync of the folder itself."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str | None, advice: str) -> str:
    """SHA-256 of a file that must begin with `expected`: 8 to 64 hexadecimal digits, or None for any.

    Raises ValueError when the file can't be read or has another checksum; `advice` ends the message and says
    how to get the right file.
    """
    expected = (expected or "").lower()
    if expected and not re.fullmatch("[0-9a-f]{8,64}", expected):
        raise ValueError(f"A SHA-256 must have 8 to 64 hexadecimal digits, got {expected!r}.")
    try:
        actual = file_sha256(path)
    except OSError:
        raise ValueError(f"{path} must be a readable file; {advice}.") from None
    if not actual.startswith(expected):
        raise ValueError(f"{path} must have the SHA-256 {expected}, got {actual}; {advice}.")
    return actual
