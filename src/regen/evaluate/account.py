"""The account of one run of a command: what was done, how well, and what it took."""

from dataclasses import dataclass
from fractions import Fraction
from math import prod


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done and how well; None for what a run did not measure.

    `compression` is values in the video per value in the latents. PSNR (dB) and SSIM are means over the
    frames of 8-bit original against 8-bit reconstruction, before video coding. `seam_ratio` is the jump
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
    psnr: float | None = None
    ssim: float | None = None
    seam_ratio: float | None = None
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    tile: list[int] | None = None
    peak_memory_mb: float | None = None


def report_on(
    model: str, frames: int, height: int, width: int, frame_rate: Fraction, latent_shape: list[int]
) -> Report:
    """What is known without measuring; `latent_shape` is that of all latents of the video."""
    return Report(
        model=model,
        frames=frames,
        width=width,
        height=height,
        fps=float(frame_rate),
        latent_shape=latent_shape,
        compression=frames * height * width * 3 / prod(latent_shape),
    )
