"""Latents of clips: a grid, and a sequence of adaptive length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Latents:
    """The latents of clips: a grid and, for embedders of adaptive length, a sequence of 1D latents.

    The 1D latents of a clip belong to regions of its picture, one region after the other: `lengths[..., i]`
    of them to region i, the most important first. Shorter sequences of a batch are padded with zeros. An
    embedder whose latents are a grid alone (REGEN, MAGVIT-v2) has no regions: r = 0 and s = 0.

    A batch has a leading axis b in all three tensors; `latents[i]` is one clip, without it.
    """

    grid: Shaped[Tensor, "*b c n y x"]
    sequence: Shaped[Tensor, "*b c s"]
    lengths: Int64[Tensor, "*b r"]

    @classmethod
    def of(cls, latents: "Tensor | Latents") -> "Latents":
        """Latents as an embedder's `encode` returns them: a tensor "*b c n y x" is a grid alone."""
        if isinstance(latents, Latents):
            return latents
        lengths = torch.empty(*latents.shape[:-4], 0, dtype=torch.int64, device=latents.device)
        return cls(latents, latents.new_empty(*latents.shape[:-3], 0), lengths)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Latents":
        """The latents of a training batch (see `tensors`)."""
        if "sequence" not in tensors:
            return cls.of(tensors["latents"])
        return cls(tensors["latents"], tensors["sequence"], tensors["lengths"])

    @classmethod
    def from_flat(
        cls, grid: Float[Tensor, "b c n y x"], flat: Float[Tensor, "c _"], lengths: Int64[Tensor, "b r"]
    ) -> "Latents":
        """A batch whose 1D latents come one clip after another, without padding (see `flat`)."""
        counts = lengths.sum(1)
        mask = _first(counts, max(counts.tolist(), default=0))
        padded = flat.new_zeros(*mask.shape, len(flat))
        padded[mask] = flat.mT
        return cls(grid, padded.mT.contiguous(), lengths)

    @property
    def shape(self) -> torch.Size:
        """Shape of the grid."""
        return self.grid.shape

    @property
    def has_sequence(self) -> bool:
        """Whether there are regions with 1D latents, of whatever number."""
        return self.lengths.shape[-1] > 0

    @property
    def length(self) -> int:
        """1D latents of all clips together."""
        return int(self.lengths.sum()) if self.has_sequence else 0

    @property
    def parts(self) -> list[Tensor]:
        """The grid, and the sequence where there is one."""
        return [self.grid, self.sequence] if self.has_sequence else [self.grid]

    def for_decoder(self) -> "Tensor | Latents":
        """Latents as an embedder's `decode` takes them: the tensor of a grid alone, else these latents."""
        return self if self.has_sequence else self.grid

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a training batch by name: `latents` and, with 1D latents, `sequence`, `lengths`."""
        more = {"sequence": self.sequence, "lengths": self.lengths} if self.has_sequence else {}
        return {"latents": self.grid, **more}

    def flat(self) -> Float[Tensor, "c _"]:
        """The 1D latents of a batch, one clip after another, without padding."""
        return torch.cat([self[i].sequence for i in range(len(self))], dim=1)

    def numel(self) -> int:
        """Values in all latents, without padding."""
        return self.grid.numel() + self.length * self.sequence.shape[-2]

    def __getitem__(self, index: int) -> "Latents":
        """One clip of a batch, without padding."""
        lengths = self.lengths[index]
        count = int(lengths.sum()) if self.has_sequence else 0
        return Latents(self.grid[index], self.sequence[index, :, :count], lengths)

    def __len__(self) -> int:
        return len(self.grid)

    def cpu(self) -> "Latents":
        return self.to(torch.device("cpu"))

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> "Latents":
        grid, sequence = (part.to(device=device, dtype=dtype) for part in (self.grid, self.sequence))
        return Latents(grid, sequence, self.lengths.to(device=device))

    def map(self, function: Callable[..., Tensor], *others: "Latents") -> "Latents":
        """`function` of the grids and of the sequences of these and other latents, with these lengths."""
        grid = function(self.grid, *(other.grid for other in others))
        return Latents(grid, function(self.sequence, *(other.sequence for other in others)), self.lengths)

    def repeat(self, count: int) -> "Latents":
        """The batch `count` times, one after another."""
        return Latents(*(torch.cat([part] * count) for part in (self.grid, self.sequence, self.lengths)))

    def is_finite(self) -> bool:
        """Whether all values are finite."""
        return bool(torch.isfinite(self.grid).all() & torch.isfinite(self.sequence).all())

    def noise(self, generators: list[Generator]) -> "Latents":
        """Gaussian noise of the same shape in fp32, each clip's from its own generator.

        1D latents draw latent by latent, and 16 at a time, as torch draws: a clip's noise is the same in any
        batch.
        """
        grid = randn_tensor(self.grid.shape, generators, self.grid.device, torch.float32)
        b, c, s = self.sequence.shape
        drawn = randn_tensor((b, -(-s // 16) * 16, c), generators, self.grid.device, torch.float32)
        return Latents(grid, drawn[:, :s].mT, self.lengths)

    def regions(self) -> list[tuple[Float[Tensor, "b c _"], Bool[Tensor, "b _"]]]:
        """The 1D latents of each region of a batch, padded, and the mask of those that exist."""
        ends = self.lengths.cumsum(-1)
        filled = F.pad(self.sequence, (0, 1))  # so that an index may point behind the end
        parts = []
        for region, count in enumerate(self.lengths.amax(0).tolist()):
            mask = _first(self.lengths[:, region], count)
            places = (ends - self.lengths)[:, region, None] + torch.arange(count, device=ends.device)
            places = torch.where(mask, places, filled.shape[-1] - 1)
            index = places[:, None].expand(-1, filled.shape[1], -1)
            parts.append((filled.gather(2, index), mask))
        return parts

    def truncate(self, lengths: Int64[Tensor, "b r"]) -> "Latents":
        """The first `lengths` 1D latents of each region of a batch, or all where there are no more."""
        lengths = torch.minimum(lengths.to(self.lengths.device), self.lengths)
        return pack(self.grid, [sequence for sequence, _ in self.regions()], lengths)


def pack(
    grid: Shaped[Tensor, "b c n y x"], parts: Sequence[Float[Tensor, "b c _"]], lengths: Int64[Tensor, "b r"]
) -> Latents:
    """Latents whose region i has the first `lengths[:, i]` of `parts[i]`."""
    assert lengths.shape == (len(grid), len(parts)), lengths.shape
    if not parts:
        return Latents.of(grid)
    mask = torch.cat([_first(lengths[:, i], part.shape[2]) for i, part in enumerate(parts)], dim=1)
    everything = torch.cat(list(parts), dim=2)
    longest = int(mask.sum(1).max()) if mask.shape[1] else 0
    order = torch.argsort(~mask, dim=1, stable=True)[:, :longest]  # those that exist first, in their order
    exists = mask.gather(1, order)[:, None]
    sequence = everything.gather(2, order[:, None].expand(-1, everything.shape[1], -1))
    return Latents(grid, torch.where(exists, sequence, 0.0), lengths)


def collate(clips: Sequence[Latents]) -> Latents:
    """Latents of several clips of one embedder, each without a batch axis, as one batch."""
    longest = max(clip.sequence.shape[-1] for clip in clips)
    return Latents(
        torch.stack([clip.grid for clip in clips]),
        torch.stack([F.pad(clip.sequence, (0, longest - clip.sequence.shape[-1])) for clip in clips]),
        torch.stack([clip.lengths for clip in clips]),
    )


class GaussianPosterior:
    """Normal distributions of latents: `parameters` have their means and log variances along axis 1.

    It has what diffusers' `DiagonalGaussianDistribution` has, whose module takes long to import. Log
    variances are clamped to [-30, 20].
    """

    def __init__(self, parameters: Float[Tensor, "b m ..."]) -> None:
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std = torch.exp(0.5 * self.logvar)
        self.var = torch.exp(self.logvar)

    def mode(self) -> Float[Tensor, "b c ..."]:
        """The most likely latents."""
        return self.mean

    def sample(self, generator: Generator | list[Generator] | None = None) -> Float[Tensor, "b c ..."]:
        """Latents drawn at random, by one generator or one for each entry of the batch."""
        x = self.parameters
        return self.mean + self.std * randn_tensor(self.mean.shape, generator, x.device, x.dtype)

    def kl(self) -> Float[Tensor, " b"]:
        """KL(posterior ‖ N(0, I)) of each entry of the batch, summed over its values."""
        return 0.5 * (self.mean.square() + self.var - 1 - self.logvar).flatten(1).sum(1)


@dataclass(frozen=True)
class LatentPosterior:
    """The distribution of the latents of a batch: means, and log variances where the encoder has them.

    `grid` and, for each region, one of `parts` hold c channels of means, or 2c with log variances behind
    them. `parts` are complete; the first `lengths` of each are kept.
    """

    grid: Float[Tensor, "b m n y x"]
    parts: list[Float[Tensor, "b m _"]]
    lengths: Int64[Tensor, "b r"]
    channels: int

    def mode(self) -> Latents:
        """The most likely latents."""
        return pack(self.grid[:, : self.channels], [p[:, : self.channels] for p in self.parts], self.lengths)

    @property
    def mean(self) -> Latents:
        """The mean latents, which are also the most likely ones."""
        return self.mode()

    def sample(self, generator: Generator | list[Generator] | None = None) -> Latents:
        """Latents drawn at random; the most likely ones where there are no variances."""
        grid, *parts = self.draw(generator)
        return pack(grid, parts, self.lengths)

    def draw(self, generator: Generator | list[Generator] | None = None) -> list[Tensor]:
        """A random grid, then the complete random 1D latents of each region."""
        if self.grid.shape[1] == self.channels:
            return [self.grid, *self.parts]
        return [
            GaussianPosterior(moments.float()).sample(generator).to(moments.dtype)
            for moments in (self.grid, *self.parts)
        ]

    def masks(self) -> list[Bool[Tensor, "b _"]]:
        """Which 1D latents of each region are kept."""
        return [_first(self.lengths[:, i], part.shape[2]) for i, part in enumerate(self.parts)]

    def kl(self) -> Float[Tensor, ""]:
        """KL(posterior ‖ N(0, I)): summed over channels, averaged over kept latents, then over clips."""
        grid, mask = _kl(self.grid).flatten(1), torch.cat(self.masks(), dim=1)
        total = grid.sum(1) + (_kl(torch.cat(self.parts, dim=2)) * mask).sum(1)
        return (total / (grid.shape[1] + mask.sum(1))).mean()


def _kl(moments: Float[Tensor, "b m ..."]) -> Float[Tensor, "b ..."]:
    posterior = GaussianPosterior(moments.float())
    return 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).sum(1)


def _first(lengths: Int64[Tensor, " b"], count: int) -> Bool[Tensor, "b s"]:
    """The mask of the first `lengths` of `count` latents."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]
