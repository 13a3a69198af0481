"""Fit the preview of stored models to videos, and write it into their configs.

    python tools/fit_preview.py MODEL... --data FOLDER [--clips 64]

Training fits it by itself; this is for models that were stored before, or for other videos.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from regen.codec.chunks import to_clip
from regen.data.video_sets import find_media
from regen.embedders.preview import fit_preview
from regen.io import write_text
from regen.media.reader import VideoReader
from regen.pretrained.models import find_model, load

CPU = torch.device("cpu")


def clips(paths: list[Path], frames: int, count: int, side: int) -> Iterator[Float[Tensor, "1 3 t h w"]]:
    """`count` clips of so many frames, in turn from all videos, cropped to multiples of `side` pixels."""
    for number in range(count):
        with VideoReader(paths[number % len(paths)], short_side=128) as reader:
            times = reader.frame_times()
            start = number // len(paths) * frames
            if start + frames > len(times):
                continue
            clip = to_clip(reader.read_at(times[start : start + frames].tolist()), CPU, torch.float32)
        height, width = (length // side * side for length in clip.shape[3:])
        yield clip[..., :height, :width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=64)
    arguments = parser.parse_args()
    paths = find_media([arguments.data])
    for name in arguments.models:
        model = load(name, CPU, torch.float32)
        maps = fit_preview(model, clips(paths, model.chunk_frames, arguments.clips, 16))
        path = find_model(name) / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"preview": maps}
        write_text(path, json.dumps(dict(sorted(config.items())), indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    main()
