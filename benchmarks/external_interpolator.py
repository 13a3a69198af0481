"""Frames in between by any program: a command that reads one video and writes another with more frames."""

import shlex
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import torch
from interpolation_methods import Interpolator
from jaxtyping import UInt8
from torch import Tensor

from regen.media.files import VideoError
from regen.media.reader import VideoReader

RATE = Fraction(24)  # frames per second of the file that the command reads


def external_interpolator(text: str) -> Interpolator:
    """An interpolator that runs a command without a shell.

    {in} is a video of the given frames without loss (FFV1 in Matroska, RGB, 24 per second), {out} the .mkv
    that it must write, or a folder that it fills with images; {factor} is the number of frames for each given
    one, {rate} the rate of the result. The last frame is in {in} twice, for filters that look ahead. What the
    command makes of the given frames themselves, and of the time after the last one, is not used.

    Raises ValueError for a command without {in} and {out}; the interpolator does when the command fails or
    writes other frames.
    """
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"--interpolator must be a command, got {text!r} ({error}).") from None
    if missing := [field for field in ("{in}", "{out}") if field not in text]:
        raise ValueError(f"--interpolator must have {' and '.join(missing)}, got {text!r}.")

    def interpolate(frames: UInt8[Tensor, "t h w 3"], factor: int) -> UInt8[Tensor, "n h w 3"]:
        if len(frames) == 1:
            return frames.clone()
        with TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.mkv", Path(folder) / "out.mkv"
            write_lossless(source, torch.cat([frames, frames[-1:]]))
            values = {"in": source, "out": target, "factor": factor, "rate": RATE * factor}
            _run([_filled(argument, values) for argument in command])
            made = _read(target, command[0])
        count = (len(frames) - 1) * factor + 1
        if not count <= len(made) < count + 2 * factor or made.shape[1:] != frames.shape[1:]:
            sizes = [f"{shape[2]}x{shape[1]}" for shape in (frames.shape, made.shape)]
            raise ValueError(
                f"{command[0]} must make {count} frames of {sizes[0]} or up to {2 * factor - 1} more, got "
                f"{len(made)} of {sizes[1]}."
            )
        made = made[:count].clone()
        made[::factor] = frames
        return made

    return interpolate


def write_lossless(path: Path, frames: UInt8[Tensor, "t h w 3"]) -> None:
    """Write a .mkv from which every decoder reads the same pixels: FFV1 of RGB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image.contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode())


def _filled(argument: str, values: dict[str, object]) -> str:
    for name, value in values.items():
        argument = argument.replace(f"{{{name}}}", str(value))
    return argument


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ValueError(f"The interpolator {command[0]} can't be run: {error.strerror}.") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it printed nothing"]
        raise ValueError(f"The interpolator {command[0]} failed ({done.returncode}): {lines[-1]}")


def _read(path: Path, program: str) -> UInt8[Tensor, "t h w 3"]:
    try:
        with VideoReader(path) as reader:
            return torch.stack([frame.image for frame in reader])
    except VideoError as error:
        raise ValueError(f"The interpolator {program} wrote no video to {{out}}: {error}") from None
