"""AutoencoderMagvit2: the baseline. The encoder of REGEN, and its mirror as the decoder.

MAGVIT-v2 (Language Model Beats Diffusion, arXiv 2310.05737) with continuous latents, as REGEN re-implements
it to compare with (REGEN, Sec. 4; spec A13).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import (
    DecoderOutput,
)
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor

from regen import diffusion
from regen.embedders.base import PyramidAutoencoder, blend_frames
from regen.networks.conv_decoder import CausalDecoder
from regen.networks.encoder import CausalEncoder, stride_plan
from regen.tiling import LATENT_STRIDE, Tile, Tiling, crop

# (target, reconstruction) -> an auxiliary loss and what to log: perceptual, adversarial.
AuxiliaryLoss = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Magvit2Config:
    """The size and the options of an `AutoencoderMagvit2`; the defaults are the paper's 4× model."""

    temporal_compression_ratio: int = 4
    """k: 4, 8, 16 or 32; a chunk of 17 frames (33 at 32×) becomes 5, 3, 2 or 2 latent frames."""
    latent_channels: int = 8
    encoder_widths: tuple[int, ...] = (128, 256, 512, 768)
    """Channels of each encoder stage: four stages at 4×, five above."""
    encoder_blocks: int = 4
    """Residual blocks of each stage, and after the last."""
    encoder_patch_size: int = 1
    """Space-to-depth before the first convolution and depth-to-space after the last, for small models."""
    linear_skip: bool = False
    """Linear maps beside both pyramids, from pixels to latents and back; let small models train faster."""
    decoder_widths: tuple[int, ...] | None = None
    """Channels of the decoder in the order of the encoder's stages; None: the encoder's own."""
    decoder_blocks: int | None = None
    """Residual blocks of each decoder stage; None: as many as in the encoder."""
    late_upsampling: bool | None = None
    """All up-samplers behind the last stage; None: at 32× only, as the paper has it for want of memory."""
    kl_weight: float = 1e-6
    """Weight of the divergence of the latents' Gaussian posterior from N(0, 1); 0: latents without one."""
    reconstruction_weight: float = 5.0
    """Weight of the mean squared error."""

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk: 17, and 33 at 32×."""
        return chunk_frames(self.temporal_compression_ratio)


class AutoencoderMagvit2(PyramidAutoencoder):
    """A convolutional video autoencoder with the conventions of a diffusers autoencoder.

    A chunk of 17 frames becomes 5, 3 or 2 latent frames at 4×, 8× and 16×, one of 33 becomes 2 at 32×, and an
    image becomes 1. Latents come and go normalised (see `VideoAutoencoder`). The module keeps no state
    between calls, and no parameter depends on the resolution or the number of frames.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("CausalResBlock", "Upsampler")

    @register_to_config
    def __init__(
        self,
        temporal_compression_ratio: int = 4,
        latent_channels: int = 8,
        encoder_widths: tuple[int, ...] | list[int] = (128, 256, 512, 768),
        encoder_blocks: int = 4,
        encoder_patch_size: int = 1,
        linear_skip: bool = False,
        decoder_widths: tuple[int, ...] | list[int] | None = None,
        decoder_blocks: int | None = None,
        late_upsampling: bool | None = None,
        kl_weight: float = 1e-6,
        reconstruction_weight: float = 5.0,
        latents_mean: list[list[float]] | None = None,
        latents_std: list[list[float]] | None = None,
        spatial_compression_ratio: int = LATENT_STRIDE,
        scaling_factor: float = 1.0,
    ):
        super().__init__()
        strides = stride_plan(temporal_compression_ratio, encoder_patch_size)
        decoder_widths = encoder_widths if decoder_widths is None else decoder_widths
        if not len(encoder_widths) == len(decoder_widths) == len(strides):
            raise ValueError(
                f"At ratio {temporal_compression_ratio} there are {len(strides)} stages; give as many "
                f"widths, not {len(encoder_widths)} in the encoder and {len(decoder_widths)} in the decoder."
            )
        if latent_channels < 1 or (spatial_compression_ratio, scaling_factor) != (LATENT_STRIDE, 1.0):
            raise ValueError("The baseline has at least 1 latent channel, the spatial ratio 8 and scale 1.")
        if late_upsampling is None:
            late_upsampling = temporal_compression_ratio == 32
        blocks = encoder_blocks if decoder_blocks is None else decoder_blocks
        moments = latent_channels * (2 if kl_weight > 0 else 1)
        patch = encoder_patch_size
        self.encoder = CausalEncoder(
            moments, tuple(encoder_widths), strides, encoder_blocks, patch, linear_skip
        )
        self.decoder = CausalDecoder(
            latent_channels, tuple(decoder_widths), strides, blocks, patch, late_upsampling, linear_skip
        )

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk: 17, and 33 at 32×."""
        return chunk_frames(self.config.temporal_compression_ratio)

    @property
    def latent_frames(self) -> int:
        """Latent frames of a chunk: 5, 3, 2 and 2."""
        return 1 + (self.chunk_frames - 1) // self.config.temporal_compression_ratio

    @apply_forward_hook
    def decode(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"] | None = None,
        steps: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        solver: diffusion.Solver = diffusion.euler,
        tile: Tile | None = None,
    ) -> DecoderOutput | tuple[Float[Tensor, "b 3 t h w"]]:
        """Normalised latents to the frames of their chunk, or to those at `times` (0 the first, 1 the last).

        The decoder knows no other frames than those that were encoded: between two of them the answer is
        their linear blend, before the first and after the last it stands still. `steps` (at least 1),
        `generator` and `solver` have no effect: nothing is denoised. Values are about [-1, 1], not clamped.
        Raises ValueError for latents of another shape or `steps` under 1.
        """
        channels, count = latents.shape[1:3]
        if channels != self.config.latent_channels or count not in (1, self.latent_frames) or steps < 1:
            raise ValueError(
                f"Decoding takes at least 1 step and 1 or {self.latent_frames} latent frames of "
                f"{self.config.latent_channels} channels, not {steps} and {count} of {channels}."
            )
        tiling = Tiling.of(latents.shape[3], latents.shape[4], tile or self.tile)
        raw = self._raw(latents)
        parts = (self.decoder(crop(raw, box, 1)).float() for box in tiling.boxes)
        sample = tiling.blend(parts, LATENT_STRIDE)
        if times is not None:
            sample = blend_frames(sample, times * (sample.shape[2] - 1))
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self, video: Float[Tensor, "b 3 t h w"], generator: torch.Generator | None = None
    ) -> DecoderOutput:
        """Encode and decode one chunk or image."""
        return self.decode(self.encode(video).latent_dist.mode())

    def loss(
        self,
        batch: dict[str, Tensor],
        generators: list[torch.Generator],
        auxiliary: AuxiliaryLoss | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Squared error and KL, and what `auxiliary` makes of the clip and its reconstruction (spec A13).

        `batch["clip"]` is b 3 t h w in [-1, 1]. With `latents` (b c n h/8 w/8, normalised, as `encode`
        returns them) and `target` (b 3 t h w, their frames) in its place the decoder alone is trained; the
        encoder does not run. All that is random about a sample comes from its own one of the `generators`,
        so the loss without `auxiliary` is the mean over the samples. Logs `psnr` of the reconstruction.
        """
        clip = batch["target"] if "latents" in batch else batch["clip"]
        assert len(generators) == len(clip), "one generator for each sample"
        latents, kl = self._training_latents(batch, generators)
        reconstruction = self.decoder(latents).float()
        error = (reconstruction - clip).square().mean()
        loss = self.config.reconstruction_weight * error
        logs = {"psnr": -10 * torch.log10(error.detach() / 4)}  # values span 2, from -1 to 1
        if kl is not None:
            loss = loss + self.config.kl_weight * kl
            logs["kl"] = kl.detach()
        if auxiliary is not None:
            term, said = auxiliary(clip, reconstruction)
            loss, logs = loss + term, logs | said
        return loss, {"loss": loss.detach(), **logs}

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """About how much memory it takes to encode or decode `frames` frames of `height` x `width` pixels."""
        config = self.config
        widest = max(config.encoder_widths[0], (config.decoder_widths or config.encoder_widths)[0])
        pixels = frames * height * width / config.encoder_patch_size**2
        return int(8 * pixels * widest * self.dtype.itemsize)


def chunk_frames(ratio: int) -> int:
    """Frames of one chunk of the baseline: 17 → 5, 17 → 3, 17 → 2 and 33 → 2 latent frames (spec A13)."""
    return 33 if ratio == 32 else 17
