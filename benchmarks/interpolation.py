"""Interpolation of frames: those that were left out against what the model and its rivals make of them.

Every s-th frame of each clip is kept and coded; the protocol stands in interpolation_methods.py, PSNR and
SSIM are those of regen.metrics.psnr_ssim. A clip is in memory as a whole.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from external_interpolator import external_interpolator
from interpolation_methods import (
    Interpolated,
    Interpolation,
    Interpolator,
    Score,
    codec_of,
    evaluate_interpolation,
    interpolate_by_all,
    mean_score,
    read_clip,
)
from jaxtyping import UInt8
from plots import check_plot, draw_bars
from report import finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from regen.codec.sessions import DecodeOptions, Seams
from regen.codec.transcode import label
from regen.data.video_sets import find_media
from regen.embedders.interface import Embedder
from regen.media.files import write_image
from regen.media.pixels import Size, parse_size
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import dtype_name, pick_device, pick_dtype, tune_malloc

Results = dict[int, dict[str, Interpolation]]  # by factor and clip


def main(
    data: tuple[Path, ...],
    model: str = DEFAULT_MODEL,
    factors: tuple[int, ...] = (2, 4),
    size: str = "256",
    steps: int = 1,
    seams: Seams = "none",
    seed: int = 0,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    interpolator: Annotated[str | None, tyro.conf.arg(metavar="COMMAND")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
    picture: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    threads: int = 0,
) -> None:
    """Measure how well a model decodes frames between those that it was given.

    Example: python benchmarks/interpolation.py --data clips/ --factors 2 4 --plot interpolation.png

    Args:
        data: Folders or files to measure on.
        model: A name from `regen models` or a folder.
        factors: Keep every second, every fourth ... frame; several are measured one after the other.
        size: N (short side to N, centre N x N) or HEIGHTxWIDTH, in pixels.
        steps: Denoising steps of the decoder.
        seams: How the decoder joins a chunk to the one before it.
        seed: Seed of the decoder's noise.
        max_frames: Use only the first frames of each clip, for a quick look.
        interpolator: Command of an external interpolator in place of FFmpeg's minterpolate, with {in} and
            {out} for its files and, where it needs them, {factor} and {rate}: "ema-vfi {in} {out}".
        plot: Draw the mean PSNR of every method into this PNG.
        picture: Show frames of the first clip by every method in this PNG, a row for each.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    tune_malloc()
    check_plot(plot)
    external, name = named_interpolator(interpolator)
    area, target, files = parse_size(size), pick_device(device), find_media(data)
    if not files:
        raise ValueError(f"--data must hold videos or images, found none in {', '.join(map(str, data))}.")
    precision = pick_dtype(dtype, target)
    embedder = load(model, target, precision)
    options = DecodeOptions(steps=steps, seed=seed, seams=seams)
    means = summaries(measure(embedder, options, factors, files, area, max_frames, external, name))
    title = f"{model} at {area}, {steps} step{'s' * (steps > 1)}, seams {seams}, {dtype_name(precision)}"
    if plot is not None:
        draw(plot, means, title)
    if picture is not None:
        clip = read_clip(files[0], area, max_frames)
        shown = interpolate_by_all(codec_of(embedder, options), clip, factors[0], external, name)
        write_image(comparison(shown, factors[0]), picture)
    settings = {"model": model, "size": str(area), "steps": steps, "seams": seams, "seed": seed}
    finish(
        f"PSNR (dB) / SSIM of frames left out; {title}; mean over {len(files)} clips",
        ["", *(f"{factor}x {part}" for factor in factors for part in ("all", "between chunks"))],
        table_rows(means),
        {
            "benchmark": "interpolation",
            **settings,
            "max_frames": max_frames,
            "interpolator": interpolator or "FFmpeg's minterpolate",
            "dtype": dtype_name(precision),
            "factors": means,
        },
        target,
    )


def named_interpolator(command: str | None) -> tuple[Interpolator | None, str]:
    """The external interpolator, and its name in the table; None is FFmpeg's filter."""
    if command is None:
        return None, "motion-compensated"
    return external_interpolator(command), "external interpolator"


def measure(
    model: Embedder,
    options: DecodeOptions,
    factors: Sequence[int],
    files: Sequence[Path],
    size: Size,
    max_frames: int | None,
    interpolator: Interpolator | None = None,
    name: str = "motion-compensated",
) -> Results:
    """Every clip with every factor, a bar on standard error meanwhile."""
    codec, chunk_frames = codec_of(model, options), model.chunk_frames
    results: Results = {factor: {} for factor in factors}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("interpolating", total=len(files) * len(factors))
        for file in files:
            frames = read_clip(file, size, max_frames)
            for factor in factors:
                try:
                    result = evaluate_interpolation(codec, frames, factor, chunk_frames, interpolator, name)
                except ValueError as error:
                    raise ValueError(f"{file}: {error}") from None
                results[factor][file.stem] = result
                progress.advance(task)
    return results


def summaries(results: Results) -> list[dict[str, Any]]:
    """For each factor the means over clips by method, and the clips."""
    return [
        {
            "factor": factor,
            "kept": asdict(mean_score([clip.kept for clip in clips.values()])),
            "left_out": mean_scores([clip.left_out for clip in clips.values()]),
            "across": mean_scores([clip.across for clip in clips.values() if clip.across]),
            "clips": {name: asdict(clip) for name, clip in clips.items()},
        }
        for factor, clips in results.items()
    ]


def mean_scores(clips: list[dict[str, Score]]) -> dict[str, dict[str, float]]:
    """Means over clips by method; none without a clip."""
    methods = clips[0] if clips else {}
    return {method: asdict(mean_score([clip[method] for clip in clips])) for method in methods}


def table_rows(means: list[dict[str, Any]]) -> list[list[str]]:
    """A row per method, and one for the kept frames."""
    rows = []
    for method in means[0]["left_out"]:
        cells = [cell(mean[part].get(method)) for mean in means for part in ("left_out", "across")]
        rows.append([method, *cells])
    kept = [text for mean in means for text in (cell(mean["kept"]), "")]
    return [*rows, ["(frames kept, reconstructed)", *kept]]


def cell(score: dict[str, float] | None) -> str:
    """One score for people."""
    return f"{score['psnr']:.2f} / {score['ssim']:.4f}" if score else "none"


def draw(path: Path, means: list[dict[str, Any]], title: str) -> None:
    """The mean PSNR of the frames left out, by factor and method."""
    series = {
        method: {f"{mean['factor']}×": mean["left_out"][method]["psnr"] for mean in means}
        for method in means[0]["left_out"]
    }
    draw_bars(path, series, "frames after interpolation, per frame kept", "PSNR (dB)", title=title)


def comparison(shown: Interpolated, factor: int, columns: int = 4) -> UInt8[Tensor, "h w 3"]:
    """Left-out frames from the middle of a clip side by side: a row for the originals and each method.

    Figure 13 of REGEN has these rows: average, model, and an external interpolator of reconstructed frames.
    """
    left_out = [index for index in range(len(shown.frames)) if index % factor]
    first = max(0, (len(left_out) - columns) // 2)
    chosen = left_out[first : first + columns]
    rows = {"original": shown.frames} | {
        name: frames for name, frames in shown.methods.items() if not name.endswith("originals")
    }
    pictures = []
    for name, frames in rows.items():
        row = torch.cat([frames[index] for index in chosen], dim=1)
        pictures += [label(name, row.shape[1]), row]
    return torch.cat(pictures)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
