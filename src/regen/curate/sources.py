"""Source files of shards: keys, captions, classes."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regen.console import first_line
from regen.data.catalog import find_media
from regen.workers import JobError

MAX_STEM = 60  # of a key; with its digest, suffix and number of a shot a name stays below tar's 100
SIDECARS = (".txt", ".cls", ".json")


@dataclass(frozen=True)
class SourceFile:
    """A video or an image. `key` is unique, `stamp` changes with the file or what lies beside it."""

    path: Path
    key: str
    stamp: str

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def folder(self) -> str:
        """The name of the folder that it lies in."""
        return self.path.absolute().parent.name


def list_sources(folders: Sequence[Path]) -> list[SourceFile]:
    """All videos and images below the folders, in the order of their paths.

    Raises VideoError when a folder does not exist, ValueError when there is nothing in any of them.
    """
    paths = find_media(folders)
    if not paths:
        places = ", ".join(map(str, folders))
        raise ValueError(f"There is no video or image in {places}; give a folder that holds some.")
    return [SourceFile(path, key_of(path, folders), _stamp(path)) for path in paths]


def key_of(path: Path, folders: Sequence[Path]) -> str:
    """Letters, digits, - and _ only: the file's name as far as it goes, and a digest of where it lies.

    It depends on the place inside its folder and on the number of the folder, not on what else there is.
    """
    number = next(number for number, folder in enumerate(folders) if path.is_relative_to(folder))
    place = os.fsencode(path.relative_to(folders[number]).as_posix())
    digest = hashlib.blake2b(b"%d/" % number + place, digest_size=8).hexdigest()
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", plain)[:MAX_STEM].strip("_-")
    return f"{stem}-{digest}" if stem else digest


def _stamp(path: Path) -> str:
    """Size and time of the file, and of each sidecar that there is."""
    parts = []
    for file in (path, *(path.with_suffix(suffix) for suffix in SIDECARS)):
        try:
            facts = file.stat()
        except OSError:
            continue
        parts.append(f"{file.suffix}:{facts.st_size}:{facts.st_mtime_ns}")
    return " ".join(parts)


def read_sidecars(path: Path) -> tuple[str, int]:
    """(caption, class) of a file from KEY.txt, KEY.cls and KEY.json beside it; "" and -1 without them.

    Raises JobError when one of them is no such thing.
    """
    facts = _json_of(path.with_suffix(".json"))
    caption, label = _text_of(path.with_suffix(".txt")), _text_of(path.with_suffix(".cls"))
    return parse_caption(caption, facts, str(path)), parse_class(label, facts, str(path))


def parse_caption(text: str | None, facts: dict[str, Any], name: str) -> str:
    """The caption of a sample from its text, or else from its JSON."""
    caption = facts.get("caption") if text is None else text
    if caption is not None and not isinstance(caption, str):
        raise JobError("sidecar", f'the "caption" in the JSON of {name} is no text')
    return (caption or "").strip().encode(errors="replace").decode()  # JSON may hold half a character


def parse_class(text: str | None, facts: dict[str, Any], name: str) -> int:
    """The class of a sample from its text, or else from its JSON; -1 when there is none."""
    label = facts.get("class") if text is None else text.strip()
    if label is None:
        return -1
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**31:
        raise JobError("sidecar", f"the class of {name} is {label!r}, not a whole number from 0 on")
    return label


def parse_json(content: str, name: str) -> dict[str, Any]:
    """What a JSON sidecar says; nothing when it is no object."""
    try:
        facts = json.loads(content)
    except ValueError as error:
        raise JobError("sidecar", f"the JSON of {name} is damaged ({error})") from None
    return facts if isinstance(facts, dict) else {}


def class_numbers(sources: Sequence[SourceFile]) -> dict[str, int]:
    """The names of the folders that files lie in, numbered in their order."""
    names = sorted({source.folder for source in sources})
    return {name: number for number, name in enumerate(names)}


def _json_of(path: Path) -> dict[str, Any]:
    content = _text_of(path)
    return {} if content is None else parse_json(content, str(path))


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JobError("sidecar", f"{path.name} can't be read ({first_line(error)})") from None
