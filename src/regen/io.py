"""Atomic writing of files, JSON files, checks of settings and checksums."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
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


def check_output(path: Path, suffixes: Sequence[str] = ()) -> None:
    """Raise ValueError unless a file `path`, which ends in one of `suffixes`, can be written.

    To be called before long work.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        known = "in " + suffixes[0] if len(suffixes) == 1 else f"in one of {', '.join(suffixes)}"
        raise ValueError(f"The output must end {known}, got {path}.")
    if path.is_dir():
        raise ValueError(f"The output must be a file, but {path} is a folder; give a name in it.")
    check_folder(path.parent)


def make_folder(folder: Path, option: str) -> None:
    """Make a folder if it is missing. Raises ValueError, which names the option, when it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} must be a writable folder, got {folder} ({error.strerror}).") from None
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise ValueError unless files can be written into a folder."""
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"The output folder {folder} must exist and be writable; choose another one.")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; ? stands for the parts of file names that are no text."""
    write_bytes(path, text.encode(errors="replace"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, indented."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError when it is none, or nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError when it is not JSON, OSError when it can't be read."""
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, but it can't be parsed: {error}.") from None


def check_types(record: Any) -> None:
    """Raise TypeError unless each field of a dataclass made from JSON, and its items, have their types."""
    kind: Any = type(record)
    for name, hint in _types(kind).items():
        if not _has_type(getattr(record, name), hint):
            raise TypeError(f"{name} must be {hint}, got {getattr(record, name)!r}")


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _has_type(value: Any, hint: Any) -> bool:
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_has_type(value, kind) for kind in kinds)
    if origin is list:
        return isinstance(value, list) and all(_has_type(item, kinds[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _has_type(part, kind) for pair in value.items() for part, kind in zip(pair, kinds, strict=True)
        )
    if origin is tuple and isinstance(value, tuple):
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return len(kinds) == len(value) and all(map(_has_type, value, kinds))
    if origin is Literal:
        return value in kinds
    if is_dataclass(hint) and type(value) is hint:
        return all(_has_type(getattr(value, name), kind) for name, kind in _types(hint).items())  # type: ignore[arg-type]
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return hint is Any or type(value) is hint


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
