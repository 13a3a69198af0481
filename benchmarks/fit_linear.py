"""Fit the linear embedder to the videos of a folder, and save it with its card.

Every video is brought to the given short side, cropped to multiples of 8 and cut into chunks that do not
overlap; the rest of fewer than k+1 frames is left out. The fit is the closed-form optimum.
"""

import csv
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float, UInt8
from report import finish, hardware, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import track
from torch import Tensor

from regen.codec.chunks import to_clip
from regen.data.video_sets import find_media
from regen.embedders.linear import AutoencoderLinear
from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoError, VideoReader
from regen.tiling import LATENT_STRIDE

CARD = """---
library_name: diffusers
license: apache-2.0
tags: [video, autoencoder, pca]
---
# linear-{ratio}x

The linear floor of `regen`: principal components of cubes of 8 x 8 pixels and {length} frames.
A cube, {values} numbers, becomes {numbers}: two latent frames of {channels} channels.
An 8 x 8 square of an image becomes {channels} numbers.
It is the best that a linear embedder can do on its training clips with latents of this size, so a learned one
must beat it. Load it with `AutoencoderLinear.from_pretrained`, or name it in any `regen` command:
`--model linear-{ratio}x`.

## Fit

    python benchmarks/fit_linear.py --data DIR --ratio {ratio}{options} --out checkpoints/linear-{ratio}x

{chunks} chunks of {length} frames ({subset}) at short side {short_side}.
It took {minutes:.1f} minutes with {threads} on {machine}.

## Data

{clips}, {footage:.1f} minutes (source repository, licence, amount):

{sources}
"""


@dataclass
class Footage:
    """Reads whole chunks from videos, and keeps count of what it read and of what it could not read."""

    files: list[Path]
    length: int
    short_side: int
    every: int
    chunks: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Float[Tensor, "1 3 t h w"]]:
        for file in track(self.files, "fit", console=Console(stderr=True)):
            try:
                yield from self.chunks_of(file)
            except VideoError as error:
                self.unreadable.append(str(error))

    def chunks_of(self, file: Path) -> Iterator[Float[Tensor, "1 3 t h w"]]:
        """Every `every`-th whole chunk of a video, in [-1, 1]."""
        with VideoReader(file, threads=torch.get_num_threads()) as reader:
            frames = (crop(frame.image, self.short_side) for frame in reader)
            for index in count():
                chunk = list(islice(frames, self.length))
                if len(chunk) < self.length:
                    break
                if index % self.every == 0:
                    self.chunks += 1
                    yield to_clip(torch.stack(chunk), torch.device("cpu"), torch.float32)
            self.seconds[file.name] = reader.info.duration or 0.0


def crop(frame: UInt8[Tensor, "h w 3"], short_side: int) -> UInt8[Tensor, "h2 w2 3"]:
    """The frame at this short side, whole but for what is cropped to make both sides multiples of 8."""
    scale = short_side / min(frame.shape[:2])
    height, width = (round(side * scale) // LATENT_STRIDE * LATENT_STRIDE for side in frame.shape[:2])
    return resize_center_crop(frame, Size(height, width))


def main(
    data: tuple[Path, ...],
    out: Path,
    ratio: int = 4,
    channels: int = 8,
    short_side: int = 256,
    every: int = 1,
    threads: int = 1,
    manifest: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
) -> None:
    """Fit a linear embedder and save it with a card that names the data.

    Example: python benchmarks/fit_linear.py --data clips/ --ratio 4 --out checkpoints/linear-4x

    Args:
        data: Folders or files of training videos.
        out: The folder for the model.
        ratio: Frames per chunk less one: 4, 8, 16, 32.
        channels: Numbers per latent frame and 8 x 8 square.
        short_side: Pixels of the short side of every video.
        every: Take only every n-th chunk, to save time.
        threads: Threads of PyTorch; 0 is one per core.
        manifest: CSV with columns file, source_repo, licence; by default MANIFEST.csv of the first folder.
    """
    use_threads(threads)
    if every < 1 or short_side < LATENT_STRIDE:
        raise ValueError(f"Give --every 1 or more and --short-side {LATENT_STRIDE} or more.")
    sources = read_manifest(manifest or data[0] / "MANIFEST.csv")
    footage = Footage(find_media(data), ratio + 1, short_side, every)
    start = time.perf_counter()
    model = AutoencoderLinear.fit(footage, temporal_compression_ratio=ratio, latent_channels=channels)
    model.save_pretrained(out)
    (out / "README.md").write_text(card(footage, channels, (time.perf_counter() - start) / 60, sources))
    result = {
        "benchmark": "fit_linear",
        "ratio": ratio,
        "channels": channels,
        "videos": len(footage.seconds),
        "chunks": footage.chunks,
        "minutes": (time.perf_counter() - start) / 60,
        "unreadable": footage.unreadable,
    }
    row = [out.name, str(result["videos"]), str(footage.chunks), f"{result['minutes']:.1f}"]
    finish("Linear embedder", ["model", "videos", "chunks", "minutes"], [row], result, torch.device("cpu"))


def read_manifest(path: Path) -> dict[str, str]:
    """Where each file comes from and its licence, in words; empty without a manifest."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return {row["file"]: f"{row['source_repo']}: {row['licence']}" for row in rows}
    except KeyError as error:
        raise ValueError(f"{path} has no column {error}; it needs file, source_repo and licence.") from None


def card(footage: Footage, channels: int, minutes: float, sources: dict[str, str]) -> str:
    """The model card, which names every source of the footage, its licence and how much comes from it."""
    ratio = footage.length - 1
    clips: dict[str, list[float]] = defaultdict(list)
    for name, seconds in footage.seconds.items():
        clips[sources.get(name, "source not stated")].append(seconds)
    lines = [f"- {source}: {plural(len(clip), 'clip')}, {sum(clip):.0f} s" for source, clip in clips.items()]
    options = (f" --channels {channels}" if channels != 8 else "") + (
        f" --every {footage.every}" if footage.every > 1 else ""
    )
    return CARD.format(
        ratio=ratio,
        length=footage.length,
        values=3 * LATENT_STRIDE**2 * footage.length,
        numbers=2 * channels,
        channels=channels,
        options=options,
        chunks=footage.chunks,
        subset=f"one in {footage.every}" if footage.every > 1 else "all that are whole and do not overlap",
        short_side=footage.short_side,
        minutes=minutes,
        threads=plural(torch.get_num_threads(), "thread"),
        machine=hardware(torch.device("cpu")),
        clips=plural(len(footage.seconds), "clip"),
        footage=sum(footage.seconds.values()) / 60,
        sources="\n".join(sorted(lines)),
    )


def plural(number: int, noun: str) -> str:
    """Such as "1 clip" and "2 clips"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
