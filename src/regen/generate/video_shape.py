"""Shapes of requested videos and of their latents."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from regen.codec.rate_control import FixedLength
from regen.embedders.hybrid import HybridAutoencoder
from regen.generate.generator import LatentSpec
from regen.latents import Latents
from regen.media.pixels import Size
from regen.pretrained.models import Autoencoder


@dataclass(frozen=True)
class VideoShape:
    """Videos of `frames` frames of `height` x `width` pixels, after cropping.

    Their latents are `rows` x `columns`, with `latent_frames` for each of `num_chunks` chunks (1 for an
    image). With `continues` a given chunk precedes them. `num_segments` is how often the generator samples,
    because a segment has at most as many chunks as in training. `notes` are warnings for the user.
    """

    frames: int
    height: int
    width: int
    num_chunks: int
    latent_frames: int
    rows: int
    columns: int
    continues: bool
    num_segments: int
    notes: tuple[str, ...]

    @property
    def is_image(self) -> bool:
        return self.frames == 1 and not self.continues


def video_shape(
    spec: LatentSpec,
    patch_size: int,
    frames: int | None = None,
    size: Size | None = None,
    continues: bool = False,
) -> VideoShape:
    """The shape of requested videos; by default one chunk, at the most frequent size in training.

    `patch_size`: latent positions per side of a token. With `continues` the last chunk of a video is given,
    and `frames` counts those after it. Raises ValueError for what the generator can't make.
    """
    whole = spec.chunk_frames if spec.chunk_latents > 1 else 1
    frames = whole if frames is None else frames
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}; one chunk has {whole}.")
    if size is None:
        if not spec.sizes:
            raise ValueError("This generator doesn't store a video size; give one, such as 256x256.")
        size = Size(*spec.sizes[0])
    is_image = frames == 1 and not continues
    chunks = 1 if is_image else -(-frames // whole)
    scale = spec.spatial_compression_ratio
    unit = 1 if (size.height, size.width) in spec.sizes else patch_size  # incomplete tokens as in training
    multiple = scale * unit
    rows, columns = (-(-side // multiple) * unit for side in (size.height, size.width))
    padded = Size(rows * scale, columns * scale)
    total, longest = chunks + continues, max(1, spec.max_chunks)
    if total > longest and longest < 2:
        raise ValueError(
            f"This generator was trained on single chunks of {whole} frames and can't continue them; give at "
            f"most {whole} frames, and no video to continue."
        )
    segments = 1 + max(0, -(-(total - longest) // max(1, longest - 1)))
    notes = []
    if padded != size:
        notes.append(f"Sides must be multiples of {multiple}: {padded} is generated and cropped to {size}.")
    if frames != chunks * whole and not is_image:
        notes.append(f"Frames come in chunks: {chunks * whole} are generated and the first {frames} kept.")
    sizes = {(size.height, size.width), (padded.height, padded.width)}
    if spec.sizes and sizes.isdisjoint(spec.sizes):
        trained = ", ".join(str(Size(*one)) for one in spec.sizes[:3])
        notes.append(f"The generator was trained at {trained}, not at {size}; quality is unknown.")
    if segments > 1:
        notes.append(
            f"{total} chunks exceed the {longest} of the training; they are sampled in {segments} segments, "
            "each continuing from the last chunk of the one before."
        )
    latent_frames = 1 if is_image else spec.chunk_latents
    kept = (frames, size.height, size.width)
    return VideoShape(*kept, chunks, latent_frames, rows, columns, continues, segments, tuple(notes))


@dataclass(frozen=True)
class LatentTemplates:
    """Latents of a shape, with meaningless values, one sample per generator.

    Each region of each chunk has a number of 1D latents: `num_latents` per chunk, or drawn from the sample's
    generator with the frequencies of the training (of its class in `labels`).
    """

    spec: LatentSpec
    embedder: Autoencoder
    shape: VideoShape
    generators: list[Generator]
    labels: list[int]
    num_latents: FixedLength | None
    device: torch.device

    def __call__(self, chunks: int) -> Latents:
        """Latents of so many consecutive chunks."""
        shape, count, channels = self.shape, len(self.generators), self.spec.channels
        size = (count, channels, chunks * shape.latent_frames, shape.rows, shape.columns)
        grid = torch.zeros(size, device=self.device)
        if not isinstance(self.embedder, HybridAutoencoder):
            return Latents.of(grid)
        lengths = torch.stack([self._lengths(number, chunks, self.embedder) for number in range(count)])
        longest = int(lengths.sum(1).max())
        sequence = torch.zeros(count, channels, longest, device=self.device)
        return Latents(grid, sequence, lengths.to(self.device))

    def _lengths(self, number: int, chunks: int, embedder: HybridAutoencoder) -> Int64[Tensor, " r"]:
        """Lengths of the regions of sample `number`, chunk after chunk."""
        frames = 1 if self.shape.is_image else self.spec.chunk_frames
        scale = self.spec.spatial_compression_ratio
        size = frames, self.shape.rows * scale, self.shape.columns * scale
        maximum = torch.tensor(embedder.budgets(*size))
        if self.num_latents is not None:
            total, length = int(maximum.sum()), self.num_latents
            count = round((length.share or 0) * total) if length.count is None else length.count
            return embedder.shared_length(min(count, total) if frames == 1 else count, *size).repeat(chunks)
        histogram = self._histogram(self.labels[number])
        generator = self.generators[number]
        draws = torch.multinomial(
            histogram.to(generator.device), chunks * len(maximum), replacement=True, generator=generator
        )
        return torch.minimum(draws.cpu(), maximum.repeat(chunks))

    def _histogram(self, label: int) -> Tensor:
        """Frequencies of the lengths of a class, or of all classes if it has none."""
        rows = self.spec.length_counts
        if not any(map(any, rows)):
            raise ValueError("This generator doesn't store numbers of 1D latents; give one, such as 50%.")
        table = torch.tensor(rows, dtype=torch.float32)
        row = table[label] if 0 <= label < len(table) else table[0]
        return row if row.any() else table.sum(0)
