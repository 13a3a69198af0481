"""A world small enough to be learnt in minutes: a disc that moves steadily over a plain ground.

A tiny REGEN is trained on it from nothing, with as much inter- and extrapolation as reconstruction. Then it
decodes what was never encoded: frames between, against the average of their neighbours; frames before
and after the chunk, against repeating the nearest one; and the next chunk, joined in each variant.
"""

import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import tyro
from einops import rearrange
from interpolation_methods import codec_of, evaluate_extrapolation, evaluate_interpolation
from jaxtyping import Float, UInt8
from report import finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import track
from torch import Tensor

from regen.codec.chunks import to_image
from regen.codec.sessions import DecodeOptions, Seams
from regen.codec.timeline import SOURCE_FRAMES
from regen.data.tasks import TaskConfig, draw_task
from regen.embedders.regen import AutoencoderRegen
from regen.metrics.psnr_ssim import Psnr
from regen.metrics.seams import SeamRatio
from regen.runtime import generator_for, pick_device, tune_malloc
from regen.train.optimizer import (
    OptimizerConfig,
    build_optimizers,
    learning_rate_factor,
    set_learning_rate,
)

RATIO = 4
SIDE = 32  # pixels
FASTEST = 2.5  # pixels per frame
SEED_OF_FILMS = -1  # no training draws from it
MODEL = {
    "encoder_widths": (32, 32, 48, 64), "encoder_blocks": 1, "encoder_patch_size": 4,
    "linear_skip": True,
    "width": 128, "depth": 4, "heads": 4, "siren_width": 64, "t_min": 0.5, "pure_noise_prob": 0.3,
}  # fmt: skip
OPTIMIZER = OptimizerConfig(1e-3, muon_learning_rate=2e-3, warmup_steps=50, decay_fraction=0.3)
TASKS = TaskConfig(image_share=0.05, warmup_fraction=0.0, share_start=0.33, share_end=0.33)


def discs(clips: int, frames: int, generator: torch.Generator) -> Float[Tensor, "b 3 t h w"]:
    """Clips of one soft disc each, RGB in [-1, 1]; it is at a place of its own in the middle of the clip."""
    draw = torch.rand(clips, 11, generator=generator)
    ground, colour = (rearrange(2 * part - 1, "b c -> b c 1 1 1") for part in (draw[:, :3], draw[:, 3:6]))
    middle, speed = 8 + 16 * draw[:, 6:8], FASTEST * (2 * draw[:, 8:10] - 1)
    radius = rearrange(3 + 4 * draw[:, 10], "b -> b 1 1 1")
    centres = middle[:, None] + speed[:, None] * (torch.arange(frames) - (frames - 1) / 2)[:, None]
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    distance = torch.hypot(y - centres[..., 0, None, None], x - centres[..., 1, None, None])
    inside = (radius + 0.5 - distance).clamp(0, 1)[:, None]
    return torch.lerp(ground.expand(-1, -1, frames, SIDE, SIDE), colour, inside)


def train(steps: int, clips: int, seed: int) -> AutoencoderRegen:
    """A tiny model after `steps` updates on batches of `clips`."""
    torch.manual_seed(seed)
    model = AutoencoderRegen(**MODEL)
    optimizers = build_optimizers(model, OPTIMIZER)
    for step in track(range(steps), "training", console=Console(stderr=True)):
        generator = generator_for(seed, step)
        task = draw_task(RATIO, step / steps, TASKS, generator)
        video = discs(clips, task.frames, generator)
        clip, target = video[:, :, list(task.inputs)], video[:, :, list(task.targets)]
        batch = {"clip": clip, "target": target, "times": torch.tensor(task.times)}
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = model.loss(batch, [generator_for(seed, step, row) for row in range(clips)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.max_grad_norm)
        set_learning_rate(optimizers, learning_rate_factor(step, steps, OPTIMIZER))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def main(
    steps: int = 3000,
    clips: int = 16,
    eval_clips: int = 64,
    decode_steps: tuple[int, ...] = (1, 4, 16),
    seed: int = 0,
    threads: int = 0,
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
) -> None:
    """Train a tiny model on moving discs, and measure what it does at times that were never encoded.

    Example: python benchmarks/toy_motion.py --steps 3000

    Args:
        steps: Updates of the training.
        clips: Clips of a batch.
        eval_clips: Clips to measure on, none of which was trained on.
        decode_steps: Denoising steps with which the seams are measured; the rest is measured with one.
        seed: Seed of the training.
        threads: Threads of PyTorch; 0 is one per core.
        out: Save the model into this folder.
    """
    use_threads(threads)
    tune_malloc()
    start = time.perf_counter()
    model = train(steps, clips, seed)
    minutes = (time.perf_counter() - start) / 60
    if out is not None:
        model.save_pretrained(out)
    rows = {
        **between(model, eval_clips),
        **beyond(model, eval_clips),
        **seams(model, eval_clips, decode_steps),
    }
    finish(
        f"Moving discs, {steps} updates in {minutes:.1f} minutes",
        ["", "PSNR (dB) / seam ratio"],
        [[name, f"{value:.2f}"] for name, value in rows.items()],
        {"benchmark": "toy_motion", "steps": steps, "clips": clips, "seed": seed, "minutes": minutes} | rows,
        pick_device("cpu"),
    )


def films(count: int, frames: int) -> Iterator[UInt8[Tensor, "t h w 3"]]:
    """8-bit clips that no training sees."""
    for clip in discs(count, frames, generator_for(SEED_OF_FILMS)):
        yield torch.stack([to_image(frame) for frame in clip.unbind(1)])


def between(model: AutoencoderRegen, count: int) -> dict[str, float]:
    """PSNR of frames left out at 2x within a chunk, by every method."""
    codec = codec_of(model, DecodeOptions())
    done = [evaluate_interpolation(codec, film, 2, RATIO + 1) for film in films(count, 2 * RATIO + 1)]
    names = done[0].left_out
    kept = {"kept frames": fmean(each.kept.psnr for each in done)}
    return kept | {f"between: {name}": fmean(each.left_out[name].psnr for each in done) for name in names}


def beyond(model: AutoencoderRegen, count: int) -> dict[str, float]:
    """PSNR of the frames before and after a chunk, by every method."""
    codec = codec_of(model, DecodeOptions(seams="none"))
    done = [evaluate_extrapolation(codec, film, RATIO + 1) for film in films(count, 2 * RATIO + 2)]
    return {
        f"{distance:+d}: {name}": fmean(each[distance][name].psnr for each in done)
        for distance in sorted(done[0])
        for name in done[0][distance]
    }


def seams(model: AutoencoderRegen, count: int, decode_steps: tuple[int, ...]) -> dict[str, float]:
    """Seam ratio (and PSNR) of two chunks, for every variant of joining."""
    variants: tuple[Seams, ...] = ("none", "extend", "match")
    result = {}
    for steps, variant in product(decode_steps, variants):
        codec = codec_of(model, DecodeOptions(steps=steps, seams=variant))
        ratios, psnr = [], Psnr()
        for film in films(count, 2 * RATIO + 2):
            again, ratio = codec(film, SOURCE_FRAMES), SeamRatio(RATIO + 1)
            ratio.update(film, again)
            psnr.update(film, again)
            ratios.append(ratio.compute() or 0.0)
        result[f"seams, {steps} steps, {variant}: ratio"] = fmean(ratios)
        result[f"seams, {steps} steps, {variant}: PSNR"] = psnr.compute()
    return result


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
