"""Samples that can't be read, not in time, or not any more: counted by kind, each named once."""

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from regen.media.files import MissingFileError, VideoError

KINDS = ("damaged", "slow", "gone")
MAX_NAMED = 1000  # samples; of further ones there is only the count


class ReadTimeoutError(VideoError):
    """A sample that could not be read within its time limit."""


class Failures:
    """How many reads failed in this process, by kind, and the first samples that did, with the reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.slow: set[str] = set()

    def record(self, name: str, error: VideoError) -> int:
        """Count a failed read, say so once for each sample `name`, and return its kind (index of KINDS)."""
        kind = _kind_of(error)
        self.counts[kind] += 1
        if name not in self.reasons and len(self.reasons) < MAX_NAMED:
            self.reasons[name] = str(error)
            if kind == "slow":
                self.slow.add(name)
            # Said where it happens: a process that loads data has no other way.
            print(f"regen: warning: {error} Another video is drawn instead.", file=sys.stderr)
        return KINDS.index(kind)


def _kind_of(error: VideoError) -> str:
    if isinstance(error, ReadTimeoutError):
        return "slow"
    return "gone" if isinstance(error, MissingFileError) else "damaged"


@contextmanager
def time_limit(seconds: float | None, name: str) -> Iterator[None]:
    """Raise ReadTimeoutError, which names the sample `name`, when the block takes longer than `seconds`.

    Only the main thread of a process can be interrupted, and only between two steps of Python; elsewhere,
    and where another timer is running, nothing is limited.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise ReadTimeoutError(f"{name} could not be read in {seconds:g} seconds.")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
