"""Commands killed at random moments: training, export, shards build and evaluate.

Each command runs once undisturbed. Then it is killed with all its processes, at a moment drawn from the time
that it took, and started again, until it ends; then again in another folder, until there were enough kills.
After each kill all files must be whole and nothing that was finished may be gone; at the end the results must
be those of the undisturbed run, to the last byte, but for times.

Commands run in forks of this process, which has loaded everything, so that a start costs nothing.
"""

import json
import os
import random
import signal
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import diffusers.models.autoencoders.vae  # noqa: F401  what forks would load
from safetensors import safe_open

import regen.corpus.export
import regen.curate.build
import regen.evaluate.benchmark.benchmark
import regen.recipes  # noqa: F401
from regen.cli import main as run_command
from regen.io import read_json, write_json
from regen.media.reader import VideoReader
from regen.train.checkpoint import list_checkpoints, load_ema

PATIENCE = 1800.0  # seconds for a run without a kill
SECONDS = ("encode_seconds", "decode_seconds", "seconds")  # of rows, which no two runs share


@dataclass(frozen=True)
class Command:
    """A command and what its results are: a value to compare, and what no later kill may take away."""

    arguments: Callable[[Path], list[object]]
    results: Callable[[Path], object]
    finished: Callable[[Path], set[str]]


def commands(clips: Path, out: Path) -> dict[str, Command]:
    """The four commands; latents are exported and evaluated with the model of the undisturbed training."""
    model, cpu = out / "whole" / "train" / "model", ("--device", "cpu")
    train = ["train", "toy", "--data", clips, *cpu, "--loop.steps", 8, "--loop.eval-every", 4]
    train += ["--loop.save-every-minutes", 0, "--data.statistics-clips", 8]
    evaluate = ("evaluate", "--model", model, "--data", clips, "--size", 64, "--max-frames", 9, *cpu)
    export = ("latents", "export", "--data", clips, "--model", model, "--size", 64, *cpu)
    build = ["shards", "build", clips, "--max-samples", 1, "--min-side", 64, "--workers", 1]
    build += ["--min-frames", 2, "--min-motion", 0, "--cuts", "keep", "--duplicates", "keep"]
    return {
        "train": Command(lambda to: [*train, "--out", to], _weights, _checkpoints),
        "export": Command(lambda to: [*export, "--out", to], _bytes, lambda to: _names(to, "*.json")),
        "shards build": Command(lambda to: [*build, "--out", to], _shards, lambda to: _names(to, "*.tar")),
        "evaluate": Command(
            lambda to: [*evaluate, "--report", to], _rows, lambda to: _names(to, "results/*/*/*.json")
        ),
    }


def kill_commands(clips: Path, out: Path, kills: int, seed: int = 0) -> None:
    """Kill each command `kills` / 4 times. Raises AssertionError when anything is lost or damaged."""
    draw, report = random.Random(seed), dict[str, dict[str, float]]()
    for name, command in commands(clips, out).items():
        whole, begin = out / "whole" / name.replace(" ", "-"), time.monotonic()
        assert _run(command, whole, PATIENCE), f"{name} did not end"
        seconds, expected = time.monotonic() - begin, command.results(whole)
        counts = {"kills": 0, "starts": 0, "runs": 0, "seconds": round(seconds, 1)}
        while counts["kills"] < kills / 4:
            place = out / "killed" / f"{name.replace(' ', '-')}-{counts['runs']}"
            begin = time.monotonic()
            _until_it_ends(command, place, seconds, kills / 4, counts, draw)
            seconds = min(seconds, time.monotonic() - begin)
            assert command.results(place) == expected, f"{place} differs from {whole}"
            counts["runs"] += 1
            print(f"{name}: {counts}", flush=True)
        report[name] = counts
        write_json(out / "kills.json", {"seed": seed, "commands": report})


def _until_it_ends(
    command: Command, place: Path, seconds: float, limit: float, counts: dict[str, float], draw: random.Random
) -> None:
    """Start the command until it ends by itself, which it may after `limit` kills in all."""
    before: set[str] = set()
    while True:
        may_end = counts["kills"] >= limit
        counts["starts"] += 1
        if _run(command, place, PATIENCE if may_end else draw.uniform(0, seconds)):
            return
        counts["kills"] += 1
        assert not may_end, f"{place} did not end"
        check_files(place)
        after = command.finished(place)
        assert before <= after, f"{before - after} of {place} is gone"
        before = after


def _run(command: Command, place: Path, seconds: float) -> bool:
    """Run a command in a fork, and kill it after `seconds`; whether it had ended. Fails if it fails."""
    place.parent.mkdir(parents=True, exist_ok=True)
    log = place.with_name(f"{place.name}.log")
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
            status = run_command([str(part) for part in command.arguments(place)])
            file.flush()
        os._exit(status)
    os.setpgid(child, child)  # here too, for a kill before the child has begun
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"exit status {status >> 8}; see {log}"
            return True
        time.sleep(min(0.01, seconds))
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def check_files(folder: Path) -> None:
    """Raises an error unless every file that has a name of its own is whole."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if not path.is_file() or any(part.startswith(".") or ".partial" in part for part in inside):
            continue
        match path.suffix:
            case ".json":
                read_json(path)
            case ".safetensors":
                with safe_open(path, framework="pt") as file:
                    assert list(file.keys()) is not None
            case ".tar":
                with tarfile.open(path) as tar:
                    assert tar.getmembers(), path
            case ".mp4" | ".png":
                with VideoReader(path) as reader:
                    assert list(reader) and reader.damage is None, (path, reader.damage)
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        load_ema(checkpoint)


def _names(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.glob(pattern)}


def _checkpoints(folder: Path) -> set[str]:
    """The updates that are saved: all up to that of the newest checkpoint."""
    newest = list_checkpoints(folder / "checkpoints")[-1:]
    return {str(step) for path in newest for step in range(int(path.name.removeprefix("step-")) + 1)}


def _weights(folder: Path) -> object:
    return [path.read_bytes() for path in sorted((folder / "model").glob("*.safetensors"))]


def _bytes(folder: Path) -> object:
    """The content of an export, whose manifest has the name of its folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _shards(folder: Path) -> object:
    return {path.name: path.read_bytes() for pattern in ("*.tar", "index.*") for path in folder.glob(pattern)}


def _rows(folder: Path) -> object:
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in SECONDS} for row in rows]


if __name__ == "__main__":
    kill_commands(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
