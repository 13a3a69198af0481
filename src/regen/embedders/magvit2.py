"""AutoencoderMagvit2: the baseline, REGEN's encoder with a mirrored decoder.

MAGVIT-v2 (Language Model Beats Diffusion, arXiv 2310.05737) with continuous latents, as REGEN re-implements
it for comparison (REGEN, Sec. 4).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regen.embedders.base import without_margin
from regen.embedders.direct import DirectAutoencoder
from regen.embedders.model import check_requirements, configured_by
from regen.embedders.pyramid import PyramidAutoencoder, PyramidConfig
from regen.networks.conv_decoder import CausalDecoder
from regen.tiling import LATENT_STRIDE, Tile, Tiling, crop

# (target, reconstruction) -> an auxiliary loss and its logs: perceptual, adversarial.
AuxiliaryLoss = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Magvit2Config(PyramidConfig):
    """Size and options of an `AutoencoderMagvit2`; the defaults are those of the paper's 4× model."""

    decoder_widths: tuple[int, ...] | None = None
    """Channels of the decoder in the order of the encoder's stages; None: those of the encoder."""
    decoder_blocks: int | None = None
    """Residual blocks of each decoder stage; None: as many as in the encoder."""
    late_upsampling: bool | None = None
    """All up-samplers after the last stage; None: at 32× only, as in the paper, for lack of memory."""
    kl_weight: float = 1e-6
    """Weight of the KL divergence of the latents' Gaussian posterior from N(0, 1); 0: no posterior."""
    reconstruction_weight: float = 5.0
    """Weight of the mean squared error."""


class AutoencoderMagvit2(PyramidAutoencoder, DirectAutoencoder):
    """A convolutional video autoencoder with the interface of a diffusers autoencoder.

    A chunk of 17 frames becomes 5, 3 or 2 latent frames at 4×, 8× and 16×, one of 33 becomes 2 at 32×, and an
    image becomes 1. No parameter depends on the resolution or the number of frames.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("CausalResBlock", "Upsampler")
    _repeated_blocks = ("CausalResBlock",)

    @configured_by(Magvit2Config, scaling_factor=1.0, spatial_compression_ratio=LATENT_STRIDE)
    def __init__(self, config: Magvit2Config) -> None:
        super().__init__()
        strides = self._build_encoder(config, has_variances=config.kl_weight > 0)
        widths, ratio = config.decoder_widths or config.encoder_widths, config.temporal_compression_ratio
        requirement = f"decoder_widths must have {len(strides)} entries"
        check_requirements({requirement: len(widths) == len(strides)})
        late = ratio == 32 if config.late_upsampling is None else config.late_upsampling
        blocks = config.encoder_blocks if config.decoder_blocks is None else config.decoder_blocks
        self.decoder = CausalDecoder(
            config.latent_channels,
            widths,
            strides,
            blocks,
            config.encoder_patch_size,
            late,
            config.linear_skip is True,
            config.detail_channels,
        )
        if self.linear_decoder is not None:
            for parameter in self.decoder.out.parameters():  # the frames start as the linear ones
                nn.init.zeros_(parameter)

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk: 17, and 33 at 32×."""
        return 33 if self.config.temporal_compression_ratio == 32 else 17

    def _decode_frames(
        self, latents: Float[Tensor, "b c n y x"], tile: Tile | None
    ) -> Float[Tensor, "b 3 t h w"]:
        tiling, raw = Tiling.of(latents.shape[3], latents.shape[4], tile), self._raw(latents)
        frames = tiling.blend(
            (self.decoder(crop(raw, box, 1)).float() for box in tiling.boxes), LATENT_STRIDE
        )
        return frames if self.linear_decoder is None else frames + self._linear_frames(raw)

    def _linear_frames(self, raw: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b 3 t h w"]:
        """The linear reconstruction, k frames for each latent after the first.

        The linear decoder is that of a pair of latents, content and motion. The content latent of a later
        pair is that of the last frame before it, as it was decoded.
        """
        assert self.linear_encoder is not None and self.linear_decoder is not None
        content, *rest = raw.split(1, dim=2)
        frames = [self.linear_decoder(torch.cat([content, *rest[:1]], dim=2))]
        for motion in rest[1:]:
            content = self.linear_encoder(frames[-1][:, :, -1:])
            frames.append(self.linear_decoder(torch.cat([content, motion], dim=2))[:, :, 1:])
        return torch.cat(frames, dim=2).float()

    def loss(
        self,
        batch: dict[str, Tensor],
        generators: list[torch.Generator],
        auxiliary: AuxiliaryLoss | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Squared error, KL and an auxiliary loss of the clip and its reconstruction.

        `batch["clip"]` is b 3 t h w in [-1, 1]. With `latents` (b c n h/8 w/8, as `encode` returns them) and
        `target` (b 3 t h w, their frames) in its place only the decoder is trained; the encoder does not run.
        The `margin` of the batch is decoded and does not count. All random numbers of a sample come from its
        own one of the `generators`, so the loss without `auxiliary` is the mean over the samples. Logs
        `psnr` of the reconstruction.
        """
        clip = batch["target"] if "latents" in batch else batch["clip"]
        assert len(generators) == len(clip), "one generator for each sample"
        latents, kl = self._training_latents(batch, generators)
        reconstruction = self.decoder(latents).float()
        if self.linear_decoder is not None:
            reconstruction = reconstruction + self._linear_frames(latents)
        margin = int(batch.get("margin", 0))
        clip, reconstruction = without_margin(clip, margin), without_margin(reconstruction, margin)
        error = (reconstruction - clip).square().mean()
        loss = self.config.reconstruction_weight * error
        logs = {"psnr": -10 * torch.log10(error.detach() / 4)}  # values span 2, from -1 to 1
        if kl is not None:
            loss = loss + self.config.kl_weight * kl
            logs["kl"] = kl.detach()
        if auxiliary is not None:
            term, auxiliary_logs = auxiliary(clip, reconstruction)
            loss, logs = loss + term, logs | auxiliary_logs
        return loss, {"loss": loss.detach(), **logs}

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory for encoding or decoding `frames` frames of `height` x `width` pixels."""
        config = self.config
        widest = max(config.encoder_widths[0], (config.decoder_widths or config.encoder_widths)[0])
        pixels = frames * height * width / config.encoder_patch_size**2
        return int(8 * pixels * widest * self.dtype.itemsize)
