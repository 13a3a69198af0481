"""AutoencoderRegen: two latent frames per chunk, a diffusion transformer as decoder.

REGEN: Learning Compact Video Embedding with (Re-)Generative Decoder, arXiv 2503.08665.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from regen import diffusion
from regen.embedders.diffusion_decoder import DecoderConfig, DiffusionDecoder, PerceptualTerms
from regen.embedders.model import check_requirements, configured_by
from regen.embedders.pyramid import PyramidAutoencoder, PyramidConfig
from regen.tiling import LATENT_STRIDE as PATCH
from regen.tiling import Tile


@dataclass(frozen=True)
class RegenConfig(DecoderConfig, PyramidConfig):
    """Size and options of an `AutoencoderRegen`; the defaults are those of the paper's 4× model."""

    kl_weight: float = 0.0
    """Weight of the KL divergence of the latents' Gaussian posterior from N(0, 1); 0: no posterior."""


class AutoencoderRegen(DiffusionDecoder, PyramidAutoencoder):
    """A generative video embedder with the interface of a diffusers autoencoder.

    Latents are normalised (see `VideoAutoencoder`). The module keeps no state between calls, and no
    parameter depends on the resolution or the number of frames.
    """

    extrapolates = True
    _no_split_modules = ("Block", "Stage")
    _repeated_blocks = ("Block", "CausalResBlock")

    @configured_by(RegenConfig, scaling_factor=1.0, spatial_compression_ratio=PATCH)
    def __init__(self, config: RegenConfig) -> None:
        super().__init__()
        is_linear = config.linear_skip == "overlapping"
        check_requirements(
            {
                "linear_skip overlapping needs prediction sample": not is_linear
                or config.prediction == "sample"
            }
        )
        self._build_encoder(config, has_variances=config.kl_weight > 0)
        self._build_decoder(
            config, config.latent_channels, config.temporal_compression_ratio, PATCH,
            config.detail_channels, linear_input=is_linear,
        )  # fmt: skip

    def _linear(self, raw: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"]) -> Tensor | None:
        return None if self.linear_decoder is None else self.linear_decoder(raw, times)

    def _decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None,
        steps: int,
        generator: torch.Generator | list[torch.Generator] | None,
        solver: diffusion.Solver,
        tile: Tile | None,
        noise: diffusion.Noise | None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """Frames at any times. Raises ValueError for an image (n = 1) at a time other than 0."""
        times = self._times(latents, times)
        return self._generate(self._raw(latents), times, steps, generator, solver, tile, noise)

    def loss(
        self,
        batch: dict[str, Tensor],
        generators: list[torch.Generator],
        auxiliary: PerceptualTerms | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The diffusion loss of encoder and decoder together (REGEN, Eq. 4, the paper's only loss).

        `batch`: `clip` (b 3 t h w, the encoder's input), `target` (b 3 T h w, the frames to decode) and its
        `times` (T). With `latents` (b c n h/8 w/8, as `encode` returns them) in place of `clip` only the
        decoder is trained; the encoder does not run. The `margin` of the batch is decoded and does not count.
        All random numbers of a sample come from its own one of the `generators`, so the loss is the mean over
        the samples. `auxiliary` adds a perceptual loss of the predicted clean clips at t = 1. Logs `psnr` of
        these at the highest noise level of the batch.
        """
        target, times, margin = batch["target"], batch["times"], int(batch.get("margin", 0))
        assert len(generators) == len(target), "one generator for each sample"
        latents, kl = self._training_latents(batch, generators)
        loss, logs, _ = self._diffusion_loss(latents, target, times, margin, generators, auxiliary)
        if kl is not None:
            loss = loss + self.config.kl_weight * kl
            logs["kl"] = kl.detach()
        return loss, {"loss": loss.detach(), **logs}

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory of the widest layers for encoding or decoding; measured peaks stay below."""
        config = self.config
        pixels = frames * height * width / config.encoder_patch_size**2
        encoder = pixels * 8 * config.encoder_widths[0] * self.dtype.itemsize
        return int(max(self.decoder_bytes(frames, height, width), encoder))

    def _times(
        self, latents: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"] | None
    ) -> Float[Tensor, " t"]:
        frames = latents.shape[2]
        if times is None:
            return torch.linspace(0, 1, 1 if frames == 1 else self.chunk_frames, device=latents.device)
        if frames == 1 and bool((times != 0).any()):
            raise ValueError("The times of an image (a content latent alone) must be 0.")
        return times.to(latents.device)
