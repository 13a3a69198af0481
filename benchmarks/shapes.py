"""Make videos of moving shapes: a small world for experiments that real footage is too hard for."""

from pathlib import Path

import torch
import tyro
from report import finish, one_sentence_errors

from regen.data.synthetic import write_dataset


def main(
    out: Path, videos: int = 96, frames: int = 101, size: tuple[int, int] = (96, 128), seed: int = 0
) -> None:
    """Write videos of moving shapes, the same ones for the same seed.

    Example: python benchmarks/shapes.py --out shapes/ --videos 96 --seed 0

    Args:
        out: Folder to write shapes_0000.mp4 and so on into.
        videos: How many.
        frames: Frames of each, 25 per second.
        size: Height and width in pixels.
        seed: What to draw them by; another seed gives other videos.
    """
    height, width = size
    write_dataset(out, videos=videos, frames=frames, height=height, width=width, seed=seed)
    facts = {"videos": videos, "frames": frames, "size": f"{height}x{width}", "seed": seed}
    rows = [[name, str(value)] for name, value in facts.items()]
    finish(f"Written to {out}", ["", ""], rows, {"benchmark": "shapes", **facts}, torch.device("cpu"))


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
