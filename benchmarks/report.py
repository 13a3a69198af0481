"""What the benchmarks share: finding clips, the hardware's name, tables for people, JSON for programs."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from regen.codec.sessions import DecodeOptions
from regen.data.video_sets import find_media
from regen.embedders.interface import Embedder
from regen.evaluate.quality import ClipResult, evaluate_clip
from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader
from regen.runtime import cpu_name


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn what a user got wrong into one sentence and exit status 1."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def use_threads(number: int) -> None:
    """Let PyTorch use `number` threads; 0 leaves its own choice, one per core."""
    if number < 0:
        raise ValueError(f"{number} threads are impossible; give 1 or more, or 0 for one per core.")
    if number:
        torch.set_num_threads(number)


def find_clips(data: Sequence[Path], max_frames: int | None) -> list[Path]:
    """The files below `data`; ValueError when there is none, or `max_frames` leaves nothing of them."""
    files = find_media(data)
    if not files:
        raise ValueError(f"--data must hold videos or images, found none in {', '.join(map(str, data))}.")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"{max_frames} frames can't be measured; give --max-frames 1 or more.")
    return files


def evaluate_files(
    model: Embedder,
    files: Iterable[Path],
    size: Size | None,
    options: DecodeOptions,
    max_frames: int | None = None,
) -> Iterator[ClipResult]:
    """One result per file, in order, by the protocol of `regen.metrics.psnr_ssim`.

    Each clip is resized and cropped to `size`, reconstructed chunk by chunk (the last one padded), rounded to
    8 bits and compared with the resized frames. Results are independent of each other: the noise depends on
    the seed and the chunk. `max_frames` measures only the first frames. Memory is bounded by the chunk.
    Raises VideoError for a file without a readable frame.
    """
    for file in files:
        with VideoReader(file) as reader:
            frames = (resize_center_crop(frame.image, size) for frame in islice(reader, max_frames))
            yield evaluate_clip(model, frames, file.stem, options)


def hardware(device: torch.device) -> str:
    """The device in words, such as "2 cores of Intel(R) Xeon(R) Platinum 8481C" or "NVIDIA H200"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{len(os.sched_getaffinity(0))} cores of {cpu_name()}"


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free for use now on the GPU, or on the machine; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if device.type == "cpu" and file.exists() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], below: str = "") -> None:
    """A table for people, with a line of text below it."""
    table = Table()
    for index, column in enumerate(header):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for part in (title, table, below):
        if part:
            console.print(part, highlight=False)


def finish(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    result: dict[str, Any],
    device: torch.device,
) -> None:
    """Print the table, then `result` with the hardware as the last line, in JSON."""
    facts = {"hardware": hardware(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    below = f"{facts['hardware']}, {facts['threads']} threads, torch {facts['torch']}"
    show_table(title, header, rows, below)
    print(json.dumps(result | facts), flush=True)
