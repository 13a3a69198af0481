"""Peak memory of reconstructing short and long videos: it must not grow with the length.

Each video is made for it (moving noise) and goes through the real command, `regen reconstruct`, in a process
of its own, so that no peak hides another. The ratio is that of each peak to the shortest video's; by default
there are 10 seconds and 10 minutes at 25 frames per second.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from report import finish, one_sentence_errors

from regen.pretrained.listing import DEFAULT_MODEL
from regen.runtime import pick_device

MAKE_VIDEO = """
import sys
from fractions import Fraction
from pathlib import Path
import torch
from regen.media.reader import VideoWriter
path, frames, height, width = Path(sys.argv[1]), *map(int, sys.argv[2:])
noise = torch.randint(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=torch.uint8)
picture = noise.repeat_interleave(16, dim=0).repeat_interleave(16, dim=1)
with VideoWriter(path, width, height, Fraction(25)) as writer:
    for index in range(frames):
        writer.write(picture[index % 16 :, index % 16 :][:height, :width].contiguous())
"""


def main(
    model: str = DEFAULT_MODEL,
    lengths: tuple[int, ...] = (250, 15000),
    size: tuple[int, int] = (256, 256),
    steps: int = 1,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure the peak memory of `regen reconstruct` on videos of several lengths.

    Example: python benchmarks/memory.py --model linear-4x --lengths 250 15000

    Args:
        model: A name from `regen models` or a folder.
        lengths: Frames of each video.
        size: Height and width of the videos, in pixels.
        steps: Denoising steps of the decoder.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError("Give lengths of 1 frame or more, such as --lengths 250 15000.")
    options = ["--model", model, "--steps", str(steps)]
    options += ["--device", device] if device else []
    options += ["--dtype", dtype] if dtype else []
    with tempfile.TemporaryDirectory() as folder:
        peaks = [peak_megabytes(Path(folder), length, size, options) for length in lengths]
    report(model, lengths, peaks, size, steps, device)


def peak_megabytes(folder: Path, frames: int, size: tuple[int, int], options: list[str]) -> float:
    """Peak memory in 10^6 bytes of one reconstruction: of the GPU when one is used, else of the process."""
    video, output = folder / f"{frames}.mp4", folder / f"{frames}_out.mp4"
    run([sys.executable, "-c", MAKE_VIDEO, str(video), str(frames), *map(str, size)])
    command = [
        sys.executable,
        "-m",
        "regen",
        "reconstruct",
        str(video),
        "-o",
        str(output),
        "--json",
        *options,
    ]
    return float(json.loads(run(command).splitlines()[-1])["peak_memory_mb"])


def run(command: list[str]) -> str:
    """Standard output of a command; when it fails, this process ends with its error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"error: {' '.join(command)} failed.")
    return done.stdout


def report(
    model: str,
    lengths: tuple[int, ...],
    peaks: list[float],
    size: tuple[int, int],
    steps: int,
    device: str | None,
) -> None:
    """Table and JSON line."""
    height, width = size
    by_length = dict(sorted(zip(lengths, peaks, strict=True)))
    first, last = by_length[min(lengths)], by_length[max(lengths)]
    finish(
        f"Peak memory of reconstructing {height}x{width}, {steps} step{'s' if steps > 1 else ''}, {model}",
        ["frames", "peak (MB)", "ratio"],
        [[str(length), f"{peak:.0f}", f"{peak / first:.3f}"] for length, peak in by_length.items()],
        {
            "benchmark": "memory",
            "model": model,
            "size": f"{height}x{width}",
            "steps": steps,
            "peak_memory_mb": {str(length): peak for length, peak in by_length.items()},
            "ratio": last / first,
        },
        pick_device(device),
    )


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
