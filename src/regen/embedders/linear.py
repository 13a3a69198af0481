"""AutoencoderLinear: the linear baseline, windows that overlap.

Each latent is a linear function of a window of 16 x 16 pixels, 8 pixels from the next; each pixel is the sum
of four windows. Content and motion latents are those of REGEN: the former sees the first frame alone, the
latter the k+1 frames of a chunk. What a learned embedder gains over this one it owes to being nonlinear.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from regen.embedders.base import without_margin
from regen.embedders.clips import PointPosterior
from regen.embedders.direct import DirectAutoencoder
from regen.embedders.model import check_requirements, configured_by
from regen.networks.linear import REACH, LinearDecoder, LinearEncoder
from regen.tiling import LATENT_STRIDE, Tile

VALUES = 3 * LATENT_STRIDE**2  # of a frame of a cube
MAX_FULL = 1024  # dimensions; all components of more would take minutes
MIN_STD = 1e-6  # for components without any variance, as in synthetic clips
CUBE = {"c": 3, "p": LATENT_STRIDE, "q": LATENT_STRIDE}  # sizes of axes
MIDDLE = slice(REACH, REACH + LATENT_STRIDE)  # of a window: the block of its latent


def to_cubes(video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b h2 w2 d"]:
    """Split a clip into cubes of 8 x 8 pixels and all its frames, d = 192 t values each."""
    return rearrange(video, "b c t (h p) (w q) -> b h w (t c p q)", p=LATENT_STRIDE, q=LATENT_STRIDE)


class Covariance:
    """Exact mean and covariance of batches of vectors; sums in float64, products in float32."""

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.total = torch.zeros(dimension, dtype=torch.float64)
        self.products = torch.zeros(dimension, dimension, dtype=torch.float64)

    def add(self, vectors: Float[Tensor, "... d"]) -> None:
        """Count a batch of vectors; values should be of order one."""
        flat = vectors.detach().flatten(0, -2).to("cpu", torch.float32)
        self.count += len(flat)
        self.total += flat.sum(dim=0, dtype=torch.float64)
        self.products += flat.T @ flat

    @property
    def mean(self) -> Float[Tensor, " d"]:
        return self.total / self.count

    @property
    def matrix(self) -> Float[Tensor, "d d"]:
        return self.products / self.count - torch.outer(self.mean, self.mean)

    def components(self, number: int) -> dict[str, Tensor]:
        """`mean`, and the `number` components of largest variance: `basis` and their deviations `std`.

        The basis has orthonormal columns, the largest entry of each positive.
        """
        basis, std = principal_components(self.matrix, number)
        return {"mean": self.mean.float(), "basis": basis.float(), "std": std.float()}


def principal_components(
    covariance: Float[Tensor, "d d"], number: int
) -> tuple[Float[Tensor, "d n"], Float[Tensor, " n"]]:
    """Orthonormal directions of largest variance, the largest entry of each positive, and deviations."""
    if len(covariance) <= MAX_FULL:
        variances, basis = torch.linalg.eigh(covariance)
        variances, basis = variances.flip(0)[:number], basis.flip(1)[:, :number]
    else:
        start = torch.eye(len(covariance), number, dtype=covariance.dtype)
        variances, basis = torch.lobpcg(covariance, X=start)
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return basis * largest.sign(), variances.clamp(min=MIN_STD**2).sqrt()


@dataclass(frozen=True)
class LinearConfig:
    """Size of an `AutoencoderLinear`."""

    temporal_compression_ratio: int = 4
    """k; a chunk has k+1 frames."""
    latent_channels: int = 8
    """c, the values per latent frame and 8 x 8 square."""


class AutoencoderLinear(DirectAutoencoder):
    """Linear maps of windows of 16 x 16 x (k+1) values, with the interface of all embedders.

    Latents are "b c n h/8 w/8" with n = 2 for a chunk of k+1 frames (content, motion) and n = 1 for an image,
    whose latent is the content latent of every chunk that begins with it.
    """

    @configured_by(LinearConfig, scaling_factor=1.0, spatial_compression_ratio=LATENT_STRIDE)
    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        ratio, channels = config.temporal_compression_ratio, config.latent_channels
        requirements = {
            "temporal_compression_ratio must be >= 1": ratio >= 1,
            f"latent_channels must be 1 to {VALUES}": 1 <= channels <= VALUES,
        }
        check_requirements(requirements)
        self.encoder = LinearEncoder(channels, ratio)
        self.decoder = LinearDecoder(channels, ratio)

    @torch.no_grad()
    def init_from_components(self, chunks: Iterable[Float[Tensor, "_ 3 t _ _"]]) -> None:
        """Start at principal components of cubes of 8 x 8 pixels, and the best decoder for these latents.

        The content latent holds the principal components of the blocks of first frames, the motion latent
        those of what they leave of the cubes of `chunks` (k+1 frames in [-1, 1]; iterated several times).
        Latents have a standard deviation of 1. Raises ValueError without chunks, or for other numbers of
        frames.
        """
        channels = self.latent_channels
        covariance = Covariance(VALUES * self.chunk_frames)
        for chunk in chunks:
            frames, *sides = chunk.shape[2:]
            if frames != self.chunk_frames or any(side % LATENT_STRIDE for side in sides):
                raise ValueError(
                    f"A chunk must have {self.chunk_frames} frames and sides that are multiples of "
                    f"{LATENT_STRIDE}, got {frames} of {sides[0]}x{sides[1]}."
                )
            covariance.add(to_cubes(chunk))
        if covariance.count == 0:
            raise ValueError("There is nothing to fit to; give at least one chunk.")
        matrix, means = covariance.matrix, reduce(covariance.mean, "(t c p) -> c", "mean", c=3, p=VALUES // 3)
        mean = means.repeat_interleave(VALUES // 3).repeat(self.chunk_frames)
        content, content_std = principal_components(matrix[:VALUES, :VALUES], channels)
        predict = matrix[:, :VALUES] @ content / content_std.square()  # of a cube, from its content latent
        rest = matrix - predict @ (content.T @ matrix[:VALUES])
        motion, motion_std = principal_components((rest + rest.T) / 2, channels)
        from_cube = motion.clone()
        from_cube[:VALUES] -= content @ (predict.T @ motion)
        parts = (
            (self.encoder.content, content / content_std, mean[:VALUES]),
            (self.encoder.motion, from_cube / motion_std, mean),
        )
        for part, maps, centre in parts:
            part.weight.zero_()
            part.weight[..., MIDDLE, MIDDLE] = rearrange(maps, "(t c p q) n -> n c t p q", **CUBE).to(
                part.weight
            )
            bias_of(part).copy_(-(centre @ maps))
        for decoder in (self.decoder.image, self.decoder.chunk):
            bias_of(decoder).copy_(means)
        self.solve_decoder(chunks)

    @torch.no_grad()
    def solve_decoder(self, chunks: Iterable[Float[Tensor, "_ 3 t _ _"]]) -> None:
        """Make the decoder the one with the smallest squared error for this encoder: least squares.

        The 8 x 8 pixels between four latents are linear in those alone, by the same map everywhere; what lies
        outside of the outermost latents does not count.
        """
        for part, frames in ((self.decoder.image, 1), (self.decoder.chunk, self.chunk_frames)):
            inputs, outputs = 4 * part.in_channels, VALUES * frames
            gram = torch.zeros(inputs, inputs, dtype=torch.float64)
            products = torch.zeros(inputs, outputs, dtype=torch.float64)
            for chunk in chunks:
                video = chunk[:, :, :frames]
                latents = rearrange(self.encoder(video), "b c n y x -> b (n c) y x")
                around = rearrange(F.unfold(latents, 2), "b d p -> (b p) d")
                centred = video - bias_of(part).view(-1, 1, 1, 1)
                cubes = to_cubes(centred[..., REACH:-REACH, REACH:-REACH]).flatten(0, 2)
                gram += around.T @ around
                products += around.T @ cubes
            maps = torch.linalg.lstsq(gram, products, driver="gelsd").solution  # also of constant clips
            # The upper of two latents reaches these pixels by the lower half of its window, and so on.
            kernel = rearrange(maps, "(n i j) (t c p q) -> n c t i p j q", i=2, j=2, **CUBE).flip(3, 5)
            part.weight.copy_(rearrange(kernel, "n c t i p j q -> n c t (i p) (j q)"))

    @torch.no_grad()
    def standardise(self, mean: Float[Tensor, "2 c"], std: Float[Tensor, "2 c"]) -> None:
        """Divide the raw latents by their `std` (rows: content, motion), in the weights.

        A model with this linear path then has raw latents of about unit size.
        """
        both, decoder = std.flatten().to(self.device), self.decoder
        for part, scale in ((self.encoder.content, std[0]), (self.encoder.motion, std[1])):
            part.weight /= scale.to(self.device).view(-1, 1, 1, 1, 1)
            bias_of(part).div_(scale.to(self.device))
        decoder.chunk.weight *= both.view(-1, 1, 1, 1, 1)
        decoder.image.weight *= both[: self.latent_channels].view(-1, 1, 1, 1, 1)
        self.set_latent_statistics(mean / std, torch.ones_like(std))

    def _posterior(
        self, video: Float[Tensor, "b 3 t h w"], normalised: bool, tile: Tile | None
    ) -> PointPosterior:
        return PointPosterior(self._normalise(self.encoder(video)))

    def _decode_frames(
        self, latents: Float[Tensor, "b c n y x"], tile: Tile | None
    ) -> Float[Tensor, "b 3 t h w"]:
        return self.decoder(self._raw(latents))

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory for encoding or decoding `frames` frames of `height` x `width` pixels."""
        return 3 * 4 * frames * height * width * self.dtype.itemsize

    def loss(
        self, batch: dict[str, Tensor], generators: list[Generator] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean squared error of `batch["target"]` at `batch["times"]`, decoded from `batch["clip"]`.

        The `margin` of the batch does not count. `generators` have no effect: there is no randomness.
        """
        decoded = self.decoder(self.encoder(batch["clip"].to(self.dtype)), batch["times"])
        margin = int(batch.get("margin", 0))
        error = without_margin(decoded - batch["target"].to(decoded), margin).float().square().mean()
        psnr = 10 * torch.log10(4 / error.detach())  # values span 2, from -1 to 1
        return error, {"loss": error.detach(), "psnr": psnr}


def bias_of(part: nn.Conv3d | nn.ConvTranspose3d) -> Float[Tensor, " o"]:
    assert part.bias is not None
    return part.bias
