"""Everything that only a GPU can tell, in one command of at most nine minutes.

    python benchmarks/gpu.py --out gpu-results

The sections run in the order of their worth, each in a process of its own and for a limited time. What they
find is in RESULTS/gpu.json after each of them, the output of all in RESULTS/gpu.log. One that fails or takes
too long does not end the others. `--dry-run` runs all of it on the CPU at tiny sizes in about a minute.

    tests      the tests marked gpu: CPU against GPU for every embedder, memory that runs out, compilation
    decoders   latency and memory of decoding at the paper's size, and what the time goes to
    training   a training step of regen-4x: tokens per second, utilisation, memory against `regen plan`
    peers      autoencoders of diffusers at their size, with random weights
    machine    collectives of one process; seconds that checkpoints take from the training
    ladder     a small model for the time that is left; the same command goes on with it (--section ladder)

A machine without a network needs the packages that it lacks as files: see tools/wheels.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from gpu_sections import SECTIONS
from report import hardware, one_sentence_errors, show_table

from regen.io import read_json, write_json
from regen.runtime import pick_device

Figures = dict[str, Any]
SHARES = {"tests": 0.18, "decoders": 0.25, "training": 0.17, "peers": 0.13, "machine": 0.1, "ladder": 1.0}
GRACE = 10.0  # seconds after the first signal
DRY_SECONDS = 180.0


def main(
    out: Path = Path("gpu-results"),
    scratch: Path = Path("gpu-scratch"),
    minutes: float = 9.0,
    section: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    data: Path = Path(__file__).parents[1] / "examples",
    recipe: str = "regen-small-4x",
    dry_run: bool = False,
) -> None:
    """Run the sections and write RESULTS/gpu.json.

    Args:
        out: Folder of the results; the model of the section ladder is in bf16 in RESULTS/model.
        scratch: Folder of checkpoints and of the run that --section ladder continues.
        minutes: Time for all sections.
        section: One of tests, decoders, training, peers, machine and ladder; repeat it. By default all.
        data: Videos or shards for the section ladder.
        recipe: What the section ladder trains.
        dry_run: Run every line on the CPU, at tiny sizes and two sections at a time.
    """
    unknown = next((name for name in section if name not in SECTIONS), None)
    if unknown is not None or minutes <= 0:
        raise ValueError(
            f"--section must be one of {', '.join(SECTIONS)} and --minutes > 0, got {unknown} and {minutes}."
        )
    for folder in (out, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu") if dry_run else pick_device()
    arguments = ["--out", out, "--scratch", scratch, "--data", data, "--recipe", "toy" if dry_run else recipe]
    results: Figures = {"hardware": hardware(device), "torch": torch.__version__, "sections": {}}
    begin = time.monotonic()

    def run(name: str) -> None:
        left = 60 * minutes - (time.monotonic() - begin)
        limit = DRY_SECONDS if dry_run else min(left, 60 * minutes * SHARES[name])
        options = [*map(str, arguments), *["--dry-run"] * dry_run]
        results["sections"][name] = run_section(name, options, limit, out / "gpu.log", scratch)
        write_json(out / "gpu.json", results)
        show(name, results["sections"][name])

    names = section or tuple(SECTIONS)
    with ThreadPoolExecutor(2 if dry_run else 1) as pool:
        list(pool.map(run, names))
    results["seconds"] = time.monotonic() - begin
    write_json(out / "gpu.json", results)
    print(json.dumps({"benchmark": "gpu", **results}), flush=True)
    failed = [name for name, found in results["sections"].items() if found["state"] == "failed"]
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed; the reason is in {out / 'gpu.log'}.")


def run_section(name: str, options: list[str], limit: float, log: Path, scratch: Path) -> Figures:
    """Run a section for at most `limit` seconds; its figures, and whether it is complete, cut or failed."""
    found = scratch / f"{name}.json"
    found.unlink(missing_ok=True)
    start, state = time.monotonic(), "complete"
    script = Path(__file__).with_name("gpu_sections.py")
    command = [sys.executable, str(script), name, *options, "--seconds", str(max(1.0, limit - GRACE))]
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            state = "complete" if process.wait(max(1.0, limit)) == 0 else "failed"
        except subprocess.TimeoutExpired:
            state = "cut"
            end(process)
    figures = read_json(found) if found.is_file() else {}
    return {"state": state, "seconds": time.monotonic() - start, "figures": figures}


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a section with all processes that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait()


def show(name: str, found: Figures) -> None:
    """The numbers of a section for people."""
    rows = [
        [key, ", ".join(f"{label} {text(value)}" for label, value in figures.items())]
        for key, figures in found["figures"].items()
    ]
    show_table(f"{name}: {found['state']} after {found['seconds']:.0f} s", ["what", "figures"], rows)


def text(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {text(one)}" for key, one in list(value.items())[:6]) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
