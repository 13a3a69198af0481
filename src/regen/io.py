"""Weights that users download themselves: a file counts only when its SHA-256 is the expected one."""

import hashlib
import re
from pathlib import Path


def checked_sum(path: Path, expected: str | None, advice: str) -> str:
    """The SHA-256 of the file as 64 hexadecimal digits, which begins with `expected` (8 digits or more).

    None expects nothing. ValueError when there is no such file, or its sum is another; `advice` ends the
    sentence and tells how to get the right one.
    """
    expected = expected or ""
    if expected and not re.fullmatch("[0-9a-fA-F]{8,64}", expected):
        raise ValueError(
            f"{expected!r} is no SHA-256; give its 64 hexadecimal digits, or the first 8 or more."
        )
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise ValueError(f"There is no file {path} that can be read; {advice}.") from None
    if not actual.startswith(expected.lower()):
        raise ValueError(f"The file {path} has the SHA-256 {actual} and not {expected.lower()}; {advice}.")
    return actual
