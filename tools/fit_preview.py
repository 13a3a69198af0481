"""Fit the preview of stored models to videos, and write it into their configs.

    python tools/fit_preview.py MODEL... --data FOLDER [--clips 64] [--short-side 160]

Training fits it by itself; this is for models that were stored before, or for other videos.
"""

import argparse
import json

import torch

from regen.data.clips import ClipDataset
from regen.embedders.preview import fit_rgb_factors
from regen.io import write_text
from regen.names import CONFIG
from regen.pretrained.listing import find_model
from regen.pretrained.models import load

SIZE = 64, 64  # pixels of a clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--short-side", type=int, default=160)
    arguments = parser.parse_args()
    videos = ClipDataset(arguments.data, short_side=arguments.short_side)
    for name in arguments.models:
        model = load(name, torch.device("cpu"), torch.float32)
        videos.require_length(model.chunk_frames)
        clips = (
            videos.read(i, model.chunk_frames, SIZE, (0.8, 1.0), 0)[None] for i in range(arguments.clips)
        )
        path = find_model(name) / CONFIG
        config = json.loads(path.read_text(encoding="utf-8"))
        config["latent_rgb_factors"] = fit_rgb_factors(model, clips)
        write_text(path, json.dumps(dict(sorted(config.items())), indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    main()
