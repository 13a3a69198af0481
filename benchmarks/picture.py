"""Frames of a video side by side in one PNG, for the documentation."""

from pathlib import Path

import torch
import tyro
from PIL import Image
from report import one_sentence_errors

from regen.media.reader import VideoReader


def main(video: Path, out: Path, frames: tuple[int, ...] = (0,)) -> None:
    """Write some frames of a video as one picture.

    Example: python benchmarks/picture.py --video demo/comparison.mp4 --out picture.png --frames 0 20 40

    Args:
        video: What `regen reconstruct --compare` wrote, or any other video.
        out: The PNG.
        frames: Numbers of the frames, from 0.
    """
    with VideoReader(video) as reader:
        images = {index: frame.image for index, frame in enumerate(reader) if index in frames}
    missing = set(frames) - set(images)
    if missing:
        raise ValueError(f"{video} has no frame {min(missing)}; choose smaller numbers.")
    row = torch.cat([images[index] for index in frames], dim=1)
    Image.fromarray(row.numpy()).save(out, format="PNG")
    print(f"{out}: {row.shape[1]} x {row.shape[0]} pixels")


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
