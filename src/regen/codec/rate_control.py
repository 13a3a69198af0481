"""How many 1D latents the chunks of a video keep: a number, what a budget allows, or what a quality needs.

For models with latents of adaptive length (One-DVA; spec B4). Without any of these a chunk keeps what the
motion of each of its regions asks for. A shorter sequence is the beginning of the longer one, so a chunk is
encoded in full and cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, inf
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from regen.codec.chunks import Embedder, pad, to_clip
from regen.diffusion import Solver, euler
from regen.embedders.hybrid import HybridAutoencoder
from regen.latents import HybridLatents
from regen.networks.length_rule import motion
from regen.runtime import generator_for
from regen.tiling import Tile

Clip = Float[Tensor, "1 3 t h w"]


@runtime_checkable
class Lengths(Protocol):
    """Chooses how many 1D latents each region of a chunk keeps."""

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: HybridLatents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        """For chunk number `index`, whose padded frames are `clip` and all of whose latents are `full`."""
        ...


@dataclass(frozen=True)
class FixedLength:
    """The same for every chunk: `count` 1D latents, or a `share` of those that it can have."""

    count: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        assert (self.count is None) != (self.share is None), "a number or a share"
        if (self.count is not None and self.count < 0) or not 0 <= (self.share or 0) <= 1:
            raise ValueError("A length is a number of 0 or more, or a share from 0% to 100%.")

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: HybridLatents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        """Regions share by their size. Raises ValueError when a chunk can't have so many."""
        most = sum(model.budgets(*clip.shape[2:]))
        count = round((self.share or 0) * most) if self.count is None else self.count
        if count > most and clip.shape[2] == 1:  # what is too long for an image may fit the video's chunks
            count = most
        return model.shared_length(count, *clip.shape[2:])


@dataclass(frozen=True)
class PlannedLengths:
    """Those of each chunk and region, known beforehand (see `plan`)."""

    rows: Sequence[Int64[Tensor, " r"]]

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: HybridLatents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        return self.rows[index]


@dataclass(frozen=True)
class TargetPsnr:
    """The shortest length with which each region reaches a PSNR of `decibels`, found by bisection.

    The chunk is decoded for it as with `steps`, `seed` and `solver`, about eight times. A region that does
    not reach it keeps all it has. That more latents are better is assumed, and true in the mean only.
    """

    decibels: float
    steps: int = 1
    seed: int = 0
    solver: Solver = euler

    def __post_init__(self) -> None:
        if not 0 < self.decibels < 100:
            raise ValueError(f"A PSNR of {self.decibels} dB can't be aimed at; give a number such as 30.")

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: HybridLatents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        most = full.lengths[0]
        enough, low = most.clone(), torch.zeros_like(most)  # the best known, and the least not yet tried
        while bool((low < enough).any()):
            middle = (low + enough) // 2
            reached = self._reached(model, clip, full.shortened(middle[None]), index, tile)
            enough = torch.where(reached, middle, enough)
            low = torch.where(reached, low, torch.minimum(middle + 1, enough))
        return enough

    def _reached(
        self, model: HybridAutoencoder, clip: Clip, latents: HybridLatents, index: int, tile: Tile | None
    ) -> Tensor:
        noise = [generator_for(self.seed, index)]
        answer = model.decode(
            latents, steps=self.steps, generator=noise, solver=self.solver, tile=tile
        ).sample
        answer = answer[..., : clip.shape[3], : clip.shape[4]].clamp(-1, 1).float()
        parts = zip(model.region_clips(answer), model.region_clips(clip.float()), strict=True)
        errors = torch.stack([(ours - theirs).square().mean() for ours, theirs in parts])
        return -10 * torch.log10(errors / 4) >= self.decibels


@dataclass(frozen=True)
class Budget:
    """`values_per_second` numbers in all latents of a video, for each second of it: more for busy chunks."""

    values_per_second: float

    def __post_init__(self) -> None:
        if not 0 < self.values_per_second < inf:
            raise ValueError(f"Values per second must be > 0 and finite, got {self.values_per_second}.")


