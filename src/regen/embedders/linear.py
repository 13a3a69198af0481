"""AutoencoderLinear: the linear baseline, principal components.

A chunk of k+1 frames is split into cubes of 8 x 8 pixels and k+1 frames. Each cube, 3 * 64 * (k+1) values, is
replaced by its first 2c principal components, as two latent frames of c channels. An image has components of
its own: 8 x 8 squares, c values each. No linear embedder with the same latents has a smaller mean squared
error on the clips that this one is fitted to, so a learned embedder must surpass it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.vae import IdentityDistribution
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.embedders.base import DirectAutoencoder, check_requirements, configured_by
from regen.tiling import LATENT_STRIDE, Tile

VALUES = 3 * LATENT_STRIDE**2  # of a frame of a cube
MIN_STD = 1e-6  # for components without any variance, as in synthetic clips


def to_cubes(video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b h2 w2 d"]:
    """Split a clip into cubes of 8 x 8 pixels and all its frames, d = 192 t values each."""
    return rearrange(video, "b c t (h p) (w q) -> b h w (t c p q)", p=LATENT_STRIDE, q=LATENT_STRIDE)


def from_cubes(cubes: Float[Tensor, "b h2 w2 d"]) -> Float[Tensor, "b 3 t h w"]:
    """The inverse of `to_cubes`."""
    return rearrange(cubes, "b h w (t c p q) -> b c t (h p) (w q)", c=3, p=LATENT_STRIDE, q=LATENT_STRIDE)


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

    def components(self, number: int) -> dict[str, Tensor]:
        """The state of `PrincipalComponents`: the `number` components of largest variance.

        `basis` has orthonormal columns, the largest entry of each positive; `std` are their deviations.
        """
        mean = self.total / self.count
        variances, basis = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        variances, basis = variances.flip(0)[:number], basis.flip(1)[:, :number]
        largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
        std = variances.clamp(min=MIN_STD**2).sqrt()
        return {"mean": mean.float(), "basis": (basis * largest.sign()).float(), "std": std.float()}


class PrincipalComponents(nn.Module):
    """The linear map between vectors of length d and n normalised values, and back."""

    std: Float[Tensor, " n"]

    def __init__(self, dimension: int, number: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimension))
        self.basis = nn.Parameter(torch.eye(dimension, number))
        self.register_buffer("std", torch.ones(number))

    def encode(self, vectors: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w n"]:
        """Coordinates along the components, divided by their standard deviation."""
        return (vectors - self.mean) @ self.basis / self.std

    def decode(self, values: Float[Tensor, "b h w n"]) -> Float[Tensor, "b h w d"]:
        """The vector with these coordinates, the nearest such one to what was encoded."""
        return (values * self.std) @ self.basis.T + self.mean


@dataclass(frozen=True)
class LinearConfig:
    """Size of an `AutoencoderLinear`."""

    temporal_compression_ratio: int = 4
    """k; a chunk has k+1 frames."""
    latent_channels: int = 8
    """c, the values per latent frame and 8 x 8 square."""


class AutoencoderLinear(DirectAutoencoder):
    """Principal components of 8 x 8 x (k+1) cubes, with the interface of all embedders.

    Latents are "b c n h/8 w/8" with n = 2 for a chunk of k+1 frames and n = 1 for an image, divided by
    their standard deviation over the clips of the fit. Channel i of latent frame j is component j c + i:
    unlike in REGEN, the first latent frame of a chunk is not the latent of an image. The statistics of
    chunks are in the weights; `latents_std` repeats them, and `latents_mean` is 0, as the mean cube is
    subtracted first.
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
        self.chunk = PrincipalComponents(VALUES * (1 + ratio), 2 * channels)
        self.image = PrincipalComponents(VALUES, channels)

    @classmethod
    def fit(
        cls,
        chunks: Iterable[Float[Tensor, "_ 3 t _ _"]],
        temporal_compression_ratio: int,
        images: Iterable[Float[Tensor, "_ 3 1 _ _"]] | None = None,
        latent_channels: int = 8,
    ) -> "AutoencoderLinear":
        """The embedder with the smallest squared error on `chunks` of k+1 frames in [-1, 1], and on `images`.

        Both are iterated once; sides are multiples of 8, sizes may differ. Without `images`, every frame of
        every chunk is one. Raises ValueError when there is nothing to fit to, or for other numbers of frames.
        """
        model = cls(temporal_compression_ratio, latent_channels)
        of_chunks, of_images = Covariance(len(model.chunk.mean)), Covariance(len(model.image.mean))
        for chunk in chunks:
            model._check_video(chunk)
            of_chunks.add(to_cubes(chunk))
            if images is None:
                of_images.add(to_cubes(rearrange(chunk, "b c t h w -> (b t) c 1 h w")))
        for image in images if images is not None else ():
            of_images.add(to_cubes(image))
        if of_chunks.count == 0 or of_images.count == 0:
            raise ValueError("There is nothing to fit to; give at least one chunk and one image.")
        model.chunk.load_state_dict(of_chunks.components(2 * latent_channels))
        model.image.load_state_dict(of_images.components(latent_channels))
        std = rearrange(model.chunk.std, "(n c) -> n c", n=2)
        model.set_latent_statistics(torch.zeros_like(std), std)
        return model

    def _posterior(
        self, video: Float[Tensor, "b 3 t h w"], normalised: bool, tile: Tile | None
    ) -> IdentityDistribution:
        part = self.image if video.shape[2] == 1 else self.chunk
        values = part.encode(to_cubes(video))
        return IdentityDistribution(rearrange(values, "b h w (n c) -> b c n h w", c=self.latent_channels))

    def _decode_frames(
        self, latents: Float[Tensor, "b c n y x"], tile: Tile | None
    ) -> Float[Tensor, "b 3 t h w"]:
        part = self.image if latents.shape[2] == 1 else self.chunk
        return from_cubes(part.decode(rearrange(latents.to(self.dtype), "b c n h w -> b h w (n c)")))

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory for encoding or decoding `frames` frames of `height` x `width` pixels."""
        return 3 * 4 * frames * height * width * self.dtype.itemsize

    def loss(
        self, batch: dict[str, Tensor], generators: list[Generator] | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Mean squared error of `batch["target"]` at `batch["times"]`, decoded from `batch["clip"]`.

        `fit` finds its minimum for reconstruction directly; the loss serves comparison and fine-tuning.
        `generators` have no effect: there is no randomness.
        """
        latents = self.encode(batch["clip"]).latent_dist.mode()
        decoded = self.decode(latents, batch["times"]).sample
        error = (decoded - batch["target"].to(decoded)).float().square().mean()
        psnr = 10 * torch.log10(4 / error.detach())  # values span 2, from -1 to 1
        return error, {"loss": error.detach(), "psnr": psnr}
