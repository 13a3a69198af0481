"""Latents to begin with: their shape alone, with as many 1D latents as videos of their kind have."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from regen.codec.rate_control import FixedLength
from regen.embedders.hybrid import HybridAutoencoder
from regen.generate.generator import LatentSpec
from regen.generate.video_shape import VideoShape
from regen.latents import Latents
from regen.pretrained.models import Autoencoder


@dataclass(frozen=True)
class LatentTemplates:
    """Makes latents of a shape; their values mean nothing.

    Where there are 1D latents, every region of every chunk gets a length: by `length`, or drawn by its
    video's one of the `generators`, as often as training had it (for its class, where `labels` tell them).
    """

    spec: LatentSpec
    embedder: Autoencoder
    shape: VideoShape
    generators: list[Generator]
    labels: list[int]
    length: FixedLength | None
    device: torch.device

    def __call__(self, chunks: int) -> Latents:
        """Latents of so many chunks in a row for each video."""
        shape, count = self.shape, len(self.generators)
        size = (count, self.spec.channels, chunks * shape.latent_frames, shape.rows, shape.columns)
        structural = torch.zeros(size, device=self.device)
        if not isinstance(self.embedder, HybridAutoencoder):
            return Latents.of(structural)
        lengths = torch.stack([self._lengths(number, chunks, self.embedder) for number in range(count)])
        longest = int(lengths.sum(1).max())
        sequence = torch.zeros(count, self.spec.channels, longest, device=self.device)
        return Latents(structural, sequence, lengths.to(self.device))

    def _lengths(self, number: int, chunks: int, embedder: HybridAutoencoder) -> Int64[Tensor, " r"]:
        """Those of all regions of one video, chunk after chunk."""
        frames = 1 if self.shape.is_image else self.spec.chunk_frames
        size = (
            frames,
            self.shape.rows * self.spec.spatial_compression_ratio,
            self.shape.columns * self.spec.spatial_compression_ratio,
        )
        budgets = torch.tensor(embedder.budgets(*size))
        if self.length is not None:
            total = int(budgets.sum())
            count = (
                round((self.length.share or 0) * total) if self.length.count is None else self.length.count
            )
            return embedder.shared_length(min(count, total) if frames == 1 else count, *size).repeat(chunks)
        rows = self.spec.length_counts
        if not any(map(any, rows)):
            raise ValueError(
                "This generator does not tell how many 1D latents videos have; give a length, such as 50%."
            )
        longest = max(map(len, rows))
        table = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.float32)
        label = self.labels[number]
        row = table[label] if 0 <= label < len(table) else table[0]
        row = row if row.any() else table.sum(0)
        generator = self.generators[number]
        wanted = chunks * len(budgets)
        drawn = torch.multinomial(row.to(generator.device), wanted, replacement=True, generator=generator)
        return torch.minimum(drawn.cpu(), budgets.repeat(chunks))
