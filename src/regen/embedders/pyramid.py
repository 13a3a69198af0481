"""PyramidAutoencoder: REGEN's encoder, a pyramid of causal convolutions."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regen.embedders.base import VideoAutoencoder
from regen.embedders.clips import PointPosterior
from regen.embedders.model import check_requirements
from regen.latents import GaussianPosterior
from regen.layers.causal import Triple
from regen.networks.encoder import CausalEncoder, stride_plan
from regen.networks.linear import LinearDecoder, LinearEncoder
from regen.tiling import LATENT_STRIDE, Tile, Tiling, crop

LINEAR_PATH = ("linear_encoder.", "linear_decoder.")  # beginnings of the names of its weights


@dataclass(frozen=True)
class PyramidConfig:
    """Size and options of a `PyramidAutoencoder`; the defaults are those of the paper's 4× models."""

    temporal_compression_ratio: int = 4
    """k: 4, 8, 16 or 32. A chunk of 1 + k frames becomes two latent frames (REGEN); one of 17 frames,
    at 32× of 33, becomes 5, 3, 2 or 2 (MAGVIT-v2)."""
    latent_channels: int = 8
    encoder_widths: tuple[int, ...] = (128, 256, 512, 768)
    """Channels of each encoder stage: four stages at 4×, five above."""
    encoder_blocks: int = 4
    """Residual blocks of each stage, and after the last."""
    encoder_patch_size: int = 1
    """Space-to-depth before the first convolution (and the inverse after the last one of MAGVIT-v2); values
    above 1 make small models much faster."""
    linear_skip: bool | Literal["overlapping"] = False
    """Linear maps in parallel to the networks; small models train faster. True: from cubes of pixels to
    latents (with MAGVIT-v2 also back). overlapping: encoder and decoder of an `AutoencoderLinear`, to which
    the networks add what is not linear, from zero on; start it with --init.linear."""
    detail_channels: int = 0
    """Channels of a convolution over the decoder's pixels, which mends borders of patches; 0: none."""


class PyramidAutoencoder(VideoAutoencoder):
    """An embedder whose latents come from a `CausalEncoder` (REGEN, Sec. 3.1)."""

    encoder: CausalEncoder
    linear_encoder: LinearEncoder | None
    linear_decoder: LinearDecoder | None

    def _build_encoder(self, config: PyramidConfig, has_variances: bool) -> tuple[Triple, ...]:
        """Make the encoder and the linear path, and return the strides of the encoder's stages."""
        strides = stride_plan(config.temporal_compression_ratio, config.encoder_patch_size)
        stages, channels, ratio = len(strides), config.latent_channels, config.temporal_compression_ratio
        overlapping = config.linear_skip == "overlapping"
        check_requirements(
            {
                f"encoder_widths must have {stages} entries": len(config.encoder_widths) == stages,
                "latent_channels must be >= 1": channels >= 1,
                "detail_channels must be >= 0": config.detail_channels >= 0,
                "linear_skip overlapping needs kl_weight 0": not (overlapping and has_variances),
            }
        )
        self.encoder = CausalEncoder(
            channels * (1 + has_variances), config.encoder_widths, strides,
            config.encoder_blocks, config.encoder_patch_size, config.linear_skip is True,
        )  # fmt: skip
        self.linear_encoder = LinearEncoder(channels, ratio) if overlapping else None
        self.linear_decoder = LinearDecoder(channels, ratio) if overlapping else None
        if overlapping:
            for parameter in self.encoder.conv_out.parameters():  # the latents start as the linear ones
                nn.init.zeros_(parameter)
        return strides

    def _posterior(
        self, video: Float[Tensor, "b 3 t h w"], normalised: bool, tile: Tile | None = None
    ) -> PointPosterior | GaussianPosterior:
        video = video.to(memory_format=torch.channels_last_3d)
        tiling = Tiling.of(video.shape[3] // LATENT_STRIDE, video.shape[4] // LATENT_STRIDE, tile)
        moments = tiling.blend((self.encoder(crop(video, box, LATENT_STRIDE)) for box in tiling.boxes), 1)
        if self.linear_encoder is not None:  # of the whole picture: its windows reach beyond a tile
            moments = moments + self.linear_encoder(video)
        moments = self._normalise(moments) if normalised else moments
        has_variances = moments.shape[1] > self.config.latent_channels
        return GaussianPosterior(moments) if has_variances else PointPosterior(moments)

    def _training_latents(
        self, batch: dict[str, Tensor], generators: list[torch.Generator]
    ) -> tuple[Float[Tensor, "b c n y x"], Float[Tensor, ""] | None]:
        """Raw latents, given as `latents` or sampled from `clip` with their KL, where that has a weight."""
        if "latents" in batch:
            return self._raw(batch["latents"]), None
        posterior = self._posterior(batch["clip"], normalised=False)
        kl = kl_divergence(posterior) if isinstance(posterior, GaussianPosterior) else None
        return posterior.sample(generators), kl


def kl_divergence(posterior: GaussianPosterior) -> Float[Tensor, ""]:
    """KL(posterior ‖ N(0, 1)), averaged over the values of the latents."""
    return 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
