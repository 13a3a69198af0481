"""Generated latents to frames, through the codec, as those of any other video."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import ChunkLatents, Embedder
from regen.codec.sessions import DecodeOptions, decode_chunks
from regen.generate.generator import LatentSpec
from regen.generate.tokens import split_chunks
from regen.latents import Latents

ONE_STEP = DecodeOptions()


@dataclass(frozen=True)
class GeneratedLatents:
    """The latents of one generated video: rows of chunks, one after another; `height` x `width` pixels."""

    rows: list[Latents]
    height: int
    width: int
    spec: LatentSpec
    frames: int | None = None
    """How many frames to show; None: all that the chunks stand for."""
    skipped: int = 0
    """How many to leave out before them: those of a chunk that was given, which the next is joined to."""

    def chunks(self) -> list[ChunkLatents]:
        """Chunk by chunk, as a decoding session takes them."""
        n = self.spec.chunk_latents
        parts = [part for row in self.rows for part in split_chunks(row, n)]
        frames = self.spec.chunk_frames if parts[0].shape[1] == n else 1
        return [ChunkLatents(index, part.cpu(), frames) for index, part in enumerate(parts)]


def decode(
    embedder: Embedder, sampled: GeneratedLatents, options: DecodeOptions = ONE_STEP
) -> Iterator[UInt8[Tensor, "h w 3"]]:
    """The frames of a generated video, one by one, cut to its size."""
    height, width = (places * sampled.spec.spatial_compression_ratio for places in sampled.rows[0].shape[-2:])
    frames = decode_chunks(embedder, sampled.chunks(), height=height, width=width, options=options)
    end = None if sampled.frames is None else sampled.skipped + sampled.frames
    for frame in islice(frames, sampled.skipped, end):
        yield frame[: sampled.height, : sampled.width]
