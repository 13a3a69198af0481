"""The videos of an evaluation, real, reconstructed and generated, cached in its folder.

All have one size; real videos are cut to the generated number of frames. The noise of video i, in sampling
and in decoding, follows from (seed, i), so no video depends on the others. An interrupted evaluation finds
its videos in the cache:

    options.json                 what the videos depend on
    KIND-000123.safetensors      some videos of a kind, "t h w 3" in 8 bits, named by their indices

How videos are grouped into files has no meaning: a later call may use other batches.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from regen.codec.sessions import DecodeOptions, decode_chunks, encode_frames
from regen.console import OnProgress, warn
from regen.curate.sources import read_sidecars
from regen.data.video_sets import find_media
from regen.embedders.interface import Embedder
from regen.generate.sampling import SampleOptions
from regen.generate.video_generator import VideoGenerator
from regen.io import atomic_path, check_settings, read_json, write_json
from regen.media.files import VideoError
from regen.media.pixels import Size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.features import ExtractorSpec
from regen.runtime import fold_seed, generator_for
from regen.workers import JobError

OPTIONS = "options.json"
DEFAULT_SAMPLING, DEFAULT_DECODING = SampleOptions(), DecodeOptions()
Video = UInt8[Tensor, "t h w 3"]


@dataclass(frozen=True)
class EvaluationConfig:
    """What is generated, and how it is measured."""

    model: str
    """The generator: a name, a folder, or owner/name on the Hub."""
    data: Path
    """Folder or set of real videos, with captions (.txt) for a generator that reads them."""
    out: Path
    """Folder of the videos and the results."""
    num_videos: int = 256
    frames: int = 33
    """Frames of each video; real ones are cut."""
    size: Size | None = None
    """None: the most frequent size in the generator's training."""
    sampling: SampleOptions = DEFAULT_SAMPLING
    decoding: DecodeOptions = DEFAULT_DECODING
    seed: int = 0
    """The noise of video i follows from this and i, in decoding from `decoding.seed` and i."""
    batch: int = 8
    """Videos that are sampled together; up to rounding, results do not depend on it."""
    extractors: tuple[ExtractorSpec, ...] = ()
    """Networks of the distance, one for each number of frames per clip."""
    num_pictures: int = 16
    """Videos shown in the picture."""
    embedder: str | None = None
    text_encoder: str | None = None
    """Embedder and text encoder, if not where they were in the generator's training."""

    def __post_init__(self) -> None:
        limits = {"num_videos": 1, "frames": 2, "batch": 1, "num_pictures": 1}
        for name, limit in limits.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least {limit}, got {getattr(self, name)}.")

    def decode_options(self, index: int) -> DecodeOptions:
        """Options for one video, with noise of its own."""
        return replace(self.decoding, seed=fold_seed(self.decoding.seed, index))


class VideoCache:
    """Videos of one kind by index. Raises ValueError when a file in the folder is damaged."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self._files: dict[int, Path] = {}
        for path in sorted(folder.glob(f"{kind}-*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    self._files |= {int(name): path for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, ValueError):
                raise ValueError(f"{path} is damaged; delete it, and its videos are made again.") from None

    def missing(self, count: int) -> list[int]:
        """Indices below `count` that are not cached."""
        return [index for index in range(count) if index not in self._files]

    def fill(
        self, count: int, batch: int, make: Callable[[list[int]], dict[int, Video]], on_progress: OnProgress
    ) -> None:
        """Make the missing videos of the first `count` in batches; `make` gets indices."""
        missing = self.missing(count)
        on_progress(count - len(missing), count)
        for start in range(0, len(missing), batch):
            self._add(make(missing[start : start + batch]))
            on_progress(count - len(missing) + min(start + batch, len(missing)), count)

    def _add(self, videos: dict[int, Video]) -> None:
        """Write some videos, all of them or, when interrupted, none."""
        path = self.folder / f"{self.kind}-{min(videos):06d}.safetensors"
        with atomic_path(path) as temporary:
            save_file({f"{index:06d}": video.contiguous() for index, video in videos.items()}, temporary)
        self._files |= dict.fromkeys(videos, path)

    def __getitem__(self, index: int) -> Video:
        with safe_open(self._files[index], framework="pt") as file:
            return file.get_tensor(f"{index:06d}")


def check_options(folder: Path, options: dict[str, Any]) -> None:
    """Write what the videos in `folder` depend on. Raises ValueError when it differs for existing ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path, options = folder / OPTIONS, json.loads(json.dumps(options))
    if not path.exists():
        write_json(path, options)
        return
    check_settings(str(folder), read_json(path), options, "give the same again to resume, or another --out")


