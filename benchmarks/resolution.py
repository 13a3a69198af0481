"""Quality and cost by size, from 64 to 1080 lines and at extreme aspect ratios, by attention window.

The protocol stands in regen.metrics.psnr_ssim. A clip counts for a size only if it need not be enlarged for
it (--upscale takes all clips for all sizes: what is enlarged has less detail, so its PSNR is higher). Seconds
are those of encoding and decoding, per 10^6 pixels of frames. The same weights serve all windows, whose sides
are counted in places of 8 x 8 pixels.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from plots import check_plot, draw_lines
from quality import mean_result
from report import evaluate_files, find_clips, finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress
from steps import warm_up

from regen.codec.sessions import DecodeOptions
from regen.embedders.regen import AutoencoderRegen
from regen.evaluate.quality import ClipResult
from regen.media.pixels import Size, parse_size, scaled_size
from regen.media.reader import VideoReader
from regen.pretrained.listing import DEFAULT_MODEL, find_model
from regen.pretrained.models import Autoencoder, load
from regen.runtime import dtype_name, pick_device, pick_dtype, tune_malloc

SIZES = ("64", "128", "256", "512", "720x1280", "1080x1920", "64x512", "512x64", "48x1024")
SMALL = Size(64, 64)
LONGEST_PLOTTED = 2  # a side over the other: what is longer or wider has no number of lines worth the name
Sources = dict[Path, Size]


@dataclass(frozen=True)
class System:
    """A model with one attention window; `full` when every token sees every other one."""

    label: str
    full: bool
    build: Callable[[], Autoencoder]


def main(
    data: tuple[Path, ...],
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    size: tuple[str, ...] = SIZES,
    window: tuple[str, ...] = (),
    full_up_to: int = 256,
    upscale: bool = False,
    steps: int = 1,
    seed: int = 0,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    threads: int = 0,
) -> None:
    """Measure reconstructions of the same clips at several sizes.

    Example: python benchmarks/resolution.py --data clips/ --size 64 256 512 64x512 --window none 8 16

    Args:
        data: Folders or files to measure on.
        model: A name from `regen models` or a folder; repeat it to compare models. By default the linear
            embedder and the bundled model.
        size: N (N x N) or HEIGHTxWIDTH, in pixels; several are compared.
        window: Sides of attention windows in places of 8 pixels, or none; by default each model's own.
        full_up_to: Without a window, leave out sizes of more than this number squared of pixels.
        upscale: Enlarge clips where a size asks for it, instead of leaving them out.
        steps: Denoising steps of the decoder.
        seed: Seed of the decoder's noise.
        max_frames: Measure only the first frames of each clip; what fills up a chunk costs time, too.
        plot: Draw the mean PSNR by lines into this PNG, without the extreme aspect ratios.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    tune_malloc()
    check_plot(plot)
    target = pick_device(device)
    precision = pick_dtype(dtype, target)
    sources = {file: size_of(file) for file in find_clips(data, max_frames)}
    clips = {area: clips_for(area, sources, upscale) for area in map(parse_size, size)}
    if not any(clips.values()):
        raise ValueError(f"Clips must be as large as --size (or --upscale), got {describe_sizes(sources)}.")
    names = model or ("linear-4x", DEFAULT_MODEL)
    systems = [system for name in names for system in systems_of(name, window, target, precision)]
    options = DecodeOptions(steps=steps, seed=seed)
    results = measure(systems, clips, full_up_to, options, max_frames)
    facts = {"steps": steps, "seed": seed, "max_frames": max_frames, "dtype": dtype_name(precision)}
    if plot is not None:
        draw(plot, results, f"{steps} step{'s' * (steps > 1)}, {dtype_name(precision)}")
    report(results, sources, clips, facts | {"upscale": upscale}, target)


def report(
    results: list[dict[str, Any]],
    sources: Sources,
    clips: dict[Size, list[Path]],
    facts: dict[str, Any],
    device: torch.device,
) -> None:
    """Table and JSON line."""
    left_out = [str(area) for area, files in clips.items() if not files]
    named = {file.stem: str(area) for file, area in sources.items()}
    finish(
        f"Sources: {describe_sizes(sources)}. Larger than all of them: {', '.join(left_out) or 'none'}.",
        ["size", "clips", "model", "PSNR (dB)", "SSIM", "sharpness", "seconds per megapixel"],
        [table_row(result) for result in results],
        {"benchmark": "resolution", **facts, "sources": named, "left_out": left_out, "results": results},
        device,
    )


