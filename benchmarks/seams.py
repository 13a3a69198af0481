"""How visible the seams between chunks are, with and without latent extension, and what that costs.

Per number of denoising steps and treatment of seams: the seam ratio (regen.metrics.seams; 1 is
seamless), PSNR and SSIM by the protocol of regen.metrics.psnr_ssim, and the seconds of decoding per frame.
Each is the mean over clips. All decode the same latents from the same seed. A clip is in memory as a whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import tyro
from jaxtyping import UInt8
from report import finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress
from slices import SliceCollector, compare_slices
from torch import Tensor

from regen.codec.chunks import ChunkLatents
from regen.codec.sessions import DecodeOptions, DecodeSession, EncodeSession, Seams
from regen.data.video_sets import find_media
from regen.embedders.interface import Embedder
from regen.media.files import write_image
from regen.media.pixels import Size, parse_size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.cost import Stopwatch
from regen.metrics.psnr_ssim import Psnr, Ssim
from regen.metrics.seams import SeamRatio
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import load
from regen.runtime import dtype_name, pick_device, pick_dtype, tune_malloc


@dataclass(frozen=True)
class Variant:
    """Options of the decoder."""

    steps: int
    seams: Seams

    def __str__(self) -> str:
        return f"{self.steps} step{'s' if self.steps > 1 else ''}, {self.seams}"


@dataclass(frozen=True)
class ClipSeams:
    """What one clip gave; `seam_ratio` is None for a clip of one chunk, which has no seam."""

    name: str
    frames: int
    seam_ratio: float | None
    psnr: float
    ssim: float
    seconds_per_frame: float


Results = dict[Variant, list[ClipSeams]]


def main(
    data: tuple[Path, ...],
    model: str = DEFAULT_MODEL,
    steps: tuple[int, ...] = (1, 4, 16),
    seams: tuple[Seams, ...] = ("none", "extend", "match"),
    size: str = "256",
    seed: int = 0,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    picture: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    threads: int = 0,
) -> None:
    """Measure how visible the seams between chunks are in reconstructions of the clips of a folder.

    Example: python benchmarks/seams.py --data clips/ --steps 1 4 16 --picture slices/

    Args:
        data: Folders or files to measure on.
        model: A name from `regen models` or a folder.
        steps: Denoising steps of the decoder; several are compared.
        seams: Ways of the decoder to treat seams; several are compared.
        size: N (short side to N, centre N x N) or HEIGHTxWIDTH, in pixels.
        seed: Seed of the decoder's noise.
        max_frames: Measure only the first frames of each clip, for a quick look.
        picture: Write a picture per clip into this folder: its middle row of pixels, over time.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    tune_malloc()
    area, target, files = parse_size(size), pick_device(device), clips_below(data, max_frames, picture)
    variants = [Variant(*pair) for pair in product(steps, seams)]
    options = {one: DecodeOptions(steps=one.steps, seed=seed, seams=one.seams) for one in variants}
    precision = pick_dtype(dtype, target)
    embedder = load(model, target, precision)
    warm_up(embedder, area)
    results: Results = {variant: [] for variant in variants}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(model, total=len(files) * len(options))
        for file in files:
            frames = read_clip(file, area, max_frames)
            for variant, result in measure_clip(embedder, frames, file.stem, options, picture):
                results[variant].append(result)
                progress.advance(task)
    settings = {"model": model, "size": str(area), "seed": seed, "max_frames": max_frames}
    finish(
        f"{model} at {area}, {dtype_name(precision)}, mean over {len(files)} clip{'s' * (len(files) > 1)}",
        ["decoding", "seam ratio", "PSNR (dB)", "SSIM", "seconds per frame"],
        [table_row(means) for means in summaries(results)],
        {"benchmark": "seams", **settings, "dtype": dtype_name(precision), "results": summaries(results)},
        target,
    )


def clips_below(data: Sequence[Path], max_frames: int | None, picture: Path | None) -> list[Path]:
    """The files to measure, once it is sure that they can be measured and their pictures written."""
    files = find_media(data)
    if not files:
        raise ValueError(f"--data must hold videos or images, found none in {', '.join(map(str, data))}.")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"{max_frames} frames can't be measured; give --max-frames 1 or more.")
    if picture is not None:
        names = [file.stem for file in files]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"Two clips are called {twice}; rename one, or leave out --picture.")
        picture.mkdir(parents=True, exist_ok=True)
    return files


