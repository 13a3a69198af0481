"""Batched encoding of the chunks of many videos."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.codec.chunks import to_clip
from regen.codec.memory import is_oom
from regen.codec.rate_control import FixedLength, encode_full
from regen.corpus.shards import LatentInfo
from regen.corpus.sources import Chunk, CorpusSample, Decoded, Skipped
from regen.embedders.clips import pad
from regen.embedders.hybrid import HybridAutoencoder
from regen.embedders.interface import Embedder
from regen.latents import Latents, collate
from regen.tiling import Tile

Embedded = tuple[LatentInfo, Latents]
"""A whole sample, with its normalised latents on the CPU: a batch of all chunks."""


@dataclass
class _Slot:
    """A sample in progress."""

    sample: CorpusSample
    counts: list[int] = field(default_factory=list)  # frames of each chunk, without padding
    latents: list[Latents] = field(default_factory=list)  # of each chunk
    last: Chunk | None = None
    skipped: Skipped | None = None
    closed: bool = False

    @property
    def is_ready(self) -> bool:
        return self.closed and len(self.latents) == len(self.counts)

    def result(self) -> Embedded | Skipped:
        if self.skipped is not None:
            return self.skipped
        assert self.last is not None, "a video without a frame is skipped as damaged"
        latents, last = collate(self.latents), self.last
        info = LatentInfo(
            key=self.sample.key,
            frames=sum(self.counts),
            frame_rate=last.frame_rate,
            height=last.frames.shape[1],
            width=last.frames.shape[2],
            source_height=last.source_height,
            source_width=last.source_width,
            chunks=len(latents),
            latent_frames=latents.shape[2],
            last_frames=self.counts[-1],
            caption=last.caption,
            label=last.label,
            sequence_length=latents.length if latents.has_sequence else -1,
        )
        return info, latents


@dataclass
class Embedding:
    """Encodes with `model`, up to `batch` chunks together, and stores latents in `dtype`.

    Consecutive chunks of one shape are batched, also of different videos, so the batches depend on the
    samples alone and the same samples give the same bits. `length`: 1D latents of each chunk, for a model
    that has them; by default the motion decides.
    """

    model: Embedder
    batch: int
    tile: Tile | None
    dtype: torch.dtype
    length: FixedLength | None = None
    _slots: deque[_Slot] = field(default_factory=deque)
    # Chunks to encode next: their sample, frames, and the number of frames with padding.
    _pending: list[tuple[_Slot, np.ndarray, int]] = field(default_factory=list)

    def run(
        self, streams: Iterable[tuple[CorpusSample, Iterable[Decoded]]]
    ) -> Iterator[tuple[CorpusSample, Embedded | Skipped]]:
        """Each sample with its latents, or why it was skipped, in order.

        Raises ValueError for latents that are not finite or a chunk with fewer 1D latents than `length`, and
        MemoryError for a batch that doesn't fit.
        """
        for sample, items in streams:
            self._slots.append(slot := _Slot(sample))
            for item in items:
                if isinstance(item, Skipped):
                    slot.skipped = item
                else:
                    self._add(slot, item)
                yield from self._ready()
            slot.closed = True
            yield from self._ready()
        self._encode_pending()
        yield from self._ready()

    def _add(self, slot: _Slot, chunk: Chunk) -> None:
        """As in `EncodeSession`, a video of one frame is an image; a short chunk repeats its last frame."""
        is_image = slot.last is None and len(chunk.frames) == 1
        length = 1 if is_image else self.model.chunk_frames
        if self._pending:
            _, frames, padded = self._pending[0]
            if (frames.shape[1:], padded) != (chunk.frames.shape[1:], length):
                self._encode_pending()
        slot.last = chunk
        slot.counts.append(len(chunk.frames))
        self._pending.append((slot, chunk.frames, length))
        if len(self._pending) == self.batch:
            self._encode_pending()

    def _ready(self) -> Iterator[tuple[CorpusSample, Embedded | Skipped]]:
        while self._slots and self._slots[0].is_ready:
            slot = self._slots.popleft()
            yield slot.sample, slot.result()

    def _encode_pending(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        latents = self._encode([frames for _, frames, _ in pending], pending[0][2])
        for number, (slot, _, _) in enumerate(pending):
            if slot.skipped is None and not latents[number].is_finite():
                raise ValueError(
                    f"The latents of {slot.sample.key} are not finite; try --dtype fp32, or another model."
                )
            slot.latents.append(latents[number])

    @torch.inference_mode()
    def _encode(self, parts: list[UInt8[np.ndarray, "_ h w 3"]], length: int) -> Latents:
        """A batch of chunks, each padded to `length` frames."""
        model = self.model
        images = [torch.from_numpy(frames.copy()) for frames in parts]  # they may be read-only
        clips = [
            pad(to_clip(frames, model.device, model.dtype), length, model.spatial_compression_ratio)
            for frames in images
        ]
        try:
            return self._latents(torch.cat(clips)).to(dtype=self.dtype).cpu()
        except RuntimeError as error:
            if not is_oom(error):
                raise
        height, width = clips[0].shape[-2:]
        raise MemoryError(
            f"Out of memory for {len(clips)} chunks of {width}x{height} pixels; choose a smaller --batch, a "
            "--tile such as 512, a smaller --size, or a device with more memory."
        )

    def _latents(self, clips: Float[Tensor, "b 3 t h w"]) -> Latents:
        model = self.model
        if self.length is None:
            return Latents.of(model.encode(clips, tile=self.tile).latent_dist.mode())
        assert isinstance(model, HybridAutoencoder)
        full = encode_full(model, clips, self.tile)
        try:
            lengths = self.length.choose(model, clips[:1], full[0], 0, self.tile)
        except ValueError:
            height, width = clips.shape[3:]
            raise ValueError(
                f"A chunk of {width}x{height} pixels has {full[0].length} 1D latents, fewer than "
                "--num-latents; give a smaller number, a share such as 50%, or one --size for all."
            ) from None
        return full.truncate(lengths.expand(len(clips), -1))
