"""One clip through one contestant: read, reconstruct, measure, and keep what a report shows."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from regen.codec.sessions import DecodeOptions
from regen.evaluate.benchmark.clip_list import Clip, hash_file
from regen.evaluate.benchmark.systems import CodingStats, System
from regen.evaluate.quality import ClipMetrics, ClipResult
from regen.media.prefetch import background_writer, prefetch
from regen.media.reader import VideoReader, VideoWriter
from regen.media.sizes import Size, resize_center_crop
from regen.metrics.features import ClipFeatures, Extractor, ExtractorSpec
from regen.metrics.lpips import Lpips, Net

PREFETCH_FRAMES = 16  # frames decoded before they are asked for


@dataclass(frozen=True)
class MetricConfig:
    """The metrics that need networks of their own; None leaves one out. `lpips` is measured with a file."""

    lpips: Net | None = None
    lpips_weights: Path | None = None
    lpips_sha256: str | None = None
    fvd: ExtractorSpec | None = None

    def __post_init__(self) -> None:
        if (self.lpips is None) != (self.lpips_weights is None):
            raise ValueError("LPIPS needs a network and its weights; give --lpips-net and --lpips-weights.")
        if self.lpips is None and self.lpips_sha256 is not None:
            raise ValueError("There is no LPIPS whose weights to check; give --lpips-net, too.")

    def load(self, device: torch.device) -> "LoadedMetrics":
        """ValueError, one sentence, when weights are missing or not those asked for."""
        lpips, facts = None, None
        if self.lpips is not None and self.lpips_weights is not None:
            lpips = Lpips.from_file(self.lpips_weights, self.lpips, self.lpips_sha256).to(device)
            facts = {"net": self.lpips, "sha256": hash_file(self.lpips_weights)}
        return LoadedMetrics(lpips, facts, None if self.fvd is None else self.fvd.load(device))


@dataclass(frozen=True)
class LoadedMetrics:
    """The networks that measure, on a device."""

    lpips: Lpips | None
    lpips_info: dict[str, str] | None
    extractor: Extractor | None

    def settings(self) -> dict[str, Any]:
        """What their figures must be told with."""
        known = self.extractor
        fvd = known and {name: getattr(known, name) for name in ("name", "sha256", "frames", "size")}
        return {"lpips": self.lpips_info, "fvd": fvd}


@dataclass(frozen=True)
class FittedClip:
    """A clip as it is measured: the first frames of the file at `path`, fitted to a size or as they are."""

    path: Path
    clip: Clip
    size: Size | None
    max_frames: int | None

    @property
    def height(self) -> int:
        return self.size.height if self.size else self.clip.height

    @property
    def width(self) -> int:
        return self.size.width if self.size else self.clip.width

    def frames(self, reader: VideoReader) -> Iterator[UInt8[Tensor, "h w 3"]]:
        for frame in islice(reader, self.max_frames):
            yield resize_center_crop(frame.image, self.size)


class ClipRecorder:
    """Keeps the frames of a clip in a folder: as a video that every browser plays, and as features."""

    def __init__(self, place: Path, view: FittedClip, extractor: Extractor | None) -> None:
        self.place, self._features = place, None if extractor is None else ClipFeatures(extractor)
        odd_rows, odd_columns = view.height % 2, view.width % 2  # browsers want even numbers
        self._pad = (0, 0, 0, odd_columns, 0, odd_rows)
        size = view.width + odd_columns, view.height + odd_rows
        self._writer = VideoWriter(place / "video.mp4", *size, view.clip.rate)

    def __enter__(self) -> "ClipRecorder":
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)
        if error is None and self._features is not None:
            np.save(self.place / "features.npy", self._features.compute().numpy())

    def write(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames, any number."""
        if self._features is not None:
            self._features.update(frames)
        for frame in frames:
            self._writer.write(functional.pad(frame, self._pad))


def measure(
    contestant: System, view: FittedClip, options: DecodeOptions, tools: LoadedMetrics, place: Path
) -> tuple[ClipResult, dict[str, Any]]:
    """Reconstruct a clip and compare; the reconstruction is kept in the folder `place`.

    Answers how good it is, and how much was compressed (see `Contestant.compression`). Reading, computing and
    measuring go on at the same time. Raises ValueError when the reconstruction can't be measured.
    """
    meters, metrics = CodingStats(), ClipMetrics(contestant.chunk_frames, tools.lpips)
    with ExitStack() as files:
        reader = files.enter_context(VideoReader(view.path))
        frames = files.enter_context(prefetch(view.frames(reader), PREFETCH_FRAMES))
        keeper = files.enter_context(ClipRecorder(place, view, tools.extractor))

        def take(originals: UInt8[Tensor, "t h w 3"], decoded: UInt8[Tensor, "t h w 3"]) -> None:
            metrics.update(originals, decoded)
            keeper.write(decoded)

        hand_out = files.enter_context(background_writer(take))
        for originals, decoded in contestant.pairs(view.clip, frames, options, meters):
            hand_out(originals, decoded)
    found = metrics.result(view.clip.name, meters.encoding.seconds, meters.decoding.seconds)
    return found, contestant.compression(view.clip, view.height, view.width, meters.latents)


def record_original(view: FittedClip, tools: LoadedMetrics, place: Path) -> None:
    """Keep a clip itself in the folder `place`, as reconstructions are compared with it."""
    with VideoReader(view.path) as reader, ClipRecorder(place, view, tools.extractor) as keeper:
        for frame in view.frames(reader):
            keeper.write(frame[None])
