"""What diffusers' video autoencoders differ in: ratios, frame counts, normalisation, how they decode.

The normalisation of each class is that of its own pipeline in diffusers 0.42.
"""

from typing import Any

import torch
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn

from regen.evaluate.diffusers_models.base import DEFAULT_WINDOW, DiffusersAdapter
from regen.tiling import Tile


class WanAdapter(DiffusersAdapter):
    """Wan 2.1 and 2.2: mean and deviation of each channel."""

    @property
    def temporal_compression_ratio(self) -> int:
        return self.vae.config.scale_factor_temporal

    @property
    def _channels(self) -> int:
        return self.vae.config.z_dim

    def _scale(self, latent_frames: int) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        return self._rows(self.vae.config.latents_mean), self._rows(self.vae.config.latents_std)

    def _width(self) -> float:
        config = self.vae.config
        return (config.decoder_base_dim or config.base_dim) / (config.patch_size or 1) ** 2


class CogVideoXAdapter(DiffusersAdapter):
    """CogVideoX: works on 8 frames at a time, so a window has 8n + 1; one scaling factor."""

    @property
    def temporal_compression_ratio(self) -> int:
        return int(self.vae.config.temporal_compression_ratio)

    @property
    def spatial_compression_ratio(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def frame_step(self) -> int:
        """With an even number of latent frames the class would decode another number of frames."""
        return 2 * self.temporal_compression_ratio


class LTXAdapter(DiffusersAdapter):
    """LTX-Video and LTX-2: statistics lie beside the weights; some decoders know a noise level or draw noise.

    The noise level is 0, and no noise is added to the latents: the defaults of the pipelines. Noise that a
    decoder draws inside (version 0.9.1) follows from the generator's seed, for each entry of a batch alone.
    """

    def _scale(self, latent_frames: int) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        mean = rearrange(self.vae.latents_mean.float(), "c -> c 1 1 1")
        std = rearrange(self.vae.latents_std.float(), "c -> c 1 1 1")
        return mean, std / self.vae.config.scaling_factor

    def _network(
        self, raw: Float[Tensor, "b c n y x"], generator: list[Generator]
    ) -> Float[Tensor, "b 3 t h w"]:
        level = raw.new_zeros(1) if self.vae.config.timestep_conditioning else None
        devices = [raw.device] if raw.device.type == "cuda" else []
        frames = []
        with torch.random.fork_rng(devices):
            for entry, own in zip(raw.split(1), generator, strict=True):
                torch.manual_seed(own.initial_seed())
                frames.append(self.vae.decode(entry, level).sample)
        return torch.cat(frames)

    def _width(self) -> float:
        return self.vae.config.decoder_block_out_channels[0] / self.vae.config.patch_size**2


class LTX2DiffusionAdapter(LTXAdapter):
    """LTX-2.5: encoded by its autoencoder, decoded by its diffusion decoder in any number of Euler steps.

    Its attention needs a picture that is not too small, and 11 frames or more, so an image is encoded as a
    window that stands still. Tiles are those of the decoder, whose first stages see all of the picture. As
    it comes, the attention keeps a score for every pair of tokens; for large pictures compile `decoder`, or
    give it the NATTEN processor (diffusers' page on the class tells how).
    """

    def __init__(self, vae: Any, decoder: Any, window: int = DEFAULT_WINDOW) -> None:
        self.decoder = decoder.eval()
        super().__init__(vae, window)

    @property
    def name(self) -> str:
        """The class of the decoder in diffusers."""
        return type(self.decoder).__name__

    @property
    def networks(self) -> list[nn.Module]:
        """The autoencoder, then the diffusion decoder."""
        return [self.vae, self.decoder]

    def num_parameters(self) -> int:
        """Of the encoder and of the diffusion decoder; the other decoder is not used."""
        encoder = sum(parameter.numel() for parameter in self.vae.encoder.parameters())
        return encoder + self.decoder.num_parameters()

    def encode(self, video: Float[Tensor, "b 3 t h w"], *, tile: Tile | None = None) -> AutoencoderKLOutput:
        """As all do it; an image becomes a window of equal frames."""
        if video.shape[2] == 1:
            video = video.expand(-1, -1, self.chunk_frames, -1, -1)
        return super().encode(video, tile=tile)

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """About how much memory it takes, with a score in 32 bits for every pair of tokens and head."""
        config = self.decoder.config
        tokens = frames * height * width // config.patch_size**2
        scores = 4 * tokens**2 * config.decoder_stage_channels[-1] // config.decoder_head_dim
        return super().activation_bytes(frames, height, width) + scores

    def _shortest(self) -> int:
        kernel, step = self.decoder.config.decoder_stage5_kernel[0], self.frame_step
        return 1 + max(1, -(-(kernel - 1) // step)) * step

    def _check_steps(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"Decoding takes at least 1 step, not {steps}; 1 is the default.")

    def _frames(
        self, raw: Float[Tensor, "b c n y x"], steps: int, generator: list[Generator], tile: Tile | None
    ) -> Float[Tensor, "b 3 t h w"]:
        side, smallest = self.spatial_compression_ratio, self._smallest()
        if min(raw.shape[3:]) < smallest:
            raise ValueError(
                f"{self.name} decodes pictures with sides of {smallest * side} pixels or more, not "
                f"{raw.shape[3] * side} x {raw.shape[4] * side}; choose a larger --size."
            )
        if tile is None:
            self.decoder.disable_tiling()
        else:
            self.decoder.enable_tiling(
                tile_sample_min_height=tile.height,
                tile_sample_min_width=tile.width,
                tile_sample_stride_height=tile.height - tile.overlap,
                tile_sample_stride_width=tile.width - tile.overlap,
            )
        return self.decoder.decode(raw, generator=generator, num_inference_steps=steps).sample.float()

    def _smallest(self) -> int:
        """Latent places along a side: every stage's window of attention must fit into the picture."""
        config = self.decoder.config
        kernels = [*config.decoder_stage_kernels, config.decoder_stage5_kernel]
        needed, scale = 1, 1
        for kernel, stride in zip(kernels, [*config.decoder_upsample_strides, (1, 1, 1)], strict=True):
            needed = max(needed, -(-max(kernel[1:]) // scale))
            scale *= min(stride[1:])
        return needed


class MochiAdapter(DiffusersAdapter):
    """Mochi: mean and deviation of each channel where the configuration has them, and a scaling factor."""

    def _scale(self, latent_frames: int) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        config = self.vae.config
        offset, unit = super()._scale(latent_frames)
        if config.latents_mean is None or config.latents_std is None:
            return offset, unit
        return self._rows(config.latents_mean), self._rows(config.latents_std) * unit

    def _width(self) -> float:
        return float(self.vae.config.decoder_block_out_channels[0])


class CosmosAdapter(DiffusersAdapter):
    """Cosmos 1.0: mean and deviation of each channel and latent frame, where the configuration has them.

    The factor 0.5 by which the pipeline multiplies besides belongs to its scheduler and is left out.
    """

    @property
    def temporal_compression_ratio(self) -> int:
        return self.vae.config.temporal_compression_ratio

    @property
    def spatial_compression_ratio(self) -> int:
        return self.vae.config.spatial_compression_ratio

    def __init__(self, vae: Any, window: int = DEFAULT_WINDOW) -> None:
        super().__init__(vae, window)
        frames = 1 + (self.chunk_frames - 1) // self.temporal_compression_ratio
        known = self._scale(frames)[0].shape[1]
        if 1 < known < frames:
            longest = 1 + (known - 1) * self.temporal_compression_ratio
            raise ValueError(
                f"{self.name} knows the statistics of {known} latent frames; give a window of at most "
                f"{longest} frames."
            )

    def _scale(self, latent_frames: int) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        config = self.vae.config
        if config.latents_mean is None or config.latents_std is None:
            offset = torch.zeros(self._channels, 1, 1, 1, device=self.device)
            return offset, torch.ones_like(offset)
        mean, std = self._rows(config.latents_mean), self._rows(config.latents_std)
        return mean[:, :latent_frames], std[:, :latent_frames]

    def _width(self) -> float:
        return self.vae.config.decode_block_out_channels[0] / self.vae.config.patch_size**2
