"""The commands and Python blocks of README.md, run one after the other: tools/newcomer.sh calls it.

    python readme_commands.py README.md      in the folder that has what the README takes for granted

The README and this list can't diverge: what is not named here runs exactly as it stands there.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

# Commands that can't run here, by what they begin with, and why.
SKIPPED = {
    "pip install": "the wheel is installed already",
    "regen train decoder": "its autoencoder is downloaded",
}
# Options that are added because the command as it stands takes too long, by what it begins with.
SHORT = "--loop.steps 2 --data.num-val-clips 1 --data.statistics-clips 4 --data.stages.0.video-batch-size 2"
TINY = (
    "--loop.steps 2 --loop.num-workers 0 --data.num-val-samples 1 --model.width 64 --model.heads 2 "
    "--model.depth 1 --model.num-joint-layers 1 --data.stages.0.tokens-per-batch 256 "
    "--data.stages.0.image-share 0 --data.stages.1.tokens-per-batch 256 --data.stages.1.image-share 0"
)
ADDED = {
    "regen train t2v": TINY,  # hours
    "regen train": SHORT,  # an hour
    "regen generate": "--steps 4",  # a minute
}


def blocks(readme: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)


def commands(readme: str) -> list[str]:
    """The command lines of all blocks, without comments."""
    lines = [line for block in blocks(readme, "bash") for line in block.splitlines()]
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def started_with(command: str, table: dict[str, str]) -> str | None:
    """The entry of the longest key that the command begins with."""
    keys = [key for key in table if command.startswith(key)]
    return table[max(keys, key=len)] if keys else None


def processor_seconds() -> float:
    """Processor time of the commands that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main(path: Path) -> int:
    """Run them all. Returns the number of those that fail."""
    readme, failed, start = path.read_text(encoding="utf-8"), 0, time.monotonic()
    python = shlex.join([sys.executable, "-c", "\n".join(blocks(readme, "python"))])
    for command in [*commands(readme), python]:
        if reason := started_with(command, SKIPPED):
            print(f"  skipped  {command}  ({reason})", flush=True)
            continue
        added = started_with(command, ADDED)
        words = [*shlex.split(command), *shlex.split(added or "")]
        before, used = time.monotonic(), processor_seconds()
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        title = "the Python blocks" if command == python else f"{command}  + {added}" if added else command
        seconds = f"{time.monotonic() - before:6.1f} s, {processor_seconds() - used:5.1f} s of a core"
        print(f"{seconds}  {title}", flush=True)
        if done.returncode:
            failed += 1
            print(f"  failed with exit code {done.returncode}:\n{done.stdout}", flush=True)
    seconds = f"{time.monotonic() - start:6.1f} s, {processor_seconds():5.1f} s of a core"
    print(f"{seconds}  all commands; {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
