"""The sound of a video as a small file of its own, to be kept where the video itself is not."""

from io import BytesIO
from pathlib import Path

import av

from regen.console import first_line
from regen.media.decoding import READ_ERRORS
from regen.media.files import VideoError
from regen.media.soundtrack import Soundtrack

SUFFIX = ".m4a"


def extract_audio(path: Path) -> bytes:
    """The first audio stream of `path` as an MP4 file: packets as they are where MP4 takes them, else AAC.

    Time 0 is the first frame of the video; MP4 keeps what begins before it. Raises VideoError when the sound
    can't be copied.
    """
    buffer = BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as output:
            sound = Soundtrack(path, output)
            try:
                sound.write_until(None)
            finally:
                sound.close()
    except READ_ERRORS as error:
        raise VideoError(
            f"The sound of {path} can't be copied ({first_line(error)}); remove it first."
        ) from None
    return buffer.getvalue()
