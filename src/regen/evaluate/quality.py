"""Reconstruction quality of whole clips: read, fit to the measuring size, reconstruct, compare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from regen.codec.chunks import Embedder, decode_chunk, encode_chunk, split_into_chunks
from regen.data.video import VideoReader
from regen.evaluate.cost import Stopwatch
from regen.evaluate.metrics import Psnr, Ssim
from regen.evaluate.protocol import Size, fit


@dataclass(frozen=True)
class ClipResult:
    """What one clip gave: mean PSNR in dB and SSIM over its frames, and the seconds spent in the model.

    `psnr_pooled` is the PSNR of the mean squared error over the whole clip.
    """

    name: str
    frames: int
    psnr: float
    psnr_pooled: float
    ssim: float
    encode_seconds: float
    decode_seconds: float

    @property
    def seconds(self) -> float:
        """Seconds spent in the model, reading and measuring apart."""
        return self.encode_seconds + self.decode_seconds


def evaluate_quality(
    model: Embedder,
    files: Iterable[Path],
    size: Size | None = None,
    steps: int = 1,
    seed: int = 0,
    max_frames: int | None = None,
) -> Iterator[ClipResult]:
    """One result per file, each as soon as it is there, by the protocol of `regen.evaluate.metrics`.

    Every clip is fitted to `size`, reconstructed chunk by chunk (the last one padded and cropped back),
    rounded to 8 bits and compared with the fitted frames. The noise depends on `seed` and the chunk alone,
    so a clip's figure does not depend on the other files. `max_frames` measures only the first frames.
    Memory is bounded by the chunk. Raises VideoError for a file without any readable frame.
    """
    for file in files:
        with VideoReader(file) as reader:
            frames = (fit(frame.image, size) for frame in islice(reader, max_frames))
            yield evaluate_clip(model, frames, file.stem, steps, seed)


def evaluate_clip(
    model: Embedder, frames: Iterable[UInt8[Tensor, "h w 3"]], name: str, steps: int = 1, seed: int = 0
) -> ClipResult:
    """Reconstruct one clip from its 8-bit RGB frames and compare; ValueError when there is no frame."""
    psnr, ssim, encoding, decoding = Psnr(), Ssim(), Stopwatch(), Stopwatch()
    for chunk in split_into_chunks(frames, model.temporal_compression_ratio + 1):
        height, width = chunk.frames.shape[1:3]
        with encoding:
            latents = encode_chunk(model, chunk)
        with decoding:
            reconstruction = decode_chunk(model, latents, height=height, width=width, steps=steps, seed=seed)
        psnr.update(chunk.frames, reconstruction)
        ssim.update(chunk.frames, reconstruction)
    return ClipResult(
        name=name,
        frames=psnr.frames,
        psnr=psnr.compute(),
        psnr_pooled=psnr.compute_pooled(),
        ssim=ssim.compute(),
        encode_seconds=encoding.seconds,
        decode_seconds=decoding.seconds,
    )
