"""From clips to latents through all that can go wrong on the way; part of `make smoke`.

    shards -> training in two processes -> one is killed -> the same command -> evaluation
    -> latents, by two processes that compete, of which one is killed -> the same bytes as undisturbed

Every step is a command that a person would type. The exit code is 0 when all of it holds. With --kills N the
commands train, export, shards build and evaluate are killed N times at random moments instead (see kills.py).
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

REGEN = [sys.executable, "-m", "regen"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "regen",
]
SECONDS = 300.0


def main(clips: Path, out: Path) -> None:
    """`clips`: a folder of videos. `out`: receives shards, run, report and latents."""
    shutil.rmtree(out, ignore_errors=True)
    shards, run = out / "shards", out / "run"
    call(*REGEN, "shards", "build", clips, "--out", shards, "--max-samples", 1, "--min-side", 64)

    training = [*TORCHRUN, "train", "toy", "--data", shards, "--out", run, "--device", "cpu"]
    training += ["--loop.steps", 40, "--loop.eval-every", 40, "--loop.save-every-minutes", 0]
    process = start(*training)
    wait_for(lambda: len(list(run.glob("checkpoints/step-????????"))) > 1, process)
    os.kill(workers(process)[1], signal.SIGKILL)
    assert process.wait(SECONDS) != 0, "the training went on without one of its processes"
    assert not (run / "model").exists()
    call(*training)

    call(*REGEN, "evaluate", "--model", run, "--data", clips, "--size", 64, "--max-frames", 17,
         "--report", out / "report")  # fmt: skip

    export = [*REGEN, "latents", "export", "--data", shards, "--model", run, "--size", 64, "--device", "cpu"]
    call(*export, "--out", out / "undisturbed")
    disturbed = out / "disturbed"
    first, second = start(*export, "--out", disturbed), start(*export, "--out", disturbed)
    wait_for(lambda: any(disturbed.glob("*.safetensors")), first)
    first.kill()
    first.wait()
    assert second.wait(SECONDS) == 0, "the other process did not finish"
    call(*export, "--out", disturbed)  # makes what the killed one was at, if the other had ended before
    compare(out / "undisturbed", disturbed)
    print("Killed twice, nothing was lost: the latents are the same to the last byte.")


def call(*command: object) -> None:
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, timeout=SECONDS)


def start(*command: object) -> "subprocess.Popen[bytes]":
    print("$", *command, "&", flush=True)
    return subprocess.Popen([str(part) for part in command])


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Until `condition` holds, while `process` is alive."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "it ended before it could be killed"
        time.sleep(0.01)


def workers(process: "subprocess.Popen[bytes]") -> list[int]:
    """The processes that train, which torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = [int(pid) for pid in children if b"train" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 2, children
    return found


def compare(one: Path, other: Path) -> None:
    """Raises AssertionError unless both folders hold the same latents."""
    names = [sorted(path.name for path in folder.iterdir() if path.is_file()) for folder in (one, other)]
    assert names[0] == names[1] and any(name.endswith(".safetensors") for name in names[0]), names
    for name in names[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), f"{name} differs"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, help="folder of videos")
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--kills", type=int, help="kill commands as often, at random moments")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    arguments = parser.parse_args()
    if arguments.kills is None:
        main(arguments.clips, arguments.out)
    else:
        from kills import kill_commands  # loads everything

        kill_commands(arguments.clips, arguments.out, arguments.kills, arguments.seed)