def parse_length(text: str) -> FixedLength:
    """ "320", or "25%" of what a chunk can have. Raises ValueError for anything else."""
    number = text.strip().removesuffix("%")
    try:
        if text.strip().endswith("%"):
            return FixedLength(share=float(number) / 100)
        return FixedLength(count=int(number))
    except ValueError:
        raise ValueError(
            f"{text!r} is no length; give a number such as 320, or a share such as 25%."
        ) from None


def check_lengths(model: Embedder, lengths: Lengths | Budget | None) -> None:
    """Raises ValueError when lengths are given to a model whose latents have none."""
    if lengths is not None and not isinstance(model, HybridAutoencoder):
        raise ValueError(
            "--num-latents, --values-per-second and --target-psnr need a One-DVA model; the latents of this "
            "model have a fixed size."
        )


def truncate_to(
    lengths: Lengths, model: Embedder, clip: Clip, index: int, tile: Tile | None
) -> HybridLatents:
    """The latents of chunk number `index`, as long as `lengths` has it."""
    assert isinstance(model, HybridAutoencoder)
    full = encode_full(model, clip, tile)
    return full.shortened(lengths.choose(model, clip, full, index, tile)[None])


def encode_full(
    model: HybridAutoencoder, clips: Float[Tensor, "b 3 t h w"], tile: Tile | None
) -> HybridLatents:
    """Clips with all 1D latents that they can have."""
    most = sum(model.budgets(*clips.shape[2:]))
    return model.encode(clips, tile=tile, length=most).latent_dist.mode()


def two_pass(
    model: Embedder, frames: Iterable[UInt8[Tensor, "h w 3"]], rate: Fraction, budget: Budget
) -> PlannedLengths:
    """Look at all frames of a video, and share a budget out among its chunks and their regions.

    Each gets a part in proportion to what its motion asks for, but not more than it can use. Raises
    ValueError when the structural latents alone exceed the budget.
    """
    check_lengths(model, budget)
    assert isinstance(model, HybridAutoencoder)
    wanted, most, structural, count = [], [], 0, 0
    for chunk in _chunks(frames, model.chunk_frames):
        length = 1 if count == 0 and len(chunk) == 1 else model.chunk_frames
        count += len(chunk)
        clip = pad(to_clip(chunk, model.device, model.dtype), length, model.spatial_compression_ratio)
        budgets = torch.tensor(model.budgets(*clip.shape[2:]))
        shares = [model.length_rule.share(motion(part))[0].cpu() for part in model.region_clips(clip)]
        wanted.append(budgets * torch.stack(shares))
        most.append(budgets)
        structural += int(budgets.sum())
    if not most:
        return PlannedLengths([])
    each = count / rate / model.latent_channels  # seconds of the video for each channel, exactly
    room = int(Fraction(budget.values_per_second) * each) - structural
    if room < 0:
        raise ValueError(
            f"--values-per-second must be at least {ceil(structural / each)} for the structural latents, "
            f"got {budget.values_per_second:g}; a smaller --size needs less."
        )
    flat = allocate(torch.cat(wanted), torch.cat(most), room)
    return PlannedLengths(flat.split([len(row) for row in most]))


def allocate(wanted: Float[Tensor, " n"], most: Int64[Tensor, " n"], total: int) -> Int64[Tensor, " n"]:
    """`total` in whole parts, in proportion to `wanted` and at most `most`; less where all have the most."""
    total = min(total, int(most.sum()))
    wanted = torch.maximum(wanted.double(), 1e-6 * most)  # what wants nothing gets what all others leave
    low, high = 0.0, 2e6
    for _ in range(80):
        middle = (low + high) / 2
        fits = float(torch.minimum(wanted * middle, most).sum()) <= total
        low, high = (middle, high) if fits else (low, middle)
    exact = torch.minimum(wanted * low, most)
    parts = exact.floor().long()
    rest = total - int(parts.sum())
    order = torch.argsort(exact - parts, descending=True, stable=True)
    parts[order[parts[order] < most[order]][:rest]] += 1
    return parts


def _chunks(frames: Iterable[UInt8[Tensor, "h w 3"]], length: int) -> Iterator[UInt8[Tensor, "t h w 3"]]:
    waiting: list[Tensor] = []
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == length:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)
