"""Chunks of many videos through the model, in batches whose composition depends on the videos alone."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.codec.chunks import Embedder, pad, to_clip
from regen.codec.memory import is_oom
from regen.codec.rate_control import FixedLength, encode_full
from regen.corpus.clip_stream import Chunk, Decoded, Skipped
from regen.corpus.shards import LatentInfo
from regen.corpus.sources import Sample
from regen.embedders.hybrid import HybridAutoencoder
from regen.latents import Latents, collate
from regen.tiling import Tile


@dataclass(frozen=True)
class Embedded:
    """A whole sample: normalised latents on the CPU, a batch of all its chunks, and what is known of it."""

    facts: LatentInfo
    latents: Latents


@dataclass
class _Slot:
    """A sample on its way."""

    sample: Sample
    counts: list[int] = field(default_factory=list)  # real frames of each chunk
    latents: list[Latents] = field(default_factory=list)  # of each chunk
    last: Chunk | None = None
    left_out: Skipped | None = None
    closed: bool = False

    @property
    def is_ready(self) -> bool:
        return self.closed and len(self.latents) == len(self.counts)

    def result(self) -> Embedded | Skipped:
        if self.left_out is not None:
            return self.left_out
        assert self.last is not None, "a video without a frame is damaged, and said to be"
        latents = collate(self.latents)
        last = self.last
        facts = LatentInfo(
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
            tokens=latents.length if latents.has_sequence else -1,
        )
        return Embedded(facts, latents)


class Embedding:
    """Embeds with `model`, up to `batch` chunks together, and keeps latents in `dtype`.

    Chunks of one shape that follow each other go together, also those of different videos. So what is
    computed with what depends on the samples alone, and the same samples give the same bits. `length`: how
    many 1D latents each chunk keeps, of a model that has such; by default what its motion asks for.
    """

    def __init__(
        self,
        model: Embedder,
        *,
        batch: int,
        tile: Tile | None,
        dtype: torch.dtype,
        length: FixedLength | None = None,
    ) -> None:
        self.model, self.batch, self.tile, self.dtype, self.length = model, batch, tile, dtype, length
        self._slots: deque[_Slot] = deque()
        self._waiting: list[tuple[_Slot, np.ndarray, int]] = []  # frames, and how many the model shall see

    def run(
        self, streams: Iterable[tuple[Sample, Iterable[Decoded]]]
    ) -> Iterator[tuple[Sample, Embedded | Skipped]]:
        """Each sample with its latents, or why there are none, in their order.

        Raises ValueError when latents are no numbers or a chunk has not so many as it shall keep,
        MemoryError when a batch does not fit.
        """
        for sample, pieces in streams:
            self._slots.append(slot := _Slot(sample))
            for piece in pieces:
                if isinstance(piece, Skipped):
                    slot.left_out = piece
                else:
                    self._add(slot, piece)
                yield from self._ready()
            slot.closed = True
            yield from self._ready()
        self._encode_waiting()
        yield from self._ready()

    def _add(self, slot: _Slot, chunk: Chunk) -> None:
        """As in `EncodeSession` a video of one frame is an image, a short chunk repeats its last frame."""
        is_image = slot.last is None and len(chunk.frames) == 1
        length = 1 if is_image else self.model.chunk_frames
        if [(before.shape[1:], size) for _, before, size in self._waiting[:1]] not in (
            [],
            [(chunk.frames.shape[1:], length)],
        ):
            self._encode_waiting()
        slot.last = chunk
        slot.counts.append(len(chunk.frames))
        self._waiting.append((slot, chunk.frames, length))
        if len(self._waiting) == self.batch:
            self._encode_waiting()

    def _ready(self) -> Iterator[tuple[Sample, Embedded | Skipped]]:
        while self._slots and self._slots[0].is_ready:
            slot = self._slots.popleft()
            yield slot.sample, slot.result()

    def _encode_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        latents = self._encode([frames for _, frames, _ in waiting], waiting[0][2])
        for number, (slot, _, _) in enumerate(waiting):
            one = latents[number]
            if slot.left_out is None and not one.is_finite():
                raise ValueError(
                    f"The latents of {slot.sample.key} have values that are not finite (such as NaN); try "
                    "--dtype fp32, or another model."
                )
            slot.latents.append(one)

    @torch.inference_mode()
    def _encode(self, parts: list[UInt8[np.ndarray, "_ h w 3"]], length: int) -> Latents:
        """A batch of chunks, each padded to `length` frames."""
        model = self.model
        clips = [
            pad(
                to_clip(torch.from_numpy(frames.copy()), model.device, model.dtype),  # it may be read-only
                length,
                model.spatial_compression_ratio,
            )
            for frames in parts
        ]
        try:
            return self._latents(torch.cat(clips)).to(dtype=self.dtype).cpu()
        except RuntimeError as error:
            if not is_oom(error):
                raise
        height, width = clips[0].shape[-2:]
        raise MemoryError(
            f"Not enough memory for {len(clips)} chunks of {width}x{height} pixels; choose a smaller "
            "--batch, a --tile such as 512, a smaller --size, or a device with more memory."
        )

    def _latents(self, clips: Float[Tensor, "b 3 t h w"]) -> Latents:
        """As in `EncodeSession`: with a length all that there are, cut to it."""
        model = self.model
        if self.length is None:
            return Latents.of(model.encode(clips, tile=self.tile).latent_dist.mode())
        assert isinstance(model, HybridAutoencoder)
        full = encode_full(model, clips, self.tile)
        try:
            kept = self.length.choose(model, clips[:1], full[0], 0, self.tile)
        except ValueError:
            height, width = clips.shape[3:]
            raise ValueError(
                f"A chunk of {width}x{height} pixels has {full[0].length} 1D latents, fewer than --length "
                "asks for; give a smaller number, a share such as 50%, or one --size for all."
            ) from None
        return full.truncate(kept.expand(len(clips), -1))
