"""Store the model of a run for checkpoints/, in bf16: python tools/store_model.py RUN checkpoints/NAME

Stored is the moving average: of a finished run the model in RUN/model, else, for a trial, that of its newest
checkpoint, whose latents have no statistics yet. A SIREN stays in fp32 unless the file would be larger than
those in checkpoints/ may be. A card that lies in the folder stays.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from diffusers import ModelMixin
from safetensors.torch import load_file, save_file

from regen.io import write_json
from regen.names import CONFIG, WEIGHTS
from regen.pretrained.models import load
from regen.recipes import RECIPES
from regen.train.checkpoint import list_checkpoints, load_ema
from regen.train.recipe import build_model

MAX_BYTES = 12_000_000
LOCAL = "_name_or_path"  # where the model was loaded from


def average_of(run: Path) -> ModelMixin:
    """The moving average of a run. Raises ValueError where there is none yet."""
    if (run / "model").is_dir():
        return load(str(run / "model"), torch.device("cpu"), torch.float32)
    saved = list_checkpoints(run / "checkpoints")
    if not saved:
        raise ValueError(f"{run} has neither a model nor a checkpoint; train it first.")
    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    values = {
        key: tuple(value) if isinstance(value, list) else value for key, value in config["model"].items()
    }
    model = build_model(type(RECIPES[config["recipe"]].model)(**values))
    model.load_state_dict(load_ema(saved[-1]))
    return model


def store(model: ModelMixin, out: Path) -> int:
    """Write a model's config and its weights in bf16 into the folder `out`; the size of the weights."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.bfloat16().save_pretrained(folder)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        write_json(folder / CONFIG, {key: value for key, value in config.items() if key != LOCAL})
        weights = folder / WEIGHTS
        if weights.stat().st_size > MAX_BYTES:
            tensors = {key: value.bfloat16() for key, value in load_file(weights).items()}
            save_file(tensors, weights, metadata={"format": "pt"})
        for path in (folder / CONFIG, weights):
            shutil.copyfile(path, out / path.name)
    return (out / WEIGHTS).stat().st_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        size = store(average_of(arguments.run), arguments.out)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    print(f"{arguments.out}: {size / 1e6:.2f} MB of weights")
