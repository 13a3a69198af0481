"""Reconstruction quality of models on the clips of a folder: PSNR and SSIM per clip, and their means.

The protocol stands in regen.metrics.psnr_ssim: scale the short side, cut out the centre, 8-bit frames, mean
over frames, then over clips. Below stand the mean sharpness (1: as much fine detail as the original) and the
mean seam ratio (regen.metrics.seams; 1: seams between chunks can't be seen). The JSON also has
`psnr_pooled`, from the mean squared error of each clip.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import tyro
from report import evaluate_files, find_clips, finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress

from regen.codec.sessions import DecodeOptions, Seams, SolverName
from regen.diffusion import Noise
from regen.evaluate.quality import ClipResult
from regen.media.pixels import parse_size
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import dtype_name, pick_device, pick_dtype, tune_malloc


def main(
    data: tuple[Path, ...],
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    size: str = "256",
    steps: int = 1,
    solver: SolverName = "euler",
    seams: Seams = "extend",
    noise: Noise | None = None,
    seed: int = 0,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    threads: int = 0,
) -> None:
    """Measure how well models reconstruct the clips of a folder.

    Example: python benchmarks/quality.py --data clips/ --model linear-4x --model regen-small-4x --size 256

    Args:
        data: Folders or files to measure on.
        model: A name from `regen models` or a folder; repeat it to compare models.
        size: N (short side to N, centre N x N) or HEIGHTxWIDTH, in pixels.
        steps: Denoising steps of the decoder.
        solver: How it steps: euler, or heun, which evaluates the network about twice a step.
        seams: How it joins chunks: extend (from 2 steps on), match or none.
        noise: Where it starts: normal or zero noise, by default zero with one step.
        seed: Seed of the decoder's noise.
        max_frames: Measure only the first frames of each clip, for a quick look.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    tune_malloc()
    area, target, files = parse_size(size), pick_device(device), find_clips(data, max_frames)
    options = DecodeOptions(steps=steps, seed=seed, solver=solver, seams=seams, noise=noise)
    precision = pick_dtype(dtype, target)
    names = model or (DEFAULT_MODEL,)
    results: dict[str, list[ClipResult]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in names:
            task = progress.add_task(name, total=len(files))
            embedder = load(name, target, precision)
            results[name] = []
            for result in evaluate_files(embedder, files, area, options, max_frames):
                results[name].append(result)
                progress.advance(task)
    settings = {
        "size": str(area),
        "steps": steps,
        "solver": solver,
        "seams": seams,
        "seed": seed,
        "noise": noise,
    }
    settings |= {"max_frames": max_frames, "dtype": dtype_name(precision)}
    finish(
        f"PSNR (dB) / SSIM at {area}, {steps} step{'s' if steps > 1 else ''}, {dtype_name(precision)}",
        ["clip", "frames", *names],
        table_rows(results),
        {"benchmark": "quality", **settings, "models": summaries(results)},
        target,
    )


def table_rows(results: dict[str, list[ClipResult]]) -> list[list[str]]:
    """A row per clip, then the means over clips."""
    rows = []
    for clip in zip(*results.values(), strict=True):
        rows.append([clip[0].name, str(clip[0].frames), *(f"{r.psnr:.2f} / {r.ssim:.4f}" for r in clip)])
    means = [mean_result(clips) for clips in results.values()]
    rows.append(["mean", "", *(f"{mean['psnr']:.2f} / {mean['ssim']:.4f}" for mean in means)])
    rows.append(["sharpness", "", *(f"{mean['sharpness']:.3f}" for mean in means)])
    seams = [mean["seam_ratio"] for mean in means]
    rows.append(["seam ratio", "", *("none" if ratio is None else f"{ratio:.3f}" for ratio in seams)])
    borders = [mean["border_ratio"] for mean in means]
    return [*rows, ["border ratio", "", *("none" if one is None else f"{one:.3f}" for one in borders)]]


def mean_result(clips: Sequence[ClipResult]) -> dict[str, Any]:
    """Means over clips, whatever their lengths; of the ratios over those that have a seam or border."""
    seams = [clip.seam_ratio for clip in clips if clip.seam_ratio is not None]
    borders = [clip.border_ratio for clip in clips if clip.border_ratio is not None]
    return {
        "psnr": fmean(clip.psnr for clip in clips),
        "psnr_pooled": fmean(clip.psnr_pooled for clip in clips),
        "ssim": fmean(clip.ssim for clip in clips),
        "sharpness": fmean(clip.sharpness for clip in clips),
        "seam_ratio": fmean(seams) if seams else None,
        "border_ratio": fmean(borders) if borders else None,
    }


def summaries(results: dict[str, list[ClipResult]]) -> dict[str, Any]:
    """Means and clips of each model."""
    return {
        name: {
            **mean_result(clips),
            "seconds": sum(clip.seconds for clip in clips),
            "clips": [asdict(clip) for clip in clips],
        }
        for name, clips in results.items()
    }


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
