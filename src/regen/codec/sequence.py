"""SequenceDecodeSession: the latents of a whole video as one sequence, decoded latent frame by latent frame.

Autoencoders such as Wan's encode a video as one sequence of latent frames, without chunks. Latent frame 0 is
the first frame, each other one a group of r frames (see `embedders.regen_decoder`), and frames are ready as
soon as the latent frame of their group is there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from math import ceil
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from regen.codec.chunks import check_finite, check_size, decoded_together, to_image
from regen.codec.latent_file import LatentVideo
from regen.codec.memory import OomRetry
from regen.codec.sessions import SOLVERS, Convert, DecodeOptions
from regen.codec.timeline import FrameSource, Position, Timeline
from regen.embedders.regen_decoder import RegenDecoder
from regen.metrics.cost import Stopwatch
from regen.runtime import generator_for
from regen.tiling import Tile

DEFAULTS = DecodeOptions()
# A decode session, what it takes piece by piece, and of what a position consists where that is not of chunks.
OpenVideo = tuple[Any, Sequence[Any], Callable[[Position], tuple[FrameSource, ...]] | None]


class SequenceDecodeSession:
    """Decoder of a stream of latent frames into frames of `height` x `width` pixels.

    It keeps one latent frame. `convert` makes the frames of a decoder's, 8-bit RGB by default; `stopwatch`
    has the seconds inside the decoder.
    """

    def __init__(
        self, model: RegenDecoder, *, height: int, width: int, options: DecodeOptions = DEFAULTS,
        convert: Convert = to_image,
    ) -> None:  # fmt: skip
        self.model, self.height, self.width = model, height, width
        self.options, self.convert = options, convert
        self.oom_retry, self.stopwatch = OomRetry(options.tile), Stopwatch()
        self.reset()

    def reset(self) -> None:
        """Forget all latents; the next one begins a new video."""
        self._index = 0
        self._previous: Tensor | None = None

    def feed(
        self, latent: Float[Tensor, "c y x"], offsets: Sequence[float] | None = None
    ) -> Shaped[Tensor, "t h w 3"]:
        """Take the next latent frame, normalised, and return the frames of its group, on the CPU.

        `offsets` count frames from the last one of the group before, and are more than 0 and at most r; of
        the first group 0. By default the encoded frames. Raises ValueError for another size.
        """
        r, index = self.model.temporal_compression_ratio, self._index
        check_size(self.model, latent.shape, self.height, self.width)
        own = [float(i) for i in range(1, r + 1)] if index else [0.0]
        wanted = own if offsets is None else list(offsets)
        images: dict[float, Tensor] = {}
        with self.stopwatch:
            pair = torch.stack([latent] if self._previous is None else [self._previous, latent], dim=1)[None]
            for piece in decoded_together(own, wanted)[0 if {*wanted} & {*own} else 1 :]:
                frames = self._decode(pair, [float(offset) / r for offset in piece])
                cropped = frames[0, :, :, : self.height, : self.width].unbind(1)
                images |= zip(piece, map(self.convert, cropped), strict=True)
        self._previous, self._index = latent, index + 1
        if not wanted:
            return self.convert(torch.zeros(3, self.height, self.width))[None][:0]
        return torch.stack([images[offset] for offset in wanted]).cpu()

    def decode(
        self, latents: Iterable[tuple[Float[Tensor, "c y x"], Sequence[float] | None]]
    ) -> Iterator[Shaped[Tensor, "t h w 3"]]:
        """Decode a whole video, given latent frames with their `offsets`, group after group."""
        self.reset()
        for latent, offsets in latents:
            yield self.feed(latent, offsets)

    @torch.inference_mode()
    def _decode(self, pair: Float[Tensor, "1 c m y x"], times: list[float]) -> Float[Tensor, "1 3 t h w"]:
        model, options, index = self.model, self.options, self._index
        pair = pair.to(model.device, model.dtype)

        def decode(tile: Tile | None) -> Float[Tensor, "1 3 t h w"]:
            return model.decode_group(
                pair, index, torch.tensor(times), options.steps, [generator_for(options.seed, index)],
                SOLVERS[options.solver], tile or model.tile, options.noise,
            )  # fmt: skip

        side = model.spatial_compression_ratio
        frames = self.oom_retry.run(decode, pair.shape[3] * side, pair.shape[4] * side)
        check_finite(frames, f"Latent frame {index}")
        return frames


def open_sequence(
    model: object, video: LatentVideo, options: DecodeOptions, timeline: Timeline
) -> OpenVideo | None:
    """A session for a video whose latents are one sequence; None for one of chunks.

    Raises ValueError for a model that takes chunks, for latents of others, and for extrapolation.
    """
    if not video.is_sequence:
        return None
    if not isinstance(model, RegenDecoder):
        raise ValueError(
            f"These latents are one sequence of {video.latents.shape[2]} latent frames, which a "
            f"{type(model).__name__} can't decode; train a decoder for them (regen train decoder-small)."
        )
    if timeline.extrapolate_before or timeline.extrapolate_after or timeline.every_chunk:
        raise ValueError("A decoder of foreign latents interpolates, and does not extrapolate.")
    session = SequenceDecodeSession(model, height=video.height, width=video.width, options=options)
    ratio, last = model.temporal_compression_ratio, len(video.times) - 1
    latents = [*video.latents.grid[0].unbind(1)]
    if last != ratio * (len(latents) - 1):
        frames = 1 + ratio * (len(latents) - 1)
        raise ValueError(
            f"{len(latents)} latent frames hold {frames} frames, not {last + 1}; save them again."
        )
    return session, latents, partial(sequence_sources, ratio=ratio, last=last)


def sequence_sources(position: Position, ratio: int, last: int) -> tuple[FrameSource, ...]:
    """The group of a position, in frames from 0 to `last`, and how far it lies behind the group before."""
    position = min(max(position, Fraction(0)), Fraction(last))
    group = ceil(position / ratio)
    return (FrameSource(group, float(position - max(0, group - 1) * ratio)),)
