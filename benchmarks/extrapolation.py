"""Extrapolation: frames before and after each chunk, against what the model decodes there from that chunk.

The protocol stands in interpolation_methods.py, PSNR and SSIM are those of regen.metrics.psnr_ssim.
Chunks are decoded apart (seams "none"), so that nothing is known of the frames beyond. A clip is in
memory as a whole.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from interpolation_methods import Score, codec_of, evaluate_extrapolation, mean_score, read_clip
from plots import check_plot, draw_bars
from report import finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress

from regen.codec.sessions import DecodeOptions
from regen.data.video_sets import find_media
from regen.embedders.interface import Embedder
from regen.media.pixels import Size, parse_size
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import dtype_name, pick_device, pick_dtype, tune_malloc

Results = dict[str, dict[int, dict[str, Score]]]  # by clip, distance and method


def main(
    data: tuple[Path, ...],
    model: str = DEFAULT_MODEL,
    reach: int = 2,
    size: str = "256",
    steps: int = 1,
    seed: int = 0,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    threads: int = 0,
) -> None:
    """Measure how well a model decodes the frames just before and after a chunk.

    Example: python benchmarks/extrapolation.py --data clips/ --plot extrapolation.png

    Args:
        data: Folders or files to measure on.
        model: A name from `regen models` or a folder.
        reach: Frames to decode on either side of a chunk.
        size: N (short side to N, centre N x N) or HEIGHTxWIDTH, in pixels.
        steps: Denoising steps of the decoder.
        seed: Seed of the decoder's noise.
        max_frames: Use only the first frames of each clip, for a quick look.
        plot: Draw the mean PSNR of every method into this PNG.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    tune_malloc()
    check_plot(plot)
    area, target, files = parse_size(size), pick_device(device), find_media(data)
    if not files:
        raise ValueError(f"--data must hold videos or images, found none in {', '.join(map(str, data))}.")
    precision = pick_dtype(dtype, target)
    embedder = load(model, target, precision)
    options = DecodeOptions(steps=steps, seed=seed, seams="none")
    means = summaries(measure(embedder, options, reach, files, area, max_frames))
    title = f"{model} at {area}, {steps} step{'s' if steps > 1 else ''}, {dtype_name(precision)}"
    if plot is not None:
        draw(plot, means, title)
    settings = {"model": model, "size": str(area), "steps": steps, "seed": seed, "max_frames": max_frames}
    finish(
        f"PSNR (dB) / SSIM by distance from the chunk; {title}; mean over {len(files)} clips",
        ["", *(f"{mean['distance']:+d}" for mean in means)],
        table_rows(means),
        {"benchmark": "extrapolation", **settings, "dtype": dtype_name(precision), "distances": means},
        target,
    )


def measure(
    model: Embedder,
    options: DecodeOptions,
    reach: int,
    files: Sequence[Path],
    size: Size,
    max_frames: int | None,
) -> Results:
    """Every clip, a bar on standard error meanwhile."""
    codec, chunk_frames = codec_of(model, options), model.chunk_frames
    results: Results = {}
    with Progress(console=Console(stderr=True)) as progress:
        for file in progress.track(files, description="extrapolating"):
            frames = read_clip(file, size, max_frames)
            try:
                results[file.stem] = evaluate_extrapolation(codec, frames, chunk_frames, reach)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from None
    return results


def summaries(results: Results) -> list[dict[str, Any]]:
    """For each distance the means over clips by method, and the clips."""
    distances = next(iter(results.values()))
    return [
        {
            "distance": distance,
            "methods": {
                method: asdict(mean_score([clip[distance][method] for clip in results.values()]))
                for method in methods
            },
            "clips": {
                name: {method: asdict(score) for method, score in clip[distance].items()}
                for name, clip in results.items()
            },
        }
        for distance, methods in distances.items()
    ]


def table_rows(means: list[dict[str, Any]]) -> list[list[str]]:
    """A row per method."""
    rows = []
    for method in means[0]["methods"]:
        scores = [mean["methods"][method] for mean in means]
        rows.append([method, *(f"{score['psnr']:.2f} / {score['ssim']:.4f}" for score in scores)])
    return rows


def draw(path: Path, means: list[dict[str, Any]], title: str) -> None:
    """The mean PSNR by distance and method."""
    series = {
        method: {f"{mean['distance']:+d}": mean["methods"][method]["psnr"] for mean in means}
        for method in means[0]["methods"]
    }
    label = "frames before (-) the first or after (+) the last frame of the chunk"
    draw_bars(path, series, label, "PSNR (dB)", title=title)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
