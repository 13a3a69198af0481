"""Rate control: the number of 1D latents that each chunk keeps.

For models with latents of adaptive length (One-DVA), whose default length follows the motion of each region
(docs/method.md, Sec. 16). A shorter sequence is a prefix of the longer one, so chunks are encoded in full and
truncated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import ceil, inf
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from regen.codec.chunks import to_clip
from regen.diffusion import Noise, Solver, euler
from regen.embedders.clips import pad
from regen.embedders.hybrid import HybridAutoencoder
from regen.embedders.interface import Embedder
from regen.latents import Latents
from regen.networks.length_rule import motion
from regen.runtime import generator_for
from regen.tiling import Tile

Clip = Float[Tensor, "1 3 t h w"]


@runtime_checkable
class Lengths(Protocol):
    """Chooses the number of 1D latents of each region of a chunk."""

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: Latents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        """Lengths for chunk number `index` with padded frames `clip` and complete latents `full`."""
        ...


@dataclass(frozen=True)
class FixedLength:
    """The same length for every chunk: `count` 1D latents, or a `share` of the maximum."""

    count: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        assert (self.count is None) != (self.share is None), "give count or share"
        if (self.count is not None and self.count < 0) or not 0 <= (self.share or 0) <= 1:
            raise ValueError("A length must be a number of at least 0, or a share from 0% to 100%.")

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: Latents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        """Split the length among the regions by their size. Raises ValueError when it exceeds the maximum."""
        maximum = sum(model.budgets(*clip.shape[2:]))
        count = round((self.share or 0) * maximum) if self.count is None else self.count
        if count > maximum and clip.shape[2] == 1:  # may fit the chunks of a video, which have more
            count = maximum
        return model.shared_length(count, *clip.shape[2:])


@dataclass(frozen=True)
class PlannedLengths:
    """The lengths of every chunk and region, computed in advance by `two_pass`."""

    rows: Sequence[Int64[Tensor, " r"]]

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: Latents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        return self.rows[index]


@dataclass(frozen=True)
class TargetPsnr:
    """The shortest length at which each region reaches a PSNR of `decibels`, found by bisection.

    Decodes the chunk about eight times with `steps`, `seed`, `solver` and `noise`. A region that can't reach
    the target keeps all its latents. Bisection assumes that PSNR rises with the length, as it does on
    average.
    """

    decibels: float
    steps: int = 1
    seed: int = 0
    solver: Solver = euler
    noise: Noise | None = None

    def __post_init__(self) -> None:
        if not 0 < self.decibels < 100:
            raise ValueError(f"The target PSNR must be between 0 and 100 dB, got {self.decibels}.")

    def choose(
        self, model: HybridAutoencoder, clip: Clip, full: Latents, index: int, tile: Tile | None
    ) -> Int64[Tensor, " r"]:
        high, low = full.lengths[0].clone(), torch.zeros_like(full.lengths[0])  # high is known to suffice
        while bool((low < high).any()):
            middle = (low + high) // 2
            reached = self._is_reached(model, clip, full.truncate(middle[None]), index, tile)
            high = torch.where(reached, middle, high)
            low = torch.where(reached, low, torch.minimum(middle + 1, high))
        return high

    def _is_reached(
        self, model: HybridAutoencoder, clip: Clip, latents: Latents, index: int, tile: Tile | None
    ) -> Tensor:
        decoded = model.decode(
            latents, steps=self.steps, generator=generator_for(self.seed, index), solver=self.solver,
            tile=tile, noise=self.noise,
        ).sample  # fmt: skip
        decoded = decoded[..., : clip.shape[3], : clip.shape[4]].clamp(-1, 1).float()
        regions = zip(model.region_clips(decoded), model.region_clips(clip.float()), strict=True)
        errors = torch.stack([(output - target).square().mean() for output, target in regions])
        return -10 * torch.log10(errors / 4) >= self.decibels


@dataclass(frozen=True)
class Budget:
    """`values_per_second` values in all latents for each second of a video, more of them for busy chunks."""

    values_per_second: float

    def __post_init__(self) -> None:
        if not 0 < self.values_per_second < inf:
            raise ValueError(f"Values per second must be > 0 and finite, got {self.values_per_second}.")


def parse_length(text: str) -> FixedLength:
    """Parse "320", or "25%" of the maximum. Raises ValueError for anything else."""
    number = text.strip().removesuffix("%")
    try:
        if text.strip().endswith("%"):
            return FixedLength(share=float(number) / 100)
        return FixedLength(count=int(number))
    except ValueError:
        raise ValueError(
            f"A length must be a number such as 320 or a share such as 25%, got {text!r}."
        ) from None


def check_lengths(model: Embedder, lengths: Lengths | Budget | None) -> None:
    """Raise ValueError for `lengths` with a model whose latents have a fixed size."""
    if lengths is not None and not isinstance(model, HybridAutoencoder):
        raise ValueError(
            "--num-latents, --values-per-second and --target-psnr need a One-DVA model; the latents of this "
            "model have a fixed size."
        )


def truncate_to(lengths: Lengths, model: Embedder, clip: Clip, index: int, tile: Tile | None) -> Latents:
    """The latents of chunk number `index`, truncated to the lengths chosen for it."""
    assert isinstance(model, HybridAutoencoder)
    full = encode_full(model, clip, tile)
    return full.truncate(lengths.choose(model, clip, full, index, tile)[None])


def encode_full(model: HybridAutoencoder, clips: Float[Tensor, "b 3 t h w"], tile: Tile | None) -> Latents:
    """The latents of clips with the maximal number of 1D latents."""
    maximum = sum(model.budgets(*clips.shape[2:]))
    return model.encode(clips, tile=tile, length=maximum).latent_dist.mode()


def two_pass(
    model: Embedder, frames: Iterable[UInt8[Tensor, "h w 3"]], rate: Fraction, budget: Budget
) -> PlannedLengths:
    """The first pass over a video: distribute a budget over its chunks and their regions.

    Each region gets a share proportional to the length that its motion calls for, up to its maximum. Raises
    ValueError when the structural latents alone exceed the budget.
    """
    check_lengths(model, budget)
    assert isinstance(model, HybridAutoencoder)
    demands, maxima, structural, num_frames = [], [], 0, 0
    frames = iter(frames)
    while chunk := list(islice(frames, model.chunk_frames)):
        length = 1 if num_frames == 0 and len(chunk) == 1 else model.chunk_frames
        num_frames += len(chunk)
        clip = to_clip(torch.stack(chunk), model.device, model.dtype)
        clip = pad(clip, length, model.spatial_compression_ratio)
        maximum = torch.tensor(model.budgets(*clip.shape[2:]))
        shares = [model.length_rule.share(motion(region))[0].cpu() for region in model.region_clips(clip)]
        demands.append(maximum * torch.stack(shares))
        maxima.append(maximum)
        structural += int(maximum.sum())
    if not maxima:
        return PlannedLengths([])
    seconds_per_channel = num_frames / rate / model.latent_channels  # an exact fraction
    total = int(Fraction(budget.values_per_second) * seconds_per_channel) - structural
    if total < 0:
        minimum = ceil(structural / seconds_per_channel)
        raise ValueError(
            f"--values-per-second must be at least {minimum} for the structural latents, got "
            f"{budget.values_per_second:g}; a smaller --size needs less."
        )
    flat = allocate(torch.cat(demands), torch.cat(maxima), total)
    return PlannedLengths(flat.split([len(row) for row in maxima]))


def allocate(demand: Float[Tensor, " n"], maximum: Int64[Tensor, " n"], total: int) -> Int64[Tensor, " n"]:
    """Split `total` into integers proportional to `demand` and at most `maximum`; all maxima if they fit."""
    total = min(total, int(maximum.sum()))
    demand = torch.maximum(demand.double(), 1e-6 * maximum)  # without demand, what all others leave over
    low, high = 0.0, 2e6  # bisection of the common factor
    for _ in range(80):
        middle = (low + high) / 2
        fits = float(torch.minimum(demand * middle, maximum).sum()) <= total
        low, high = (middle, high) if fits else (low, middle)
    exact = torch.minimum(demand * low, maximum)
    parts = exact.floor().long()
    rest = total - int(parts.sum())
    order = torch.argsort(exact - parts, descending=True, stable=True)  # largest remainders first
    parts[order[parts[order] < maximum[order]][:rest]] += 1
    return parts
