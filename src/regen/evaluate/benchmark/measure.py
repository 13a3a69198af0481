"""One clip through one system: reconstruct, measure, and record it in the report folder.

    clips.json  settings.json           frozen by the first run
    results/MODEL/SIZE-STEPS/CLIP.json  one result; `videos/`, `features/` (of clips, for FVD) and
                                        `statistics/` (of frames, for --perceptual) have the same names
    clips.jsonl  summary.json           all results, and their means

The JSON file of a result is written last, so where it exists the rest of the result does too. Until then its
files are in `.work` (see `regen.locks`).
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from regen.codec.sessions import DecodeOptions
from regen.evaluate.benchmark.clip_list import Clip
from regen.evaluate.benchmark.systems import ORIGINAL, System, folder_name
from regen.evaluate.quality import ClipMetrics, ClipResult, CodingStats
from regen.io import file_sha256, read_json, write_text
from regen.locks import Claims
from regen.media.pixels import Size, resize_center_crop
from regen.media.prefetch import background_writer, prefetch
from regen.media.reader import VideoError, VideoReader, VideoWriter
from regen.metrics.efficientnet import NAME, SHA256, EfficientNetLite0
from regen.metrics.features import ClipFeatures, Extractor, ExtractorSpec
from regen.metrics.lpips import Lpips, Net

PREFETCH_FRAMES = 16


def result_key(model: str | None, size: str, steps: int, clip: str) -> str:
    """Name of the files of a result; `clip` is a label, and a model of None is the original."""
    if model is None:
        return f"{ORIGINAL}/{size}/{clip}"
    return f"{folder_name(model)}/{size}-{steps}/{clip}"


class ReportFolder:
    """Reads and writes the results of a benchmark; `path` is created if missing."""

    def __init__(self, path: Path) -> None:
        self.path, self.claims = path, Claims(path / ".work")
        self.clips, self.settings = path / "clips.json", path / "settings.json"

    def open(self) -> None:
        """Raises ValueError when the folder is not writable."""
        try:
            self.claims.open()
        except OSError as error:
            raise ValueError(
                f"{self.path} is not writable ({error.strerror}); use another --report."
            ) from None

    def is_done(self, key: str) -> bool:
        return self.result(key).is_file()

    def result(self, key: str) -> Path:
        return self.path / "results" / f"{key}.json"

    def features(self, key: str) -> Path:
        return self.path / "features" / f"{key}.npy"

    def statistics(self, key: str) -> Path:
        return self.path / "statistics" / f"{key}.npy"

    def publish(self, key: str, place: Path, row: dict[str, Any]) -> None:
        """Move the files of a result out of the folder `place`, those that exist; then write `row`."""
        parts = {
            "video.mp4": self.path / "videos" / f"{key}.mp4",
            "features.npy": self.features(key),
            "statistics.npy": self.statistics(key),
        }
        for name, target in parts.items():
            if (place / name).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(place / name, target)
        write_finite_json(self.result(key), row)

    def rows(self) -> list[dict[str, Any]]:
        """Every result of a system so far, in no order."""
        return [row for row in self._results().values() if "model" in row]

    def failed(self) -> dict[str, str]:
        """The clips that could not be read when they were measured, with the reason."""
        return {row["clip"]: row["failed"] for row in self._results().values() if "failed" in row}

    def retry_failed(self) -> None:
        """Forget which clips could not be read."""
        for path, row in self._results().items():
            if "failed" in row:
                path.unlink(missing_ok=True)

    def skipped(self) -> dict[str, str]:
        """All clips that are left out: those that could not be listed, by their hashes, and those since."""
        return read_json(self.clips)["skipped"] | self.failed()

    def _results(self) -> dict[Path, dict[str, Any]]:
        return {path: read_json(path) for path in sorted((self.path / "results").glob("*/*/*.json"))}


def write_finite_json(path: Path, content: Any) -> None:
    """Write JSON that a browser reads, so without NaN and infinity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class MetricConfig:
    """Metrics that need networks of their own; None leaves one out."""

    lpips: Net | None = None
    lpips_weights: Path | None = None
    lpips_sha256: str | None = None
    fvd: ExtractorSpec | None = None
    perceptual: bool = False  # feature distance and Fréchet distances by EfficientNet-Lite0

    def __post_init__(self) -> None:
        has_net, has_weights = self.lpips is not None, self.lpips_weights is not None
        if has_net != has_weights or (self.lpips_sha256 is not None and not has_net):
            raise ValueError("LPIPS needs a network and its weights; give --lpips-net and --lpips-weights.")

    def load(self, device: torch.device) -> "LoadedMetrics":
        """Raises ValueError when weights are missing or different."""
        lpips, extractor, network = None, None, None
        settings = dict[str, Any](lpips=None, fvd=None, perceptual=None)
        if self.lpips is not None and self.lpips_weights is not None:
            lpips = Lpips.from_file(self.lpips_weights, self.lpips, self.lpips_sha256).to(device)
            settings["lpips"] = {"net": self.lpips, "sha256": file_sha256(self.lpips_weights)}
        if self.fvd is not None:
            extractor = self.fvd.load(device)
            names = ("name", "sha256", "frames", "size", "resize")
            settings["fvd"] = {name: getattr(extractor, name) for name in names}
        if self.perceptual:
            network = EfficientNetLite0.load().to(device)
            settings["perceptual"] = {"name": NAME, "sha256": SHA256}
        return LoadedMetrics(lpips, extractor, network, settings)


