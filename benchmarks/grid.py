"""How visible the 8 x 8 patches are: the jump of brightness across their borders over that inside them.

1 is a picture without a grid, as every original is; principal components of patches that are coded apart have
2.5. A model that kept to the resolution of its training would show more at others.
"""

from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import UInt8
from report import finish, one_sentence_errors, use_threads
from torch import Tensor

from regen.codec.sessions import decode_chunks, encode_frames
from regen.data.video_sets import find_media
from regen.media.pixels import parse_size, resize_center_crop
from regen.media.reader import VideoReader
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import pick_device, pick_dtype, tune_malloc


def main(
    data: tuple[Path, ...],
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    size: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    frames: int = 5,
    threads: int = 0,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure the grid in one-step reconstructions of the first frames of clips.

    Example: python benchmarks/grid.py --data clips/ --model linear-4x --model regen-small-4x --size 256

    Args:
        data: Folders or files to measure on.
        model: A name from `regen models` or a folder; repeat it to compare models.
        size: N (N x N) or HEIGHTxWIDTH, in pixels; repeat it to compare sizes.
        frames: Frames of each clip.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
    """
    use_threads(threads)
    tune_malloc()
    target = pick_device(device)
    names, sizes = model or (DEFAULT_MODEL,), size or ("64", "256", "176x312")
    ratios: dict[str, dict[str, float]] = {}
    for text in sizes:
        clips = [read(file, text, frames) for file in find_media(data)]
        ratios[text] = {"original": grid_ratio(clips)}
        for name in names:
            embedder = load(name, target, pick_dtype(None, target))
            answers = []
            for clip in clips:
                height, width = clip.shape[1:3]
                again = decode_chunks(embedder, encode_frames(embedder, clip), height=height, width=width)
                answers.append(torch.stack(list(again)))
            ratios[text][name] = grid_ratio(answers)
    finish(
        "Jump of brightness across the borders of 8 x 8 patches over the jump inside them",
        ["size", "original", *names],
        [[text, *(f"{value:.2f}" for value in row.values())] for text, row in ratios.items()],
        {"benchmark": "grid", "frames": frames, "ratios": ratios},
        target,
    )


def read(file: Path, size: str, frames: int) -> UInt8[Tensor, "t h w 3"]:
    """The first frames of a clip, fitted to a size."""
    with VideoReader(file) as reader:
        return torch.stack(
            [resize_center_crop(frame.image, parse_size(size)) for frame in islice(reader, frames)]
        )


def grid_ratio(clips: list[UInt8[Tensor, "t h w 3"]]) -> float:
    """Mean jump between neighbours on two sides of a border over that of neighbours inside a patch."""
    borders, inside = [], []
    for clip in clips:
        light = clip.float().mean(-1)
        for jumps in (light.diff(dim=1).abs().mean((0, 2)), light.diff(dim=2).abs().mean((0, 1))):
            is_border = torch.arange(1, len(jumps) + 1) % 8 == 0
            borders.append(jumps[is_border].mean())
            inside.append(jumps[~is_border].mean())
    return float(torch.stack(borders).mean() / torch.stack(inside).mean())


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
