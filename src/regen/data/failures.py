"""Failed reads of samples, counted by kind; time limits of reads."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from regen.console import warn
from regen.media.files import MissingFileError, VideoError

KINDS = ("damaged", "slow", "gone")
MAX_NAMED = 1000  # samples that are listed; the others are only counted
HAS_TIMER = "SIGALRM" in signal.__dict__


class ReadTimeoutError(VideoError):
    """A sample could not be read within its time limit."""


class Failures:
    """Numbers of failed reads in this process by kind, and the first samples that failed, with the reason."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self.slow: set[str] = set()

    def record(self, name: str, error: VideoError) -> int:
        """Count a failed read, warn once for each sample `name`, and return its kind (index of KINDS)."""
        kind = "gone" if isinstance(error, MissingFileError) else "damaged"
        kind = "slow" if isinstance(error, ReadTimeoutError) else kind
        self.counts[kind] += 1
        if name not in self.reasons and len(self.reasons) < MAX_NAMED:
            self.reasons[name] = str(error)
            if kind == "slow":
                self.slow.add(name)
            warn(f"{error} Another video is drawn instead.")
        return KINDS.index(kind)


@contextmanager
def time_limit(seconds: float | None, name: str) -> Iterator[None]:
    """Raise ReadTimeoutError, which names the sample `name`, when the block takes longer than `seconds`.

    Only the main thread of a process can be interrupted, between two instructions of Python; in other
    threads, while another timer runs, and on Windows, which has no such signal, nothing is limited.
    """
    is_main = HAS_TIMER and threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise ReadTimeoutError(f"{name} could not be read in {seconds:g} seconds.")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again: destructors drop exceptions
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