@dataclass(frozen=True)
class RealVideo:
    """A video with its caption ("" for none) and its class (-1 for none)."""

    path: Path
    caption: str
    label: int
    frame_rate: Fraction

    def read(self, size: Size | None, frames: int) -> Video:
        """The first frames, at most `frames`, resized and cropped to `size` if any."""
        with VideoReader(self.path) as reader:
            return torch.stack([resize_center_crop(frame.image, size) for frame in islice(reader, frames)])


def find_real_videos(folder: Path, max_videos: int) -> list[RealVideo]:
    """Up to `max_videos` videos below `folder`, evenly spaced; unreadable ones are skipped with a warning.

    Raises ValueError when there is none.
    """
    videos = []
    for path in find_media([folder]):
        try:
            with VideoReader(path) as reader:
                if not reader.info.is_image:
                    videos.append(RealVideo(path, *read_sidecars(path), reader.info.frame_rate))
        except (VideoError, JobError) as error:
            warn(f"skipped: {error}")
    if not videos:
        raise ValueError(f"{folder} must have real videos to compare with, found none.")
    count = min(max_videos, len(videos))
    return [videos[index * len(videos) // count] for index in range(count)]


def select_prompts(generator: VideoGenerator, real: Sequence[RealVideo], count: int) -> list[str]:
    """`count` captions of real videos or classes, in cycles. Raises ValueError when a caption is missing."""
    config = generator.model.config
    if config.classes:
        return [config.classes[index % len(config.classes)] for index in range(count)]
    if not config.text_width:
        return [""] * count
    uncaptioned = next((video.path for video in real if not video.caption), None)
    if uncaptioned is not None:
        name = uncaptioned.with_suffix(".txt").name
        raise ValueError(f"{uncaptioned} needs a caption to generate from; add {name} next to it.")
    return [real[index % len(real)].caption for index in range(count)]


def generate_videos(
    generator: VideoGenerator, prompts: Sequence[str], config: EvaluationConfig, indices: Sequence[int]
) -> dict[int, Video]:
    """The videos of `indices`, one for each prompt, sampled together and decoded one by one."""
    inputs, chosen = generator.model.config, [prompts[index] for index in indices]
    texts, classes = (chosen if used else () for used in (inputs.text_width, inputs.classes))
    latents = generator.sample(
        generator.shape(config.frames, config.size),
        generator.condition(texts, classes),
        [generator_for(config.seed, index) for index in indices],
        config.sampling,
    )
    return {
        index: torch.stack(list(one.decode(generator.embedder, config.decode_options(index))))
        for index, one in zip(indices, latents, strict=True)
    }


def reconstruct_videos(
    embedder: Embedder, real: Sequence[RealVideo], config: EvaluationConfig, indices: Sequence[int]
) -> dict[int, Video]:
    """The real videos of `indices`, encoded and decoded: the best that a generator can reach."""
    videos = {}
    for index in indices:
        video, options = real[index].read(config.size, config.frames), config.decode_options(index)
        height, width = video.shape[1:3]
        chunks = encode_frames(embedder, video)
        frames = decode_chunks(embedder, chunks, height=height, width=width, options=options)
        videos[index] = torch.stack(list(frames))
    return videos