@dataclass(frozen=True)
class LoadedMetrics:
    """Networks of the metrics, on a device, and what identifies them in a report."""

    lpips: Lpips | None
    extractor: Extractor | None
    efficientnet: EfficientNetLite0 | None
    settings: dict[str, Any]


class ClipError(VideoError):
    """A clip that was listed can't be read any more; its results are left out."""


@dataclass(frozen=True)
class FittedClip:
    """A clip as it is measured: the first frames of the file at `path`, fitted to `size` if any."""

    path: Path
    clip: Clip
    size: Size | None
    max_frames: int | None

    def open(self) -> VideoReader:
        """Raises ClipError when it can't be read any more."""
        try:
            return VideoReader(self.path)
        except VideoError as error:
            raise ClipError(str(error)) from None

    def frames(self, reader: VideoReader) -> Iterator[UInt8[Tensor, "h w 3"]]:
        """Raises ClipError unless these are as many frames as were listed."""
        count = 0
        try:
            for frame in islice(reader, self.max_frames):
                yield resize_center_crop(frame.image, self.size)
                count += 1
        except VideoError as error:
            raise ClipError(str(error)) from None
        if count != self.clip.frames:
            raise ClipError(f"{self.path} had {self.clip.frames} frames when it was listed, and now {count}.")


@contextmanager
def clip_recorder(
    place: Path, fitted: FittedClip, extractor: Extractor | None
) -> Iterator[Callable[[UInt8[Tensor, "t h w 3"]], None]]:
    """A function that writes frames to a folder, as a video that every browser plays and as features."""
    features = None if extractor is None else ClipFeatures(extractor)
    height, width = fitted.clip.sides(fitted.size)
    padding = (0, 0, 0, width % 2, 0, height % 2)  # browsers need even sides
    size = width + width % 2, height + height % 2
    with VideoWriter(place / "video.mp4", *size, fitted.clip.rate) as writer:

        def write(frames: UInt8[Tensor, "t h w 3"]) -> None:
            if features is not None:
                features.update(frames)
            for frame in frames:
                writer.write(functional.pad(frame, padding))

        yield write
    if features is not None:
        np.save(place / "features.npy", features.compute().numpy())


def measure(
    system: System, fitted: FittedClip, options: DecodeOptions, loaded: LoadedMetrics, place: Path
) -> tuple[ClipResult, dict[str, Any]]:
    """Reconstruct a clip, compare it with the original, and record it in the folder `place`.

    Returns its quality, and its compression (see `System.compression`) with the `decode_bytes` of a chunk.
    Reading, computing and measuring overlap. Raises ValueError when the reconstruction can't be measured.
    """
    stats, metrics = CodingStats(), ClipMetrics(system.chunk_frames, loaded.lpips, loaded.efficientnet)
    with ExitStack() as files:
        reader = files.enter_context(fitted.open())
        frames = files.enter_context(prefetch(fitted.frames(reader), PREFETCH_FRAMES))
        record = files.enter_context(clip_recorder(place, fitted, loaded.extractor))

        def compare(originals: UInt8[Tensor, "t h w 3"], decoded: UInt8[Tensor, "t h w 3"]) -> None:
            metrics.update(originals, decoded)
            record(decoded)

        compare_in_background = files.enter_context(background_writer(compare))
        for originals, decoded in system.reconstruct(fitted.clip, frames, options, stats):
            compare_in_background(originals, decoded)
    result = metrics.result(fitted.clip.name, stats)
    if metrics.features is not None:
        np.save(place / "statistics.npy", metrics.features.statistics().numpy())
    height, width = fitted.clip.sides(fitted.size)
    compression = system.compression(fitted.clip, height, width, stats.latents)
    return result, compression | {"decode_bytes": system.decode_bytes(fitted.clip, height, width, options)}


def record_original(fitted: FittedClip, loaded: LoadedMetrics, place: Path) -> None:
    """Record a clip itself in the folder `place`, as reconstructions are compared with it."""
    with fitted.open() as reader, clip_recorder(place, fitted, loaded.extractor) as record:
        for frame in fitted.frames(reader):
            record(frame[None])
