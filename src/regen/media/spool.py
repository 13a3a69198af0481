"""Inputs that are no files on disk, copied into one: pipes, standard input and addresses."""

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

import fsspec

from regen.console import first_line
from regen.media.files import MissingFileError, VideoError

ADDRESS = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/+(.+)$")  # a Path has one slash where there were two
TIMEOUT = 60.0  # seconds without an answer
STANDARD_INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


@contextmanager
def spooled(path: Path) -> Iterator[Path]:
    """The path of a file with the content of `path`, for the block.

    That is `path` itself, or a temporary copy of a pipe, of standard input (also by the name "-") or of what
    is at an address that fsspec knows, such as https://host/a.mp4. Raises MissingFileError.
    """
    address = ADDRESS.match(str(path))
    if address and address[1].lower() == "file":
        yield Path(url2pathname("/" + address[2]))
        return
    if not address and not _is_pipe(path):
        yield path
        return
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="regen-"))
        name = f"{address[1]}://{address[2]}" if address else str(path)
        copy = Path(folder, "input" + Path(urlsplit(name).path if address else name).suffix)
        try:
            source = stack.enter_context(_opened(path, address))
            with copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        except Exception as error:  # what a remote address raises is up to the package that reads it
            raise MissingFileError(f"{name} can't be read ({first_line(error)}); give a file.") from None
        try:
            yield copy
        except VideoError as error:
            raise type(error)(str(error).replace(str(copy), name)) from None


@contextmanager
def _opened(path: Path, address: re.Match[str] | None) -> Iterator[BinaryIO]:
    if address and address[1].lower() in ("http", "https"):
        with urlopen(f"{address[1]}://{address[2]}", timeout=TIMEOUT) as response:
            yield response
    elif address:
        with fsspec.open(f"{address[1]}://{address[2]}", "rb") as file:
            yield file
    elif str(path) in STANDARD_INPUT:
        yield sys.stdin.buffer
    else:
        with path.open("rb") as file:
            yield file


def _is_pipe(path: Path) -> bool:
    if str(path) in STANDARD_INPUT:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)
