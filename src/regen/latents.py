"""Latents of two kinds: a grid, and an ordered sequence as long as the content needs (One-DVA; spec B3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class HybridLatents:
    """The structural latents of clips, and as many of their 1D latents as each keeps.

    The 1D latents of a clip belong to regions of its picture, one after the other: `lengths[..., i]` of them
    to region i, in their order, the important ones first. A small picture is one region. Where clips of a
    batch keep different numbers, `sequence` is filled up with zeros, which mean nothing.

    Of a whole batch all three have a first axis b; `latents[i]` is one clip's, without it.
    """

    structural: Float[Tensor, "*b c n y x"]
    sequence: Float[Tensor, "*b c s"]
    lengths: Int64[Tensor, "*b r"]

    @property
    def shape(self) -> torch.Size:
        """That of the structural latents."""
        return self.structural.shape

    @property
    def length(self) -> int:
        """1D latents of all clips together."""
        return int(self.lengths.sum())

    def numel(self) -> int:
        """Numbers in all latents that are kept."""
        return self.structural.numel() + self.length * self.sequence.shape[-2]

    def __getitem__(self, index: int) -> "HybridLatents":
        """One clip of a batch, without what filled up its sequence."""
        lengths = self.lengths[index]
        return HybridLatents(self.structural[index], self.sequence[index, :, : int(lengths.sum())], lengths)

    def __len__(self) -> int:
        return len(self.structural)

    def cpu(self) -> "HybridLatents":
        return HybridLatents(self.structural.cpu(), self.sequence.cpu(), self.lengths.cpu())

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> "HybridLatents":
        structural, sequence = (
            part.to(device=device, dtype=dtype) for part in (self.structural, self.sequence)
        )
        return HybridLatents(structural, sequence, self.lengths.to(device=device))

    def isfinite(self) -> bool:
        """Whether all numbers are finite."""
        return bool(torch.isfinite(self.structural).all() & torch.isfinite(self.sequence).all())

    def regions(self) -> list[tuple[Float[Tensor, "b c _"], Bool[Tensor, "b _"]]]:
        """The 1D latents of each region of a batch, side by side, and which of them are there."""
        ends = self.lengths.cumsum(-1)
        longest = self.lengths.amax(0).tolist()
        filled = F.pad(self.sequence, (0, 1))  # so that an index may point behind the end
        parts = []
        for region, count in enumerate(longest):
            keep = _first(self.lengths[:, region], count)
            places = (ends - self.lengths)[:, region, None] + torch.arange(count, device=ends.device)
            places = torch.where(keep, places, filled.shape[-1] - 1)
            index = places[:, None].expand(-1, filled.shape[1], -1)
            parts.append((filled.gather(2, index), keep))
        return parts

    def shortened(self, lengths: Int64[Tensor, "*b r"]) -> "HybridLatents":
        """The first `lengths` 1D latents of each region, or all where there are not more (spec B11.2)."""
        if self.structural.ndim == 4:
            alone = HybridLatents(self.structural[None], self.sequence[None], self.lengths[None])
            return alone.shortened(lengths[None])[0]
        lengths = torch.minimum(lengths.to(self.lengths.device), self.lengths)
        parts = [sequence for sequence, _ in self.regions()]
        return joined(self.structural, parts, lengths)


@dataclass(frozen=True)
class HybridPosterior:
    """What an encoder knows of the latents of a batch: their means, and log variances where it has them.

    `structural` and, for each region, one of `parts` hold c channels of means, or 2c with log variances
    behind them. `parts` are complete; the first `lengths` of each are kept.
    """

    structural: Float[Tensor, "b m n y x"]
    parts: list[Float[Tensor, "b m _"]]
    lengths: Int64[Tensor, "b r"]
    channels: int

    def mode(self) -> HybridLatents:
        """The most likely latents."""
        means = [part[:, : self.channels] for part in self.parts]
        return joined(self.structural[:, : self.channels], means, self.lengths)

    def sample(self, generator: Generator | list[Generator] | None = None) -> HybridLatents:
        """Latents drawn at random; the most likely ones where there are no variances."""
        structural, *parts = self.draw(generator)
        return joined(structural, parts, self.lengths)

    def draw(self, generator: Generator | list[Generator] | None = None) -> list[Tensor]:
        """Structural latents, then the complete 1D latents of each region, drawn at random."""
        return [self._drawn(moments, generator) for moments in (self.structural, *self.parts)]

    def keeps(self) -> list[Bool[Tensor, "b _"]]:
        """Which 1D latents of each region are kept."""
        return [_first(self.lengths[:, i], part.shape[2]) for i, part in enumerate(self.parts)]

    def kl(self) -> Float[Tensor, ""]:
        """KL(posterior ‖ N(0, I)): the sum over channels, the mean over latents that are kept, then the mean
        over clips (spec B5.3)."""
        structural, keep = _kl(self.structural).flatten(1), torch.cat(self.keeps(), dim=1)
        total = structural.sum(1) + (_kl(torch.cat(self.parts, dim=2)) * keep).sum(1)
        return (total / (structural.shape[1] + keep.sum(1))).mean()

    def _drawn(self, moments: Tensor, generator: Generator | list[Generator] | None) -> Tensor:
        if moments.shape[1] == self.channels:
            return moments
        mean, log_variance = moments.float().chunk(2, dim=1)
        noise = randn_tensor(mean.shape, generator, mean.device, torch.float32)
        return (mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp()).to(moments.dtype)


def _kl(moments: Float[Tensor, "b m ..."]) -> Float[Tensor, "b ..."]:
    mean, log_variance = moments.float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-30, 20)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def _first(lengths: Int64[Tensor, " b"], count: int) -> Bool[Tensor, "b s"]:
    """Of `count` latents the first `lengths`."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]


