"""The account of one run of a command: what was done, how well, and what it took."""

from dataclasses import dataclass
from fractions import Fraction

from regen.latents import HybridLatents, Latents


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done and how well; None for what a run did not measure.

    `compression` is values in the video per value in the latents, of which there are `values_per_second`.
    `lengths` are the 1D latents of each chunk, where the model has such. PSNR (dB) and SSIM are means over
    the frames of 8-bit original against 8-bit reconstruction, before video coding. `seam_ratio` is the jump
    between chunks over that inside them, over the same of the original: 1 is seamless (`evaluate.seams`).
    The seconds are those inside the model. `peak_memory_mb` (10^6 bytes) is that of the GPU when one is used,
    else of the process. `tile` (height, width in pixels) is None when the picture was worked on as a whole.
    """

    model: str
    frames: int
    width: int
    height: int
    fps: float
    latent_shape: list[int]
    compression: float
    values_per_second: float
    lengths: list[int] | None = None
    psnr: float | None = None
    ssim: float | None = None
    seam_ratio: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    tile: list[int] | None = None
    peak_memory_mb: float | None = None


class LatentCounter:
    """Counts the latents of a video, chunk by chunk."""

    def __init__(self) -> None:
        self.values, self.chunks = 0, 0
        self.shape: list[int] = []
        self.lengths: list[int] = []

    def add(self, latents: Latents) -> None:
        """Take the latents of the next chunk, without an axis for the batch."""
        self.values += latents.numel()
        self.chunks += 1
        self.shape = list(latents.shape)
        if isinstance(latents, HybridLatents):
            self.lengths.append(latents.length)


def make_report(
    model: str, frames: int, height: int, width: int, frame_rate: Fraction, latents: LatentCounter
) -> Report:
    """What is known without measuring, of a video with these latents."""
    return Report(
        model=model,
        frames=frames,
        width=width,
        height=height,
        fps=float(frame_rate),
        latent_shape=[latents.chunks, *latents.shape],
        compression=frames * height * width * 3 / latents.values,
        values_per_second=latents.values * float(frame_rate) / frames,
        lengths=latents.lengths or None,
    )
