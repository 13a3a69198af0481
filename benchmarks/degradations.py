"""Whether metrics order degraded copies: blurred, noisy, ghosted, with shuffled and with repeated frames.

Each kind has several strengths. Per copy, over all clips: PSNR, SSIM, temporal MAE, ghosting rate, and the
three figures of the extra `perceptual` (regen.metrics.efficientnet). A metric orders a kind if every stronger
copy is worse. Blur has a standard deviation in pixels, noise one in 8-bit levels; a ghosted frame is the mean
of so many frames from its own on; shuffled groups have so many frames; repeated frames last as many.
"""

from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import tyro
from einops import rearrange
from jaxtyping import UInt8
from report import find_clips, finish, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from regen.evaluate.quality import ClipMetrics, CodingStats
from regen.media.pixels import parse_size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.efficientnet import EfficientNetLite0, frechet_distances
from regen.metrics.ghosting import blur
from regen.runtime import pick_device

Frames = UInt8[Tensor, "t h w 3"]
Row = dict[str, Any]


def blurred(frames: Frames, deviation: float) -> Frames:
    images = rearrange(frames.float(), "t h w c -> (t c) 1 h w")
    return to_8_bits(rearrange(blur(images, deviation), "(t c) 1 h w -> t h w c", c=3))


def noisy(frames: Frames, deviation: float) -> Frames:
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    return to_8_bits(frames + deviation * noise)


def ghosted(frames: Frames, count: float) -> Frames:
    last = len(frames) - 1
    shifted = [frames[torch.arange(len(frames)).add(k).clamp(max=last)].float() for k in range(int(count))]
    return to_8_bits(torch.stack(shifted).mean(0))


def shuffled(frames: Frames, count: float) -> Frames:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(len(frames)).split(int(count))
    return frames[torch.cat([group[torch.randperm(len(group), generator=generator)] for group in groups])]


def repeated(frames: Frames, count: float) -> Frames:
    return frames[torch.arange(len(frames)) // int(count) * int(count)]


def to_8_bits(frames: Tensor) -> Frames:
    return frames.round().clamp(0, 255).to(torch.uint8)


Degradation = Callable[[Frames, float], Frames]
KINDS: dict[Degradation, tuple[float, ...]] = {
    blurred: (0.5, 1.0, 2.0),
    noisy: (4.0, 8.0, 16.0),
    ghosted: (2.0, 3.0, 5.0),
    shuffled: (2.0, 4.0, 33.0),
    repeated: (2.0, 4.0),
}
WORSE = {"psnr": -1, "ssim": -1, "temporal_mae": 1, "ghosting_rate": 1}  # direction of a worse value
WORSE |= dict.fromkeys(("feature_distance", "frechet_frames", "frechet_differences"), 1)


def main(
    data: tuple[Path, ...],
    size: str = "128",
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = 33,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    threads: int = 0,
) -> None:
    """Measure degraded copies of clips with all metrics that need no download.

    Example: python benchmarks/degradations.py --data clips/

    Args:
        data: Folders or files to measure on.
        size: N (short side to N, centre N x N) or HEIGHTxWIDTH, in pixels.
        max_frames: Measure only the first frames of each clip.
        device: cpu, cuda or mps; by default the best one here.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    target, area, clips = pick_device(device), parse_size(size), []
    for file in find_clips(data, max_frames):
        with VideoReader(file) as reader:
            frames = [resize_center_crop(frame.image, area) for frame in islice(reader, max_frames)]
        clips.append(torch.stack(frames))
    network = EfficientNetLite0.load().to(target)
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("degradations", total=sum(map(len, KINDS.values())))
        for degrade, strengths in KINDS.items():
            for strength in strengths:
                figures = measure(clips, degrade, strength, network)
                rows.append({"kind": degrade.__name__, "strength": strength, **figures})
                progress.advance(task)
    finish(
        f"Degraded copies of {len(clips)} clips at {area}",
        ["copy", *WORSE],
        table_rows(rows),
        {"benchmark": "degradations", "size": str(area), "max_frames": max_frames, "results": rows}
        | {"ordered": {kind.__name__: ordered(rows, kind.__name__) for kind in KINDS}},
        target,
    )


def measure(
    clips: Sequence[Frames], degrade: Degradation, strength: float, network: EfficientNetLite0
) -> Row:
    """Means over clips, and the Fréchet distances of all clips together."""
    results, statistics = [], []
    for clip in clips:
        metrics = ClipMetrics(None, efficientnet=network)
        metrics.update(clip, degrade(clip, strength))
        results.append(metrics.result("clip", CodingStats()))
        assert metrics.features is not None
        statistics.append(metrics.features.statistics())
    frames, differences = frechet_distances(statistics)
    row: Row = {"frechet_frames": frames, "frechet_differences": differences}
    for name in WORSE.keys() - row.keys():
        values = [getattr(result, name) for result in results if getattr(result, name) is not None]
        row[name] = fmean(values) if values else None
    return row


def ordered(rows: Sequence[Row], kind: str) -> list[str]:
    """The metrics for which every stronger copy of a kind is worse."""
    own = [row for row in rows if row["kind"] == kind]
    return [
        name
        for name, sign in WORSE.items()
        if all(
            None not in (mild[name], strong[name]) and sign * (strong[name] - mild[name]) > 0
            for mild, strong in pairwise(own)
        )
    ]


def table_rows(rows: Sequence[Row]) -> list[list[str]]:
    """A line of text for each copy."""
    return [
        [
            f"{row['kind']} {row['strength']:g}",
            *("none" if row[name] is None else f"{row[name]:.4g}" for name in WORSE),
        ]
        for row in rows
    ]


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
