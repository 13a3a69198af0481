"""Source files of shards: keys, captions, classes."""

import codecs
import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regen.console import first_line, warn
from regen.data.video_sets import find_media
from regen.io import parse_json
from regen.media.files import VideoError
from regen.workers import JobError

MAX_STEM = 60  # of a key; with its digest, suffix and number of a shot a name stays below tar's 100
SIDECARS = (".txt", ".cls", ".json")
# The characters of Windows-1252 that are control characters in Latin-1, such as quotes and dashes.
WINDOWS_1252 = {
    code: bytes([code]).decode("cp1252", errors="ignore") or chr(code) for code in range(128, 160)
}


@dataclass(frozen=True)
class SourceFile:
    """A video or an image. `key` is unique, `stamp` changes with the file or its sidecars."""

    path: Path
    key: str
    stamp: str

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.path.absolute().parent.name


def list_sources(folders: Sequence[Path]) -> list[SourceFile]:
    """All videos and images below the folders, by path. Raises VideoError or ValueError if there are none."""
    missing = next((folder for folder in folders if not folder.exists()), None)
    if missing is not None:  # sets by name too: shards hold files, not folders of frames
        raise VideoError(f"There is no file or folder {missing}; check the path.")
    paths = find_media(folders)
    if not paths:
        names = ", ".join(map(str, folders))
        raise ValueError(f"There is no video or image in {names}; give a folder that holds some.")
    return [SourceFile(path, key_of(path, folders), _stamp(path)) for path in paths]


def key_of(path: Path, folders: Sequence[Path]) -> str:
    """A key of letters, digits, - and _: the file's name as far as possible, and a digest of its path.

    It depends on the path inside its folder and on the number of the folder, not on other files.
    """
    number = next(number for number, folder in enumerate(folders) if path.is_relative_to(folder))
    relative = os.fsencode(path.relative_to(folders[number]).as_posix())
    digest = hashlib.blake2b(b"%d/" % number + relative, digest_size=8).hexdigest()
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", plain)[:MAX_STEM].strip("_-")
    return f"{stem}-{digest}" if stem else digest


def _stamp(path: Path) -> str:
    """Size and time of the file, and of its sidecars."""
    parts = []
    for file in (path, *(_sidecar(path, suffix) for suffix in SIDECARS)):
        with suppress(OSError):
            status = file.stat()
            parts.append(f"{file.suffix}:{status.st_size}:{status.st_mtime_ns}")
    return " ".join(parts)


def read_sidecars(path: Path) -> tuple[str, int]:
    """Caption and class of KEY.mp4 from .txt, .cls and .json, or "" and -1. Raises JobError if invalid."""
    caption, label, content = (_read_text(_sidecar(path, suffix)) for suffix in SIDECARS)
    fields = {} if content is None else parse_sidecar(content, str(path.with_suffix(".json")))
    return parse_caption(caption, fields, str(path)), parse_class(label, fields, str(path))


def _sidecar(path: Path, suffix: str) -> Path:
    """The sidecar of a file, whose suffix may be in capitals; for a link also that of its target."""
    for media in (path, Path(os.path.realpath(path))):  # also of a link in a circle
        for file in (media.with_suffix(suffix), media.with_suffix(suffix.upper())):
            if file.is_file():
                return file
    return path.with_suffix(suffix)


def _read_text(path: Path) -> str | None:
    try:
        return decode_text(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JobError("sidecar", f"{path.name} can't be read ({first_line(error)})") from None


def decode_text(content: bytes, name: str) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, else as Windows reads Latin-1, with a warning.

    Lines end in a line feed, and there are no zeros.
    """
    encoding = _unicode_encoding(content)
    try:
        text = content.decode(encoding, errors="strict" if encoding == "utf-8-sig" else "replace")
    except UnicodeDecodeError:
        warn(f"{name} is not in UTF-8; it is read as Latin-1 (Windows-1252).")
        text = content.decode("latin-1").translate(WINDOWS_1252)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _unicode_encoding(content: bytes) -> str:
    """UTF-32 or UTF-16 by its mark, or UTF-16 by the zeros of Latin letters, else UTF-8."""
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}  # the first begins as UTF-16
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    found = next((name for mark, name in marks.items() if content.startswith(mark)), None)
    if found is not None:
        return found
    even, odd = content[::2].count(0), content[1::2].count(0)
    if len(content) % 2 or (even and odd) or 2 * max(even, odd) < len(content) // 2:
        return "utf-8-sig"
    return "utf-16-le" if odd else "utf-16-be" if even else "utf-8-sig"


def parse_caption(text: str | None, fields: dict[str, Any], name: str) -> str:
    """The caption of a sample from its text, or else from its JSON."""
    caption = fields.get("caption") if text is None else text
    if caption is not None and not isinstance(caption, str):
        raise JobError("sidecar", f'the "caption" in the JSON of {name} must be a text')
    return (caption or "").strip().encode(errors="replace").decode()  # JSON may hold half a character


def parse_class(text: str | None, fields: dict[str, Any], name: str) -> int:
    """The class of a sample from its text, or else from its JSON; -1 when there is none."""
    label = fields.get("class") if text is None else text.strip()
    if label is None:
        return -1
    if isinstance(label, str) and label.isdecimal():
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**31:
        raise JobError("sidecar", f"the class of {name} must be a whole number from 0 on, got {label!r}")
    return label


def parse_sidecar(content: str, name: str) -> dict[str, Any]:
    """The object in a JSON sidecar; empty when it is something else."""
    try:
        fields = parse_json(content)
    except ValueError as error:
        raise JobError("sidecar", f"the JSON of {name} is damaged ({error})") from None
    return fields if isinstance(fields, dict) else {}


def class_numbers(sources: Sequence[SourceFile]) -> dict[str, int]:
    """The names of the folders of the files, in alphabetical order, with their numbers."""
    return {name: number for number, name in enumerate(sorted({source.folder for source in sources}))}
