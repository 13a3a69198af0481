"""Signals from outside: they set a flag that the loop looks at, so that a run leaves with all saved."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# What a person, a batch system and a cloud send before they take a machine away.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run, and its state is saved. `exit_code` is 128 + the number of the signal."""

    def __init__(self, step: int, number: int) -> None:
        super().__init__(f"Stopped and saved after step {step}; the same command continues from there.")
        self.exit_code = 128 + number


class StopSignals:
    """While open, SIGINT, SIGTERM and SIGUSR1 set `number`; a second SIGINT ends all at once.

    Batch systems like to repeat the other two, and to send both.
    """

    def __init__(self) -> None:
        self.number = 0
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                self.previous[number] = signal.signal(number, self.handle)
        return self

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number:
            return
        self.number = number
        # A signal may arrive inside any other write or import: only the system call is safe here.
        os.write(2, b"\nStopping after this step; a second Ctrl-C leaves at once, without saving.\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