Latents = Tensor | HybridLatents


def joined(
    structural: Float[Tensor, "b c n y x"],
    parts: Sequence[Float[Tensor, "b c _"]],
    lengths: Int64[Tensor, "b r"],
) -> HybridLatents:
    """Latents whose region i keeps the first `lengths[:, i]` of `parts[i]`."""
    assert lengths.shape == (len(structural), len(parts)), lengths.shape
    keep = torch.cat([_first(lengths[:, i], part.shape[2]) for i, part in enumerate(parts)], dim=1)
    everything = torch.cat(list(parts), dim=2)
    longest = int(keep.sum(1).max()) if keep.shape[1] else 0
    order = torch.argsort(~keep, dim=1, stable=True)[:, :longest]  # those that are kept first, in their order
    there = keep.gather(1, order)[:, None]
    sequence = everything.gather(2, order[:, None].expand(-1, everything.shape[1], -1))
    return HybridLatents(structural, torch.where(there, sequence, 0.0), lengths)


def batch_of(latents: Sequence[Latents]) -> Latents:
    """Latents of several clips, each without an axis for the batch, as one batch."""
    hybrid = [one for one in latents if isinstance(one, HybridLatents)]
    if not hybrid:
        return torch.stack([one for one in latents if isinstance(one, Tensor)])
    assert len(hybrid) == len(latents), "latents of one model"
    longest = max(one.sequence.shape[-1] for one in hybrid)
    return HybridLatents(
        torch.stack([one.structural for one in hybrid]),
        torch.stack([F.pad(one.sequence, (0, longest - one.sequence.shape[-1])) for one in hybrid]),
        torch.stack([one.lengths for one in hybrid]),
    )


def latents_in(batch: dict[str, Tensor]) -> Latents:
    """The latents of a training batch: `latents`, with `sequence` and `lengths` where there are 1D ones."""
    if "sequence" not in batch:
        return batch["latents"]
    return HybridLatents(batch["latents"], batch["sequence"], batch["lengths"])


def parts_of(latents: Latents) -> list[Tensor]:
    """The tensors of latents: one, or the structural and the 1D ones."""
    return [latents] if isinstance(latents, Tensor) else [latents.structural, latents.sequence]


def of_parts(parts: Sequence[Tensor], like: Latents) -> Latents:
    """The inverse of `parts_of`, with as many 1D latents as `like` has."""
    if isinstance(like, Tensor):
        return parts[0]
    return HybridLatents(parts[0], parts[1], like.lengths)


def noise_like(latents: Latents, generators: list[Generator]) -> list[Tensor]:
    """Noise for each of `parts_of(latents)` in fp32; that of a clip comes from its own generator.

    1D latents draw latent by latent, and 16 at a time, as torch draws: so a clip's noise is the same in any
    batch.
    """
    structural, *rest = parts_of(latents)
    noise = [randn_tensor(structural.shape, generators, structural.device, torch.float32)]
    for sequence in rest:
        b, c, s = sequence.shape
        drawn = randn_tensor((b, -(-s // 16) * 16, c), generators, sequence.device, torch.float32)
        noise.append(drawn[:, :s].mT)
    return noise


def is_finite(latents: Latents) -> bool:
    """Whether all numbers are finite."""
    return bool(torch.isfinite(latents).all()) if isinstance(latents, Tensor) else latents.isfinite()
