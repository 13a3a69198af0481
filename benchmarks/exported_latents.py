"""What a decoder's update costs with its encoder on the fly, and on latents that were exported once.

Both trainings take turns, update by update, in one process: clips are read, decoded and cropped in it, so all
work of a training is counted, by processor time.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import tyro
from report import finish, one_sentence_errors, use_threads
from shapes import write_dataset

from regen.corpus.dataset import LatentDataset
from regen.corpus.export import ExportRequest, ExportSettings, export_latents
from regen.data.tasks import TaskConfig
from regen.embedders.regen_decoder import RegenDecoderConfig
from regen.recipes import RECIPES
from regen.runtime import dtype_name, pick_dtype
from regen.train.distributed import DistributedContext
from regen.train.latent_source import load_encoder, spans
from regen.train.loop import forward, load_batches
from regen.train.optimizer import build_optimizers
from regen.train.recipe import Recipe, build_model
from regen.train.trainer import make_batches, open_data

WARM_UP = 2  # updates
TASKS = TaskConfig(image_share=0.0, share_start=0.0, share_end=0.0)
CONTEXT = DistributedContext(torch.device("cpu"))


def prepare_updates(recipe: Recipe, data: Path, exported: LatentDataset | None) -> Callable[[], None]:
    """The next update of a training of the recipe."""
    recipe, encoder = load_encoder(recipe, CONTEXT, exported)
    model = build_model(recipe.model, encoder).train()
    span, _ = spans(recipe, model.chunk_frames, exported)
    clips = open_data(recipe, [data], None, exported)
    batches = make_batches(clips, recipe, span, recipe.tasks, recipe.data.stages, recipe.loop.steps)
    optimizers = build_optimizers(model, recipe.optimizer)
    loader = iter(load_batches(batches, 0, recipe.loop, CONTEXT))
    dtype = pick_dtype(recipe.loop.mixed_precision, CONTEXT.device)

    def update() -> None:
        loss, _ = forward(model.loss, next(loader), None, CONTEXT.device, dtype, 0, 0)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return update


def main(
    encoder: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ("magvit2-small-4x",),
    recipe: str = "decoder-small-cpu",
    updates: int = 10,
    videos: int = 4,
    size: tuple[int, int] = (96, 128),
    threads: int = 1,
) -> None:
    """Seconds of an update (median) on the fly and on exported latents, of videos of moving shapes.

    Example: python benchmarks/exported_latents.py --encoder magvit2-small-4x FOLDER

    Args:
        encoder: Autoencoders, as `regen train decoder-small --encoder` takes them.
        recipe: A recipe of a decoder.
        updates: Updates to time of each, after two for warm-up, with video clips alone.
        videos: Videos to train on.
        size: Height and width of the videos in pixels.
        threads: CPU threads.
    """
    use_threads(threads)
    found = RECIPES.get(recipe)
    if updates < 1 or found is None or not isinstance(found.model, RegenDecoderConfig):
        raise ValueError("--updates must be at least 1, and --recipe one of a decoder.")
    rows, results = [], []
    dtype = dtype_name(pick_dtype(found.loop.mixed_precision, CONTEXT.device))
    loop = replace(found.loop, steps=updates + WARM_UP, num_workers=0, mixed_precision=dtype)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "videos"
        write_dataset(data, videos=videos, frames=66, height=size[0], width=size[1], seed=0)
        for number, name in enumerate(encoder):
            chosen = replace(found, model=replace(found.model, encoder=name), tasks=TASKS, loop=loop)
            request = ExportRequest(name, (str(data),), Path(folder) / f"{number}", ExportSettings(dtype))
            export_latents(request, CONTEXT.device)
            works = [prepare_updates(chosen, data, each) for each in (None, LatentDataset(request.out))]
            times = [[*map(_seconds, works)] for _ in range(loop.steps)][WARM_UP:]
            fly, exported = map(median, zip(*times, strict=True))
            results.append({"encoder": name, "on_the_fly": fly, "exported": exported})
            rows.append([name, f"{fly:.2f}", f"{exported:.2f}", f"{fly / exported:.2f}"])
    columns = ("encoder", "on the fly, s", "exported, s", "times as fast")
    title = f"An update of {recipe} in {dtype}, processor time"
    finish(
        title,
        columns,
        rows,
        {"benchmark": "exported_latents", "recipe": recipe, "rows": results},
        CONTEXT.device,
    )


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
