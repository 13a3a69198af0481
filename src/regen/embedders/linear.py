"""AutoencoderLinear: the linear baseline, principal components.

A chunk of k+1 frames is split into cubes of 8 x 8 pixels and k+1 frames. Each cube, 3 * 64 * (k+1) values, is
replaced by its first 2c principal components, as two latent frames of c channels. An image has components of
its own: 8 x 8 squares, c values each. No linear embedder with the same latents has a smaller mean squared
error on the clips that this one is fitted to, so a learned embedder must surpass it.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.diffusion import Solver, euler
from regen.embedders.base import VideoAutoencoder, blend_frames
from regen.tiling import LATENT_STRIDE, Tile

MIN_STD = 1e-6  # for components without any variance, as in synthetic clips


def to_cubes(video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b h2 w2 d"]:
    """Split a clip into cubes of 8 x 8 pixels and all its frames, d = 192 t values each."""
    return rearrange(video, "b c t (h p) (w q) -> b h w (t c p q)", p=LATENT_STRIDE, q=LATENT_STRIDE)


def from_cubes(cubes: Float[Tensor, "b h2 w2 d"]) -> Float[Tensor, "b 3 t h w"]:
    """The inverse of `to_cubes`."""
    return rearrange(cubes, "b h w (t c p q) -> b c t (h p) (w q)", c=3, p=LATENT_STRIDE, q=LATENT_STRIDE)


class Components(NamedTuple):
    """Principal components of vectors of length d: mean, n orthonormal columns, standard deviations."""

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d n"]
    std: Float[Tensor, " n"]


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

    def components(self, number: int) -> Components:
        """The `number` components of largest variance, the largest entry of each positive."""
        mean = self.total / self.count
        variances, basis = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        variances, basis = variances.flip(0)[:number], basis.flip(1)[:, :number]
        largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
        std = variances.clamp(min=MIN_STD**2).sqrt()
        return Components(mean.float(), (basis * largest.sign()).float(), std.float())


class PrincipalComponents(nn.Module):
    """The linear map between vectors of length d and n normalised values, and back."""

    std: Float[Tensor, " n"]

    def __init__(self, dimension: int, number: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dimension))
        self.basis = nn.Parameter(torch.eye(dimension, number))
        self.register_buffer("std", torch.ones(number))

    @torch.no_grad()
    def fit(self, vectors: Covariance) -> None:
        """Use the principal components of these vectors."""
        components = vectors.components(len(self.std))
        self.mean.copy_(components.mean)
        self.basis.copy_(components.basis)
        self.std.copy_(components.std)

    def encode(self, vectors: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w n"]:
        """Coordinates along the components, divided by their standard deviation."""
        return (vectors - self.mean) @ self.basis / self.std

    def decode(self, values: Float[Tensor, "b h w n"]) -> Float[Tensor, "b h w d"]:
        """The vector with these coordinates, the nearest such one to what was encoded."""
        return (values * self.std) @ self.basis.T + self.mean


class AutoencoderLinear(VideoAutoencoder):
    """Principal components of 8 x 8 x (k+1) cubes, with the interface of all embedders.

    Latents are "b c n h/8 w/8" with n = 2 for a chunk of k+1 frames and n = 1 for an image, divided by
    their standard deviation over the clips of the fit. Channel i of latent frame j is component j c + i:
    unlike in REGEN, the first latent frame of a chunk is not the latent of an image.

    Args:
        temporal_compression_ratio: k; a chunk has k+1 frames.
        latent_channels: c, the values per latent frame and 8 x 8 square.
        spatial_compression_ratio: 8, the side of a cube.
        scaling_factor: 1, as latents are normalised.
        latents_mean, latents_std: mean and standard deviation of the raw values of a chunk, by latent frame
            and channel, as applied inside the model; the mean is zero, as the mean cube is subtracted first.
    """

    @register_to_config
    def __init__(
        self,
        temporal_compression_ratio: int = 4,
        latent_channels: int = 8,
        spatial_compression_ratio: int = LATENT_STRIDE,
        scaling_factor: float = 1.0,
        latents_mean: list[list[float]] | None = None,
        latents_std: list[list[float]] | None = None,
    ) -> None:
        super().__init__()
        if (spatial_compression_ratio, scaling_factor) != (LATENT_STRIDE, 1.0):
            raise ValueError("spatial_compression_ratio must be 8 and scaling_factor 1.")
        assert latents_mean is None or not any(map(any, latents_mean)), "the mean cube is subtracted first"
        if temporal_compression_ratio < 1 or not 1 <= latent_channels <= 3 * LATENT_STRIDE**2:
            raise ValueError(
                f"The ratio must be >= 1 and there must be 1 to {3 * LATENT_STRIDE**2} latent channels, got "
                f"{temporal_compression_ratio} and {latent_channels}."
            )
        self.chunk = PrincipalComponents(3 * LATENT_STRIDE**2 * self.chunk_frames, 2 * latent_channels)
        self.image = PrincipalComponents(3 * LATENT_STRIDE**2, latent_channels)
        if latents_std is not None:
            self.chunk.std.copy_(torch.tensor(latents_std).flatten())

    @property
    def latents_mean(self) -> Float[Tensor, "2 c"]:
        """Mean of the raw values of a chunk: zero, as the mean cube is subtracted first."""
        return torch.zeros_like(self.latents_std)

    @property
    def latents_std(self) -> Float[Tensor, "2 c"]:
        """Standard deviation of the raw values of a chunk, by which `encode` divides."""
        return rearrange(self.chunk.std, "(n c) -> n c", n=2)

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
            model._part_for_frames(chunk)
            of_chunks.add(to_cubes(chunk))
            if images is None:
                of_images.add(to_cubes(rearrange(chunk, "b c t h w -> (b t) c 1 h w")))
        for image in images if images is not None else ():
            of_images.add(to_cubes(image))
        if of_chunks.count == 0 or of_images.count == 0:
            raise ValueError("There is nothing to fit to; give at least one chunk and one image.")
        model.chunk.fit(of_chunks)
        model.image.fit(of_images)
        fitted = cls(
            temporal_compression_ratio=temporal_compression_ratio,
            latent_channels=latent_channels,
            latents_mean=model.latents_mean.tolist(),
            latents_std=model.latents_std.tolist(),
        )
        fitted.load_state_dict(model.state_dict())
        return fitted

    @apply_forward_hook
    def encode(
        self, video: Float[Tensor, "b 3 t h w"], return_dict: bool = True, tile: Tile | None = None
    ) -> AutoencoderKLOutput | tuple[IdentityDistribution]:
        """Encode a chunk of k+1 frames or an image (t = 1), RGB in [-1, 1].

        `latent_dist.mode()` and `.sample()` are both the latents "b c n h/8 w/8". `tile` has no effect: every
        cube is a tile of its own. Raises ValueError when t is neither 1 nor k+1, or a side not a multiple of
        8.
        """
        part = self._part_for_frames(video)
        values = part.encode(to_cubes(video.to(self.dtype)))
        latents = rearrange(values, "b h w (n c) -> b c n h w", c=self.latent_channels)
        distribution = IdentityDistribution(latents)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    @apply_forward_hook
    def decode(
        self,
        latents: Float[Tensor, "b c n h w"],
        times: Float[Tensor, " t"] | None = None,
        steps: int = 1,
        generator: Generator | list[Generator] | None = None,
        return_dict: bool = True,
        solver: Solver = euler,
        tile: Tile | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents to the frames at `times` (0: first frame of the chunk, 1: last), not clamped.

        By default all k+1 frames of a chunk, or the one of an image. Between two frames the result is their
        linear blend; before the first and after the last it is constant. `steps` (at least 1), `generator`,
        `solver` and `tile` have no effect. Raises ValueError for latents of another shape or `steps` < 1.
        """
        if steps < 1:
            raise ValueError(f"Decoding takes at least 1 step, got {steps}.")
        channels, frames = latents.shape[1:3]
        if channels != self.latent_channels or frames not in (1, 2):
            raise ValueError(
                f"Latents must be 1 or 2 latent frames of {self.latent_channels} channels, got {frames} of "
                f"{channels}."
            )
        part = self.image if frames == 1 else self.chunk
        video = from_cubes(part.decode(rearrange(latents.to(self.dtype), "b c n h w -> b h w (n c)")))
        if times is not None:
            video = blend_frames(video, times * self.temporal_compression_ratio)
        return DecoderOutput(sample=video) if return_dict else (video,)

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

    def _part_for_frames(self, video: Float[Tensor, "b 3 t h w"]) -> PrincipalComponents:
        frames, height, width = video.shape[2:]
        if height % LATENT_STRIDE or width % LATENT_STRIDE or frames not in (1, self.chunk_frames):
            raise ValueError(
                f"A video must have 1 or {self.chunk_frames} frames and sides that are multiples of "
                f"{LATENT_STRIDE}, got {frames} of {height}x{width}."
            )
        return self.image if frames == 1 else self.chunk
