"""Inputs and outputs of commands, checked before a model is loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from regen.io import check_output

if TYPE_CHECKING:
    from regen.media.files import Colour


@contextmanager
def opened(path: Path, background: "Colour") -> Iterator[Path]:
    """The file with the content of `path` (see `spooled`), after it was opened as a video or image once.

    Raises VideoError when it is missing or is neither.
    """
    from regen.media.reader import VideoReader
    from regen.media.spool import spooled

    with spooled(path) as source:
        VideoReader(source, background=background).close()
        yield source


def check_videos(*outputs: Path | None, inputs: Sequence[Path | None] = ()) -> None:
    """Raise ValueError unless all outputs can become a video or image each, other files than the inputs."""
    from regen.media.writer import SUFFIXES

    for path in filter(None, outputs):
        check_output(path, SUFFIXES)
    check_different(*outputs, *inputs)


def check_different(*paths: Path | None) -> None:
    """Raise ValueError when two of the files are the same."""
    given = [path.resolve() for path in paths if path is not None]
    if len(set(given)) < len(given):
        raise ValueError("All inputs and outputs must be different files; choose another name for one.")
