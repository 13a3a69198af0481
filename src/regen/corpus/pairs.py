"""PairedClips: random clips of a corpus, with the latents that were exported of them."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from regen.console import progress_bar
from regen.corpus.dataset import LatentDataset
from regen.corpus.exported_frames import ExportedFrames
from regen.corpus.sources import Corpus, CorpusSample, FrameSpec
from regen.data.clips import ClipDraw, ClipSample, ClipSpec
from regen.data.draws import ATTEMPTS, WeightedDraws, first_readable, held_out
from regen.data.failures import Failures
from regen.media.files import VideoError
from regen.media.pixels import parse_size
from regen.runtime import generator_for

Pair = tuple[UInt8[Tensor, "3 t h w"], Float[Tensor, "c n y x"], int]
"""A clip, its latents, and which latent frame of their chunk they begin with."""


class PairedClips:
    """Random clips with their exported latents, in place of those of a `ClipDataset`.

    `latents` were exported of `data`; each sample is paired with the one of its key there, at the frame rate,
    size and crop of the export. A clip is 1 + r n consecutive frames of one chunk and the 1 + n latent frames
    that begin with the one of its first frame; one frame is the first of a chunk, or an image. Crops lie on
    the grid of latents, and are neither scaled nor mirrored. With the folder `cache` each file is decoded
    once. Reading a sample takes at most `decode_timeout` seconds. Holds no open file.

    Raises ValueError when a sample is missing in `data`, or the data have changed since the export.
    """

    def __init__(
        self,
        latents: LatentDataset,
        data: Sequence[str | Path],
        cache: Path | None = None,
        decode_timeout: float | None = 60.0,
    ) -> None:
        self.latents, self.decode_timeout, self.failures = latents, decode_timeout, Failures()
        manifest = latents.manifest
        size, fps = manifest.settings["size"], manifest.settings["fps"]
        spec = FrameSpec(
            None if size is None else parse_size(size),
            None if fps is None else Fraction(fps),
            manifest.settings["frames"],
            manifest.chunk_frames,
            manifest.spatial_compression_ratio,
        )
        corpus = Corpus([*map(str, data)], int(manifest.settings["files_per_shard"]))
        self._samples = match_samples(latents, corpus, data)
        self._frames = ExportedFrames(corpus, spec, cache)
        self._ratio, self._side = manifest.temporal_compression_ratio, manifest.spatial_compression_ratio
        self._groups = whole_groups(latents)
        self._select(np.arange(len(latents)))

    def _select(self, numbers: Int64[np.ndarray, " n"]) -> None:
        self._numbers = numbers  # of the samples in the export
        frames = self._column("frames")
        self._known_places: dict[int, Int64[np.ndarray, "sample 2"]] = {}
        self._draws = WeightedDraws(frames, self._column("frame_rate"), frames == 1)

    def __len__(self) -> int:
        return len(self._numbers)

    def _column(self, name: str) -> np.ndarray:
        return self.latents.column(name)[self._numbers]

    @property
    def skipped(self) -> dict[str, str]:
        """No files: those that can't be read have no latents."""
        return {}

    def fingerprint(self) -> str:
        """Depends on the encoder, the settings of the export, and the keys, lengths and sizes of samples."""
        manifest = self.latents.manifest
        digest = hashlib.blake2b(digest_size=8)
        digest.update(json.dumps([manifest.weights, manifest.settings], sort_keys=True).encode())
        columns = [self._column(name).tolist() for name in ("frames", "width", "height")]
        for number, *facts in zip(self._numbers.tolist(), *columns, strict=True):
            digest.update(f"{self.latents.name(number)} {facts}\n".encode())
        return digest.hexdigest()

    def split(self, num_val: int, frames: int = 1) -> tuple["PairedClips", "PairedClips"]:
        """(training, validation): `num_val` samples with clips of `frames` frames, chosen by their keys.

        Raises ValueError when there are too few.
        """
        candidates = np.flatnonzero(self._places(frames).any(axis=1))
        if not 0 < num_val < len(self) or num_val > len(candidates):
            raise ValueError(
                f"{num_val} samples can't be held out of {len(self)}, {len(candidates)} of which have "
                f"{frames} frames in a chunk; export more, or lower --data.num-val-videos."
            )
        keys = (self.latents.name(number)[1].encode() for number in self._numbers[candidates].tolist())
        chosen = np.zeros(len(self), dtype=bool)
        chosen[held_out(keys, candidates, num_val)] = True
        parts = copy.copy(self), copy.copy(self)
        parts[0]._select(self._numbers[~chosen])
        parts[1]._select(self._numbers[chosen])
        return parts

    def fill_cache(self) -> None:
        """Decode the files that are not in the cache yet, with a progress bar."""
        with progress_bar("decoding videos") as on_progress:
            for done, number in enumerate(self._numbers.tolist()):
                on_progress(done, len(self))
                try:
                    self._frames.fill_cache(self._samples[number])
                except VideoError as error:
                    self.failures.record(self._samples[number].key, error)

    def sample(self, sample_index: int, spec: ClipSpec, seed: int) -> ClipSample:
        """Clip number `sample_index`, a function of (seed, sample_index), with latents; see `ClipDataset`.

        Of `spec` the frames, the size and the aspect ratios count. Raises ValueError when no sample is long
        and large enough, all that were drawn failed, or the size is no multiple of a latent's.
        """
        side = self._side
        if spec.size[0] % side or spec.size[1] % side:
            raise ValueError(
                f"Crops with their margin must have sides in multiples of {side}, those of a latent, got "
                f"{spec.size[0]} x {spec.size[1]}; change --data.stages.0.height, .width or .margin."
            )

        def attempts() -> Iterator[tuple[str, int, Callable[[], Pair]]]:
            for attempt in range(ATTEMPTS):
                generator = generator_for(seed, sample_index, attempt)
                which, *rest = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
                draw = ClipDraw(self._choose(spec, which), *rest)
                name = self._samples[draw.number].key
                yield name, draw.number, partial(self._read, spec, draw)

        pair, number, replaced = first_readable(attempts(), self.failures, self.decode_timeout)
        video, latents, begin = pair
        return ClipSample(video, number, replaced, latents, begin)

    def weight(self, spec: ClipSpec) -> float:
        """The sum of the weights of all samples that qualify for `spec`."""
        return float(self._sums(spec)[-1])

    def require_length(self, frames: int, frame_rate: float | None = None) -> None:
        """Raise ValueError unless some sample has `frames` frames in a chunk; only an export sets a rate."""
        if frame_rate is not None:
            raise ValueError(
                "Exported latents have the frame rate of the export (--fps); drop --data.frame-rate."
            )
        self._choose(ClipSpec(frames, (1, 1)), 0.0)

    def _choose(self, spec: ClipSpec, draw: float) -> int:
        sums = self._sums(spec)
        if sums[-1] == 0:
            raise ValueError(
                f"No sample of the latents in {self.latents.folder} has {spec.frames} frames in a chunk with "
                f"{spec.size[0]} x {spec.size[1]} pixels; export longer or larger ones, or use smaller crops."
            )
        return int(self._numbers[np.searchsorted(sums, draw * sums[-1], side="right")])

    def _sums(self, spec: ClipSpec) -> Float64[np.ndarray, " sample"]:
        kind = (spec.frames, spec.size, spec.aspect_ratios, spec.bucket)
        return self._draws.sums(kind, partial(self._fits, spec))

    def _fits(self, spec: ClipSpec) -> Bool[np.ndarray, " sample"]:
        side, height, width = self._side, self._column("height"), self._column("width")
        large = (height // side * side >= spec.size[0]) & (width // side * side >= spec.size[1])
        return large & self._places(spec.frames).any(axis=1) & spec.is_nearest(height, width)

    def _places(self, frames: int) -> Int64[np.ndarray, "sample 2"]:
        """Numbers of places where a clip of `frames` frames can begin, in the chunks of `whole_groups`."""
        if frames not in self._known_places:
            if frames == 1:  # an image: the first frame of a chunk
                places = np.stack([self._column("chunks") > 1, np.ones(len(self))], axis=1)
            else:
                places = (self._groups[self._numbers] - (frames - 1) // self._ratio + 1).clip(min=0)
            self._known_places[frames] = places.astype(np.int64)
        return self._known_places[frames]

    def _read(self, spec: ClipSpec, draw: ClipDraw) -> Pair:
        """The pair of a draw, from a place where its frames are all there. Raises VideoError."""
        row = int(np.searchsorted(self._numbers, draw.number))
        info, (before, last) = self.latents.info(draw.number), self._places(spec.frames)[row].tolist()
        place = int(draw.start * ((info.chunks - 1) * before + last))
        chunk = min(place // before, info.chunks - 1) if before else info.chunks - 1
        begin = place - chunk * before
        rows = _drawn(draw.top, info.height // self._side, spec.size[0] // self._side)
        columns = _drawn(draw.left, info.width // self._side, spec.size[1] // self._side)
        try:
            grid = self.latents.latents(draw.number, slice(chunk, chunk + 1)).grid[0]
        except ValueError as error:
            raise VideoError(str(error)) from None
        count = 1 + (spec.frames - 1) // self._ratio
        latents = grid[:, begin : begin + count, rows, columns].clone()
        first = chunk * self.latents.manifest.chunk_frames + self._ratio * begin
        pixels = self._frames.read(
            self._samples[draw.number],
            info.frames,
            range(first, first + spec.frames),
            slice(rows.start * self._side, rows.stop * self._side),
            slice(columns.start * self._side, columns.stop * self._side),
        )
        return rearrange(torch.from_numpy(pixels), "t h w c -> c t h w").contiguous(), latents, begin


def _drawn(where: float, length: int, count: int) -> slice:
    """`count` neighbours of `length`; `where` is uniform in [0, 1)."""
    start = int(where * (length - count + 1))
    return slice(start, start + count)


def whole_groups(latents: LatentDataset) -> Int64[np.ndarray, "sample 2"]:
    """Groups whose frames are all there: in each chunk before the last one (0 without), and in that."""
    ratio, column = latents.manifest.temporal_compression_ratio, latents.column
    before = np.where(column("chunks") > 1, (latents.manifest.chunk_frames - 1) // ratio, 0)
    return np.stack([before, (column("last_frames") - 1) // ratio], axis=1).astype(np.int64)


def longest_clip(latents: LatentDataset) -> int:
    """Frames of the longest clip that has latents: 1 + r n, at most those of a chunk."""
    return 1 + latents.manifest.temporal_compression_ratio * int(whole_groups(latents).max(initial=0))


def match_samples(latents: LatentDataset, corpus: Corpus, data: Sequence[str | Path]) -> list[CorpusSample]:
    """The sample of `corpus`, made of `data`, of which each of the latents was exported.

    Raises ValueError when one is missing, or the data have changed.
    """
    found = {
        (shard.name, sample.key): sample
        for number, shard in enumerate(corpus.shards)
        for sample in corpus.samples(number)
    }
    names = [latents.name(index) for index in range(len(latents))]
    missing = next((key for shard, key in names if (shard, key) not in found), None)
    if missing is not None:
        raise ValueError(
            f"The latents in {latents.folder} have a sample {missing}, which {', '.join(map(str, data))} "
            "lacks; give the data that they were exported of."
        )
    advice = "give the data as they were, or export the latents again"
    latents.manifest.check_data(latents.folder, corpus.shards, advice)
    return [found[name] for name in names]
