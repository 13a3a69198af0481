"""What denoising steps and solvers change in reconstructions: PSNR, SSIM, sharpness, and what they cost.

The protocol stands in regen.metrics.psnr_ssim. All variants decode the same latents from the same seed, and
each chunk apart (--seams none) by default, so that nothing but the steps differs. Heun's last step is
Euler's, so with one step both are the same. Seconds are those of decoding.
"""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from plots import check_plot, draw_lines
from quality import mean_result
from report import evaluate_files, find_clips, finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress

from regen.codec.sessions import DecodeOptions, Seams, SolverName
from regen.embedders.interface import Embedder
from regen.evaluate.quality import ClipResult, evaluate_clip
from regen.media.pixels import Size, parse_size
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import dtype_name, pick_device, pick_dtype, tune_malloc

STEPS = (1, 2, 4, 8, 16, 32, 50)  # those of the paper


def main(
    data: tuple[Path, ...],
    model: str = DEFAULT_MODEL,
    steps: tuple[int, ...] = STEPS,
    solvers: tuple[SolverName, ...] = ("euler", "heun"),
    seams: Seams = "none",
    size: str = "256",
    seed: int = 0,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    threads: int = 0,
) -> None:
    """Measure reconstructions with different numbers of steps and solvers.

    Example: python benchmarks/steps.py --data clips/ --steps 1 4 16 --solvers euler heun --plot steps.png

    Args:
        data: Folders or files to measure on.
        model: A name from `regen models` or a folder.
        steps: Denoising steps of the decoder; several are compared.
        solvers: Ways to step: euler, and heun, which evaluates the network about twice a step.
        seams: How chunks are joined: none, extend or match.
        size: N (short side to N, centre N x N) or HEIGHTxWIDTH, in pixels.
        seed: Seed of the decoder's noise.
        max_frames: Measure only the first frames of each clip; what fills up a chunk costs time, too.
        plot: Draw the mean PSNR into this PNG, and the sharpness into a second one (FILE-sharpness.png).
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    tune_malloc()
    check_plot(plot)
    area, target, files = parse_size(size), pick_device(device), find_clips(data, max_frames)
    variants = [DecodeOptions(number, seed, solver, seams) for solver, number in product(solvers, steps)]
    precision = pick_dtype(dtype, target)
    embedder = load(model, target, precision)
    results = measure(embedder, files, area, variants, max_frames)
    title = f"{model} at {area}, {dtype_name(precision)}, mean over {len(files)} clip{'s' * (len(files) > 1)}"
    if plot is not None:
        draw(plot, results, title)
    settings = {"model": model, "size": str(area), "seams": seams, "seed": seed, "max_frames": max_frames}
    finish(
        title,
        ["solver", "steps", "PSNR (dB)", "SSIM", "sharpness", "seconds per frame"],
        [table_row(result) for result in results],
        {"benchmark": "steps", **settings, "dtype": dtype_name(precision), "results": results},
        target,
    )


def measure(
    model: Embedder, files: list[Path], area: Size, variants: list[DecodeOptions], max_frames: int | None
) -> list[dict[str, Any]]:
    """One entry per variant of decoding, in their order."""
    results = []
    warm_up(model, area)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("decode", total=len(variants) * len(files))
        for variant in variants:
            clips: list[ClipResult] = []
            for result in evaluate_files(model, files, area, variant, max_frames):
                clips.append(result)
                progress.advance(task)
            results.append(summary(variant, clips))
    return results


def warm_up(model: Embedder, size: Size) -> None:
    """Code one black chunk, so that no clip pays for what is done only once."""
    frames = torch.zeros(model.chunk_frames, size.height, size.width, 3, dtype=torch.uint8)
    evaluate_clip(model, frames, "warm-up")


def summary(variant: DecodeOptions, clips: list[ClipResult]) -> dict[str, Any]:
    """Means and clips of one variant."""
    seconds = sum(clip.decode_seconds for clip in clips) / sum(clip.frames for clip in clips)
    return {
        "solver": variant.solver,
        "steps": variant.steps,
        **mean_result(clips),
        "seconds_per_frame": seconds,
        "clips": [asdict(clip) for clip in clips],
    }


def table_row(result: dict[str, Any]) -> list[str]:
    """One variant, for people."""
    return [
        result["solver"],
        str(result["steps"]),
        f"{result['psnr']:.2f}",
        f"{result['ssim']:.4f}",
        f"{result['sharpness']:.3f}",
        f"{result['seconds_per_frame']:.3f}",
    ]


def draw(path: Path, results: list[dict[str, Any]], title: str) -> None:
    """PSNR by steps, a line per solver; and sharpness likewise, in a second file."""
    solvers = dict.fromkeys(result["solver"] for result in results)
    second = path.with_stem(f"{path.stem}-sharpness")
    for file, key, label in ((path, "psnr", "PSNR (dB)"), (second, "sharpness", "sharpness (original: 1)")):
        series = {
            solver: [(result["steps"], result[key]) for result in results if result["solver"] == solver]
            for solver in solvers
        }
        draw_lines(file, series, "denoising steps", label, log_x=True, title=title)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