def size_of(file: Path) -> Size:
    """Height and width of a clip's frames."""
    with VideoReader(file) as reader:
        return Size(reader.info.height, reader.info.width)


def clips_for(area: Size, sources: Sources, upscale: bool) -> list[Path]:
    """The clips that can be shown at this size without enlarging them, or all with `upscale`."""

    def is_shrunk(source: Size) -> bool:
        return scaled_size(source.height, source.width, area) <= (source.height, source.width)

    return [file for file, source in sources.items() if upscale or is_shrunk(source)]


def describe_sizes(sources: Sources) -> str:
    """The sizes of the sources, such as "512x512 (4 clips), 512x910 (3 clips)"."""
    counts = Counter(map(str, sources.values()))
    return ", ".join(f"{area} ({count} clip{'s' * (count > 1)})" for area, count in counts.most_common())


def systems_of(name: str, windows: tuple[str, ...], device: torch.device, dtype: torch.dtype) -> list[System]:
    """The model called `name` with each window; only as it is where it has none to set."""
    as_it_is = load(name, device, dtype)
    if not isinstance(as_it_is, AutoencoderRegen):
        return [System(name, False, partial(load, name, device, dtype))]
    sides = [parse_window(text) for text in windows] or [as_it_is.config.attention_window]
    return [
        System(
            f"{name}, window {side or 'none'}",
            side is None,
            partial(load_with_window, name, side, device, dtype),
        )
        for side in sides
    ]


def parse_window(text: str) -> int | None:
    """Read a side in places of 8 pixels, or "none"."""
    if text == "none":
        return None
    if not text.isdecimal() or int(text) < 2:
        raise ValueError(f"--window must be none or at least 2 (places of 8 pixels), got {text!r}.")
    return int(text)


def load_with_window(
    name: str, window: int | None, device: torch.device, dtype: torch.dtype
) -> AutoencoderRegen:
    """The weights of a model with another attention window; no weight depends on it."""
    model = AutoencoderRegen.from_pretrained(
        find_model(name), attention_window=window, torch_dtype=dtype, use_safetensors=True
    )
    assert model.config.attention_window == window
    return model.to(device).eval()


def measure(
    systems: list[System],
    clips: dict[Size, list[Path]],
    full_up_to: int,
    options: DecodeOptions,
    max_frames: int | None,
) -> list[dict[str, Any]]:
    """One entry per size and model, in this order; one model at a time is in memory."""
    results: dict[tuple[Size, str], dict[str, Any]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for system in systems:
            sizes = [area for area in clips if not (system.full and area.height * area.width > full_up_to**2)]
            task = progress.add_task(system.label, total=sum(len(clips[area]) for area in sizes))
            model = system.build()
            warm_up(model, SMALL)
            for area in sizes:
                done = []
                for result in evaluate_files(model, clips[area], area, options, max_frames):
                    done.append(result)
                    progress.advance(task)
                if done:
                    results[area, system.label] = summary(area, system.label, done)
    order = [(area, system.label) for area in clips for system in systems]
    return [results[key] for key in order if key in results]


def summary(area: Size, label: str, clips: list[ClipResult]) -> dict[str, Any]:
    """Means and clips of one model at one size."""
    megapixels = sum(clip.frames for clip in clips) * area.height * area.width / 1e6
    return {
        "size": str(area),
        "model": label,
        **mean_result(clips),
        "seconds_per_megapixel": sum(clip.seconds for clip in clips) / megapixels,
        "clips": [asdict(clip) for clip in clips],
    }


def table_row(result: dict[str, Any]) -> list[str]:
    """One model at one size, for people."""
    return [
        result["size"],
        str(len(result["clips"])),
        result["model"],
        f"{result['psnr']:.2f}",
        f"{result['ssim']:.4f}",
        f"{result['sharpness']:.3f}",
        f"{result['seconds_per_megapixel']:.3f}",
    ]


def draw(path: Path, results: list[dict[str, Any]], title: str) -> None:
    """PSNR by lines, a line per model, of sizes without an extreme aspect ratio."""
    series: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        area = parse_size(result["size"])
        if max(area.height, area.width) <= LONGEST_PLOTTED * min(area.height, area.width):
            series.setdefault(result["model"], []).append((area.height, result["psnr"]))
    draw_lines(path, series, "lines (pixels of height)", "PSNR (dB)", log_x=True, title=title)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
