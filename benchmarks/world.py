"""Make videos of the captioned world of moving shapes, on which generators are trained and checked."""

from pathlib import Path

import torch
import tyro
from report import finish, one_sentence_errors

from regen.console import progress_bar
from regen.data.shape_world import Split, write_shape_world


def main(
    out: Path,
    videos: int = 4800,
    frames: int = 33,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    split: Split = "train",
) -> None:
    """Write videos with captions and classes, the same ones for the same seed; go on where it was stopped.

    Example: python benchmarks/world.py --out world/ --videos 4800 --seed 1

    Args:
        out: Folder to write world_00000.mp4, its caption (.txt) and class (.cls) and so on into.
        videos: How many.
        frames: Frames of each, 25 per second.
        size: Height and width in pixels.
        seed: What to draw them by; another seed gives other videos.
        split: Scenes that a training sees, or those that are kept out of it (unseen).
    """
    height, width = size
    with progress_bar("videos") as on_progress:
        write_shape_world(out, videos, frames, height, width, seed, split, on_progress)
    facts = {"videos": videos, "frames": frames, "size": f"{height}x{width}", "seed": seed, "split": split}
    rows = [[name, str(value)] for name, value in facts.items()]
    finish(f"Written to {out}", ["", ""], rows, {"benchmark": "world", **facts}, torch.device("cpu"))


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
