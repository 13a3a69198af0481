"""How fast a recipe trains, in clips per second: the real training loop on clips that are already in memory.

Loading data is left out: a real run is slower where its workers can't keep up.
"""

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from report import finish, one_sentence_errors, use_threads
from torch import Tensor
from torch.utils.data import Dataset

from regen.data.batches import BatchKey
from regen.data.tasks import Stage, reconstruction
from regen.embedders.regen import AutoencoderRegen
from regen.recipes import RECIPES
from regen.runtime import dtype_name, generator_for, pick_device, pick_dtype, tune_malloc
from regen.train.distributed import DistributedContext
from regen.train.loop import train


class SameBatch(Dataset[dict[str, Tensor]]):
    """Batches of one reconstruction task: the same random clips at every step."""

    def __init__(self, ratio: int, stage: Stage, steps: int) -> None:
        task = reconstruction(ratio)
        shape = (stage.video_batch_size, 3, task.frames, stage.height, stage.width)
        clip = torch.rand(shape, generator=generator_for(0)) * 2 - 1
        rows = torch.arange(stage.video_batch_size)
        self.batch = {
            "clip": clip,
            "target": clip,
            "times": torch.tensor(task.times),
            "rows": rows,
            "batch_size": torch.tensor(stage.video_batch_size),
        }
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, key: BatchKey) -> dict[str, Tensor]:
        return self.batch


def main(
    recipe: str = "regen-small-4x-cpu",
    steps: int = 10,
    stage: int = 0,
    threads: int = 2,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure the training speed of a recipe; nothing else should run on the machine.

    Example: python benchmarks/train_speed.py --recipe regen-small-4x-cpu --steps 20 --threads 2

    Args:
        recipe: A name that `regen train --help` lists.
        steps: Updates to time, after as many for warm-up.
        stage: Which stage of the recipe's data (size of the crops and of the batch), from 0.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16 or fp32; by default bf16 where the hardware has it.
    """
    use_threads(threads)
    tune_malloc()
    if recipe not in RECIPES:
        raise ValueError(f"Unknown recipe {recipe}; use one of {', '.join(RECIPES)}.")
    if steps < 1:
        raise ValueError(f"{steps} steps can't be timed; give --steps 1 or more.")
    chosen, target = RECIPES[recipe], pick_device(device)
    if not 0 <= stage < len(chosen.data.stages):
        raise ValueError(f"{recipe} has no stage {stage}; its last one is {len(chosen.data.stages) - 1}.")
    part = chosen.data.stages[stage]
    loop = replace(chosen.loop, steps=2 * steps, log_every=steps, num_workers=0, mixed_precision=dtype)
    model = AutoencoderRegen(**asdict(chosen.model))
    batches = SameBatch(chosen.model.temporal_compression_ratio, part, loop.steps)
    with tempfile.TemporaryDirectory() as folder:
        train(model, batches, loop, chosen.optimizer, Path(folder), DistributedContext(target), None, {})
        rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    speed = rows[-1]["clips_per_second"]
    size, precision = f"{part.height}x{part.width}", dtype_name(pick_dtype(dtype, target))
    finish(
        f"Training {recipe}: batches of {part.video_batch_size} clips of {size}, {precision}",
        ["clips per second", "updates per second"],
        [[f"{speed:.2f}", f"{speed / part.video_batch_size:.3f}"]],
        {
            "benchmark": "train_speed",
            "recipe": recipe,
            "stage": stage,
            "size": size,
            "batch": part.video_batch_size,
            "dtype": precision,
            "clips_per_second": speed,
        },
        target,
    )


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