def read_clip(file: Path, size: Size, max_frames: int | None) -> UInt8[Tensor, "t h w 3"]:
    """The clip at the measuring size."""
    with VideoReader(file) as reader:
        return torch.stack([resize_center_crop(frame.image, size) for frame in islice(reader, max_frames)])


def encode(model: Embedder, frames: UInt8[Tensor, "t h w 3"]) -> list[ChunkLatents]:
    """The latents of a whole clip."""
    session = EncodeSession(model)
    return [*session.feed(frames), *session.flush()]


def decode(
    model: Embedder, latents: Iterable[ChunkLatents], size: Size, options: DecodeOptions
) -> Iterator[UInt8[Tensor, "t h w 3"]]:
    """The frames of a clip, a few at a time; a part may be empty."""
    session = DecodeSession(model, height=size.height, width=size.width, options=options)
    for chunk in latents:
        yield session.feed(chunk)
    yield session.flush()


def warm_up(model: Embedder, size: Size) -> None:
    """Code one black chunk, so that no clip pays for what a device does only once."""
    frames = torch.zeros(model.chunk_frames, size.height, size.width, 3, dtype=torch.uint8)
    for _ in decode(model, encode(model, frames), size, DecodeOptions(steps=1)):
        pass


def measure_clip(
    model: Embedder,
    frames: UInt8[Tensor, "t h w 3"],
    name: str,
    options: Mapping[Variant, DecodeOptions],
    folder: Path | None,
) -> Iterator[tuple[Variant, ClipSeams]]:
    """Encode a clip once, decode it in every variant, and at last write its picture into `folder`."""
    latents, size = encode(model, frames), Size(*frames.shape[1:3])
    chunk_frames = model.chunk_frames
    original = SliceCollector()
    original.update(frames)
    slices = {"original": original.picture()}
    for variant, choice in options.items():
        result, slices[str(variant)] = compare(
            frames, decode(model, latents, size, choice), name, chunk_frames
        )
        yield variant, result
    if folder is not None:
        write_image(compare_slices(slices, chunk_frames), folder / f"{name}.png")


def compare(
    frames: UInt8[Tensor, "t h w 3"],
    parts: Iterable[UInt8[Tensor, "t h w 3"]],
    name: str,
    chunk_frames: int,
) -> tuple[ClipSeams, UInt8[Tensor, "t w 3"]]:
    """The figures of a reconstruction that comes in `parts`, and its slice; making the parts is timed."""
    ratio, psnr, ssim, lines = SeamRatio(chunk_frames), Psnr(), Ssim(), SliceCollector()
    decoding = Stopwatch()
    for part in filter(len, timed(parts, decoding)):
        original = frames[psnr.frames : psnr.frames + len(part)]
        for metric in (ratio, ssim, psnr):
            metric.update(original, part)
        lines.update(part)
    assert psnr.frames == len(frames), "decoding gives as many frames as were encoded"
    seconds = decoding.seconds / len(frames)
    figures = ClipSeams(name, len(frames), ratio.compute(), psnr.compute(), ssim.compute(), seconds)
    return figures, lines.picture()


def timed(parts: Iterable[Tensor], watch: Stopwatch) -> Iterator[Tensor]:
    """The same parts; `watch` runs while each is made, and not while it is used."""
    source = iter(parts)
    while True:
        with watch:
            part = next(source, None)
        if part is None:
            return
        yield part


def mean_ratio(clips: Iterable[ClipSeams]) -> float | None:
    """Mean over the clips that have a seam; None when no clip has one."""
    ratios = [clip.seam_ratio for clip in clips if clip.seam_ratio is not None]
    return fmean(ratios) if ratios else None


def summaries(results: Results) -> list[dict[str, Any]]:
    """Means and clips of each variant."""
    return [
        {
            **asdict(variant),
            "seam_ratio": mean_ratio(clips),
            "psnr": fmean(clip.psnr for clip in clips),
            "ssim": fmean(clip.ssim for clip in clips),
            "seconds_per_frame": fmean(clip.seconds_per_frame for clip in clips),
            "clips": [asdict(clip) for clip in clips],
        }
        for variant, clips in results.items()
    ]


def table_row(means: dict[str, Any]) -> list[str]:
    """One summary for people."""
    ratio = means["seam_ratio"]
    return [
        str(Variant(means["steps"], means["seams"])),
        "none" if ratio is None else f"{ratio:.3f}",
        f"{means['psnr']:.2f}",
        f"{means['ssim']:.4f}",
        f"{means['seconds_per_frame']:.4f}",
    ]


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
