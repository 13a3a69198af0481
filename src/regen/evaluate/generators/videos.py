"""The three sets of videos of an evaluation: real ones, what the embedder makes of them, and generated ones.

All have one size. Of the real ones the first frames are taken, as many as are generated. The noise of video i
follows from (seed, i), that of its decoding too: no video depends on those that are made beside it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import Embedder
from regen.codec.sessions import DecodeOptions, decode_chunks, encode_frames
from regen.curate.sources import read_sidecars
from regen.evaluate.generators.video_cache import VideoCache
from regen.generate.sampling import SampleOptions
from regen.generate.video_generator import VideoGenerator
from regen.media.reader import VideoReader, find_media
from regen.media.sizes import Size, resize_center_crop
from regen.runtime import fold_seed, generator_for

OnProgress = Callable[[int, int], None]
Video = UInt8[Tensor, "t h w 3"]


@dataclass(frozen=True)
class RealVideo:
    """A video with its caption ("" without one) and its class (-1 without one)."""

    path: Path
    caption: str
    label: int
    frame_rate: Fraction

    def fingerprint(self) -> str:
        """Of the file's content and of what is said of it."""
        with self.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{content} {self.label} {self.caption}"

    def read(self, size: Size, frames: int) -> Video:
        """Its first frames at this size, at most so many."""
        with VideoReader(self.path) as reader:
            return torch.stack([resize_center_crop(frame.image, size) for frame in islice(reader, frames)])


@dataclass(frozen=True)
class VideoSettings:
    """How the videos are made, and at which size all are; `batch` at a time, on which nothing depends."""

    options: SampleOptions
    decoding: DecodeOptions
    frames: int
    size: Size
    seed: int
    batch: int

    def decoding_of(self, number: int) -> DecodeOptions:
        """The options for one video, which has noise of its own."""
        return replace(self.decoding, seed=fold_seed(self.decoding.seed, number))


def find_real_videos(folder: Path, max_videos: int) -> list[RealVideo]:
    """The videos below `folder` in the order of their names; of more than `most` some equally far apart.

    Raises ValueError when there is none, or one can't be read.
    """
    found = []
    for path in find_media([folder]):
        with VideoReader(path) as reader:
            if not reader.info.is_image:
                found.append(RealVideo(path, *read_sidecars(path), reader.info.frame_rate))
    if not found:
        raise ValueError(f"There are no videos in {folder} to compare with; give a folder of real ones.")
    count = min(max_videos, len(found))
    return [found[number * len(found) // count] for number in range(count)]


def select_prompts(maker: VideoGenerator, real: Sequence[RealVideo], count: int) -> list[str]:
    """What the generator is told for each of `count` videos: the captions of the real ones in their order,
    again and again, or all of its classes in turn, so that each comes as often as any other.

    Raises ValueError when a caption is missing.
    """
    config = maker.model.config
    if config.classes:
        return [config.classes[number % len(config.classes)] for number in range(count)]
    if not config.text_width:
        return [""] * count
    without = next((video.path for video in real if not video.caption), None)
    if without is not None:
        raise ValueError(
            f"The video {without} has no caption to generate from; put {without.with_suffix('.txt').name} "
            "beside it."
        )
    return [real[number % len(real)].caption for number in range(count)]


def make_generated(
    maker: VideoGenerator, told: Sequence[str], how: VideoSettings, store: VideoCache, on_progress: OnProgress
) -> None:
    """Generate the videos that are missing in `store`, a batch at a time."""

    def make(numbers: Sequence[int]) -> dict[int, Video]:
        return generate_videos(maker, [told[number] for number in numbers], how, numbers)

    _fill(store, len(told), how.batch, make, on_progress)


def generate_videos(
    maker: VideoGenerator, told: Sequence[str], how: VideoSettings, numbers: Sequence[int]
) -> dict[int, Video]:
    """The videos of these numbers, each told its own, sampled together and decoded one after another."""
    config = maker.model.config
    prompts, classes = (told if asked else () for asked in (config.text_width, config.classes))
    sampled = maker.sample(
        maker.shape(how.frames, how.size),
        maker.condition(prompts, classes),
        [generator_for(how.seed, number) for number in numbers],
        how.options,
    )
    return {
        number: torch.stack(list(maker.decode(one, how.decoding_of(number))))
        for number, one in zip(numbers, sampled, strict=True)
    }


def make_reconstructions(
    embedder: Embedder,
    real: Sequence[RealVideo],
    how: VideoSettings,
    store: VideoCache,
    on_progress: OnProgress,
) -> None:
    """Encode and decode the real videos that are missing in `store`: what a perfect generator would give."""
    height, width = how.size.height, how.size.width

    def reconstructed(number: int) -> Video:
        chunks = encode_frames(embedder, real[number].read(how.size, how.frames))
        options = how.decoding_of(number)
        return torch.stack(list(decode_chunks(embedder, chunks, height=height, width=width, options=options)))

    def make(numbers: Sequence[int]) -> dict[int, Video]:
        return {number: reconstructed(number) for number in numbers}

    _fill(store, len(real), how.batch, make, on_progress)


def _fill(
    store: VideoCache,
    count: int,
    batch: int,
    make: Callable[[Sequence[int]], dict[int, Video]],
    on_progress: OnProgress,
) -> None:
    """Make the videos that are missing of the first `count`, some at a time, and keep them."""
    missing = store.missing(count)
    on_progress(count - len(missing), count)
    for start in range(0, len(missing), batch):
        store.add(make(missing[start : start + batch]))
        on_progress(count - len(missing) + min(start + batch, len(missing)), count)
