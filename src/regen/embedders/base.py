"""VideoAutoencoder: what every trained embedder shares of diffusers' conventions."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from regen.networks.encoder import CausalEncoder
from regen.tiling import LATENT_STRIDE, Tile, Tiling, crop


class VideoAutoencoder(ModelMixin, ConfigMixin):
    """Ratios, latent statistics and tiling under the names that diffusers' users expect.

    The latents that a caller sees are normalised already: `latents_mean` and `latents_std` (rows: the first
    latent frame of a chunk, the others; columns: channels) are applied inside `encode` and `decode`, and
    `scaling_factor` is 1.
    """

    extrapolates: bool = False
    """Whether it decodes frames before and after a chunk that are more than its first and last one."""
    _forward_methods = ("loss", "encode", "decode")
    tile: Tile | None = None
    """The largest part of the picture to work on at once; a session's own takes its place."""

    @property
    def temporal_compression_ratio(self) -> int:
        return self.config.temporal_compression_ratio

    @property
    def spatial_compression_ratio(self) -> int:
        return LATENT_STRIDE

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def scaling_factor(self) -> float:
        return 1.0

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk: 1 + k, where an embedder does not say otherwise."""
        return 1 + self.config.temporal_compression_ratio

    @property
    def latents_mean(self) -> Float[Tensor, "2 c"]:
        """Mean of the raw latents (rows: first latent frame, others), which `encode` has taken away."""
        return self._rows(self.config.latents_mean, 0.0)

    @property
    def latents_std(self) -> Float[Tensor, "2 c"]:
        """Standard deviation of the raw latents, by which `encode` has already divided."""
        return self._rows(self.config.latents_std, 1.0)

    def set_latent_statistics(self, mean: Float[Tensor, "2 c"], std: Float[Tensor, "2 c"]) -> None:
        """Store mean and deviation of the raw latents (rows: first frame, others) for `encode` to take."""
        self.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())

    def enable_tiling(
        self,
        tile_sample_min_height: int = 512,
        tile_sample_min_width: int = 512,
        tile_sample_stride_height: int = 448,
        tile_sample_stride_width: int = 448,
    ) -> None:
        """Work on tiles of at most this many pixels from now on; they overlap by size minus stride.

        The names are those of diffusers' video autoencoders; of two overlaps the larger one is used. The
        noise of a pixel does not depend on the tiles, and they are blended in every step.
        """
        overlap = max(
            tile_sample_min_height - tile_sample_stride_height,
            tile_sample_min_width - tile_sample_stride_width,
        )
        self.tile = Tile(tile_sample_min_height, tile_sample_min_width, overlap)

    def disable_tiling(self) -> None:
        """Work on the whole picture at once again."""
        self.tile = None

    def _statistics(self, frames: int) -> tuple[Float[Tensor, "c n 1 1"], Float[Tensor, "c n 1 1"]]:
        """Mean and deviation of a chunk of `frames` latent frames."""
        rows = [min(i, 1) for i in range(frames)]
        mean, std = self.latents_mean[rows], self.latents_std[rows]
        return rearrange(mean, "n c -> c n 1 1"), rearrange(std, "n c -> c n 1 1")

    def _distribution(
        self, moments: Float[Tensor, "b m n y x"], normalised: bool
    ) -> IdentityDistribution | DiagonalGaussianDistribution:
        """What the encoder's answer stands for: latents, or their mean and log variance where it has both."""
        centre, *log_variance = moments.float().split(self.config.latent_channels, dim=1)
        if normalised:
            mean, std = self._statistics(moments.shape[2])
            centre = (centre - mean) / std
            log_variance = [value - 2 * torch.log(std) for value in log_variance]
        parameters = torch.cat([centre, *log_variance], dim=1).to(moments.dtype)
        return DiagonalGaussianDistribution(parameters) if log_variance else IdentityDistribution(parameters)

    def _raw(self, latents: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b c n y x"]:
        mean, std = self._statistics(latents.shape[2])
        return (latents.float() * std + mean).to(self.dtype)

    def _rows(self, rows: list[list[float]] | None, default: float) -> Float[Tensor, "2 c"]:
        """The configuration's numbers in fp32, whatever the precision of the weights."""
        if rows is None:
            return torch.full((2, self.config.latent_channels), default, device=self.device)
        return torch.tensor(rows, device=self.device)


class PyramidAutoencoder(VideoAutoencoder):
    """An embedder whose latents come from a `CausalEncoder`."""

    encoder: CausalEncoder

    @apply_forward_hook
    def encode(
        self, video: Float[Tensor, "b 3 t h w"], return_dict: bool = True, tile: Tile | None = None
    ) -> AutoencoderKLOutput | tuple[IdentityDistribution | DiagonalGaussianDistribution]:
        """One chunk of `chunk_frames` frames, or one image, to normalised latents (spec A2).

        `video` is RGB in [-1, 1] with sides that are multiples of 8. `.latent_dist.mode()` has shape
        `b c n h/8 w/8`: for REGEN n = 2 (content, motion), for the baseline its `latent_frames`; n = 1 for an
        image (t = 1). For whole videos of any length and size see `regen.codec`. `tile` bounds what is worked
        on at once; by default what `enable_tiling` set. Raises ValueError for any other shape.
        """
        frames, height, width = video.shape[2:]
        if frames not in (1, self.chunk_frames) or height % LATENT_STRIDE or width % LATENT_STRIDE:
            raise ValueError(
                f"A chunk has {self.chunk_frames} frames (or 1, an image) and sides that are multiples of "
                f"{LATENT_STRIDE}, not {frames} of {height} x {width}; regen.codec splits and pads any video."
            )
        distribution = self._posterior(video.to(self.dtype), normalised=True, tile=tile or self.tile)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    def _posterior(
        self, video: Float[Tensor, "b 3 t h w"], normalised: bool, tile: Tile | None = None
    ) -> IdentityDistribution | DiagonalGaussianDistribution:
        video = video.to(memory_format=torch.channels_last_3d)
        tiling = Tiling.of(video.shape[3] // LATENT_STRIDE, video.shape[4] // LATENT_STRIDE, tile)
        moments = tiling.blend((self.encoder(crop(video, box, LATENT_STRIDE)) for box in tiling.boxes), 1)
        return self._distribution(moments, normalised)

    def _training_latents(
        self, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> tuple[Float[Tensor, "b c n y x"], Float[Tensor, ""] | None]:
        """Raw latents: drawn for `batch["clip"]`, with their KL where they have one, or `batch["latents"]`.

        Given latents have no divergence that anything could learn from.
        """
        if "latents" in batch:
            return self._raw(batch["latents"]), None
        posterior = self._posterior(batch["clip"], normalised=False)
        kl = kl_divergence(posterior) if self.config.kl_weight > 0 else None
        return posterior.sample(generators), kl


def kl_divergence(posterior: DiagonalGaussianDistribution) -> Float[Tensor, ""]:
    """KL(posterior ‖ N(0, 1)), mean over the values of the latents."""
    return 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()


def blend_frames(
    video: Float[Tensor, "b 3 t h w"], positions: Float[Tensor, " n"]
) -> Float[Tensor, "b 3 n h w"]:
    """Frames at real-valued `positions` (0 is the first frame): linear in between, clamped at the ends."""
    last = video.shape[2] - 1
    positions = positions.to(video.device, torch.float32).clamp(0, last)
    before = positions.floor().long()
    after = (before + 1).clamp(max=last)
    weight = rearrange((positions - before).to(video.dtype), "n -> n 1 1")
    return torch.lerp(video[:, :, before], video[:, :, after], weight)
