"""A queue of trainings, run one after another in the background.

    python tools/train_queue.py QUEUE.txt                # run what is not done; the same command goes on
    python tools/train_queue.py QUEUE.txt --show         # what is done, running and waiting

QUEUE.txt has a command in each line, such as `regen train toy --data CLIPS --out runs/toy`; variables such as
$DATA are replaced, `#` begins a comment. Commands run with one thread at a low priority. A training that was
interrupted resumes, because its command does; one that fails is left for the next call. Exit code: 0 when
all are done.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

NICENESS = 19


def commands(queue: Path) -> list[list[str]]:
    """The commands of a queue as lists of words. Raises ValueError for variables without a value."""
    found = [words for line in queue.read_text(encoding="utf-8").splitlines() if (words := _words(line))]
    if unknown := sorted({word for words in found for word in words if "$" in word}):
        raise ValueError(f"{queue} has variables without a value: {' '.join(unknown)}.")
    return found


def run(queue: Path, threads: int) -> int:
    """Run the commands that are not done, in their order; the number of those that failed."""
    done, failed = Done(queue), 0
    for number, words in enumerate(commands(queue), 1):
        if words in done:
            continue
        print(f"{number}: {shlex.join(words)}", flush=True)
        with queue.with_suffix(f".{number}.log").open("ab") as log:
            status = _call(words, threads, log.fileno())
        if status == 0:
            done.add(words)
        else:
            failed += 1
            print(f"{number}: failed with {status}; see {log.name}", flush=True)
    return failed


def show(queue: Path) -> None:
    """Print the state of each command."""
    done = Done(queue)
    for number, words in enumerate(commands(queue), 1):
        print(f"{'done' if words in done else 'open'}  {number}: {shlex.join(words)}")


class Done:
    """The commands that have ended without an error, in a file beside the queue."""

    def __init__(self, queue: Path) -> None:
        self.path = queue.with_suffix(".done")

    def __contains__(self, words: list[str]) -> bool:
        return self.path.exists() and shlex.join(words) in self.path.read_text("utf-8").splitlines()

    def add(self, words: list[str]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(shlex.join(words) + "\n")


def _words(line: str) -> list[str]:
    return [os.path.expandvars(word) for word in shlex.split(line, comments=True)]


def _call(words: list[str], threads: int, log: int) -> int:
    """The exit code of a command; SIGTERM and SIGINT are forwarded, and end the queue after it."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        ["nice", "-n", str(NICENESS), *words], stdout=log, stderr=log, env=environment, start_new_session=True
    )
    # Linux shares the time among sessions first; in one of its own, a nice command still gets a full share.
    with contextlib.suppress(OSError):
        Path(f"/proc/{process.pid}/autogroup").write_text(str(NICENESS))
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        sys.exit(128 + received[0])
    return status


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queue", type=Path, metavar="QUEUE.txt")
    parser.add_argument("--show", action="store_true", help="print the state and run nothing")
    parser.add_argument("--threads", type=int, default=1, help="threads of each training")
    arguments = parser.parse_args()
    try:
        if arguments.show:
            show(arguments.queue)
            return 0
        with FileLock(arguments.queue.with_suffix(".lock"), timeout=0):
            return int(run(arguments.queue, arguments.threads) > 0)
    except Timeout:
        print(f"{arguments.queue} is being run by another process.", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
