"""The motion of clips, the lengths that One-DVA chooses by it, and a picture of both.

Quantiles of the motion of training crops are what `motion_range` of a model comes from. For whole clips:
their motion, and which share they get of the 1D latents that they could have. The picture shows a frame of
each clip, calm clips first, with the shares of its regions.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from report import finish, one_sentence_errors, use_threads
from torch import Tensor

from regen.codec.chunks import to_clip
from regen.data.clips import ClipDataset
from regen.data.video_sets import find_media
from regen.embedders.clips import pad
from regen.embedders.hybrid import HybridAutoencoder
from regen.media.pixels import parse_size, resize_center_crop
from regen.media.reader import VideoReader
from regen.networks.length_rule import motion
from regen.pretrained.models import load

CPU = torch.device("cpu")
ROW = 4  # pictures in a row
LINE = 34  # pixels below a picture, for two lines of words


@dataclass(frozen=True)
class ClipMotion:
    """Motion of a clip: its first frame, the shares of the regions of its first chunk, and means."""

    name: str
    frame: UInt8[Tensor, "h w 3"]
    places: list[tuple[tuple[int, int], tuple[int, int]]]  # of the regions, in pixels
    shares: list[float]
    motion: float
    share: float
    values_per_second: float


def main(
    data: tuple[Path, ...],
    model: str = "onedva-small",
    size: str = "256",
    chunks: int = 2,
    picture: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None,
    crops: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    side: int | None = None,
    samples: int = 1000,
    threads: int = 1,
) -> None:
    """Show what moves and what it gets.

    Example: python benchmarks/motion.py --data EVAL --picture motion.png --crops TRAIN

    Args:
        data: Clips to measure.
        model: A One-DVA model; its rule for lengths is used, nothing is encoded.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        chunks: The first chunks of each clip that are measured.
        picture: Where to draw.
        crops: Training videos of whose crops quantiles are wanted.
        side: Pixels along those crops; by default those of a region of the model.
        samples: How many of them.
        threads: Threads of PyTorch; 0 is one per core.
    """
    use_threads(threads)
    embedder = load(model, CPU, torch.float32)
    if not isinstance(embedder, HybridAutoencoder):
        raise ValueError(f"{model} has latents of one length; give a One-DVA model.")
    found = [measure(embedder, file, size, chunks) for file in find_media(data)]
    found.sort(key=lambda one: one.motion)
    if picture is not None:
        draw(found).save(picture, format="PNG")
    result = {
        "benchmark": "motion",
        "size": size,
        "clips": {
            one.name: {"motion": one.motion, "share": one.share, "values_per_second": one.values_per_second}
            for one in found
        },
        "quantiles": None if crops is None else quantiles(embedder, crops, side, samples),
    }
    rows = [
        [one.name, f"{one.motion:.4f}", f"{one.share:.2f}", f"{one.values_per_second:.0f}"] for one in found
    ]
    finish("Motion and lengths", ["clip", "motion", "share", "values/s"], rows, result, CPU)


def measure(model: HybridAutoencoder, file: Path, size: str, chunks: int) -> ClipMotion:
    """The first chunks of a clip, as a session would cut them."""
    shares, moved, kept, most, seconds = [], [], 0, 0, 0.0
    with VideoReader(file) as reader:
        frames = [
            resize_center_crop(frame.image, parse_size(size))
            for frame in islice(reader, chunks * model.chunk_frames)
        ]
        rate = float(reader.info.frame_rate)
    for start in range(0, len(frames), model.chunk_frames):
        part = torch.stack(frames[start : start + model.chunk_frames])
        length = 1 if len(frames) == 1 else model.chunk_frames
        clip = pad(to_clip(part, CPU, torch.float32), length, model.spatial_compression_ratio)
        budgets, lengths = torch.tensor(model.budgets(*clip.shape[2:])), model.lengths(clip)[0]
        shares.append(lengths / budgets)
        moved.append(float(motion(clip)))
        kept, most = kept + int(lengths.sum()), most + int(budgets.sum())
        seconds += len(part) / rate
    side = model.patches.side
    tiling = model.regions(model.chunk_frames, *frames[0].shape[:2])
    places = [
        ((top * side, bottom * side), (left * side, right * side))
        for (top, bottom), (left, right) in tiling.boxes
    ]
    return ClipMotion(
        file.stem, frames[0], places, shares[0].tolist(), sum(moved) / len(moved), kept / most,
        (kept + most) * model.latent_channels / seconds,
    )  # fmt: skip


def quantiles(model: HybridAutoencoder, folder: Path, side: int | None, samples: int) -> dict[str, float]:
    """Of the motion of square training crops."""
    side = side or (model.config.region_size or 16) * model.patches.side
    clips = ClipDataset([folder], None, 256)
    values: Float[Tensor, " n"] = torch.cat(
        [motion(clips.read(i, model.chunk_frames, (side, side), (0.5, 1.0), 0)[None]) for i in range(samples)]
    )
    marks = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {f"{mark:.0%}": float(values.quantile(mark)) for mark in marks}


def draw(found: list[ClipMotion]) -> Image.Image:
    """Frames in rows, with the share of each region written into it; brighter borders for larger shares."""
    height, width = found[0].frame.shape[:2]
    rows = -(-len(found) // ROW)
    sheet = Image.new("RGB", (ROW * width, rows * (height + LINE)), "white")
    for number, one in enumerate(found):
        image = Image.fromarray(one.frame.numpy())
        pen = ImageDraw.Draw(image)
        for ((top, bottom), (left, right)), share in zip(one.places, one.shares, strict=True):
            level = round(255 * share)
            pen.rectangle((left, top, right - 1, bottom - 1), outline=(level, level, 0), width=2)
            words = f"{share:.0%}"
            box = pen.textbbox((left + 5, top + 4), words)
            pen.rectangle((box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), fill="black")
            pen.text((left + 5, top + 4), words, fill=(255, 255, 0))
        corner = (number % ROW * width, number // ROW * (height + LINE))
        sheet.paste(image, corner)
        words = f"{one.name}: {one.share:.0%} of the 1D latents\nmotion {one.motion:.4f}"
        ImageDraw.Draw(sheet).text((corner[0] + 4, corner[1] + height + 3), words, fill="black")
    return sheet


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
