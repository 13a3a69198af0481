"""Adapters for each class: ratios, frame counts, normalisation, decoding.

The normalisation of each class is that of its pipeline in diffusers 0.42.
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
    """Wan 2.1 and 2.2: mean and standard deviation per channel."""

    @property
    def temporal_compression_ratio(self) -> int:
        return self.vae.config.scale_factor_temporal

    @property
    def _channels(self) -> int:
        return self.vae.config.z_dim

    def _shift_and_scale(
        self, latent_frames: int
    ) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        return self._per_channel(self.vae.config.latents_mean), self._per_channel(self.vae.config.latents_std)

    def _widest_channels(self) -> float:
        config = self.vae.config
        return (config.decoder_base_dim or config.base_dim) / (config.patch_size or 1) ** 2


class CogVideoXAdapter(DiffusersAdapter):
    """CogVideoX: one scaling factor; windows have 8n + 1 frames, since it processes 8 at a time."""

    @property
    def temporal_compression_ratio(self) -> int:
        return int(self.vae.config.temporal_compression_ratio)

    @property
    def spatial_compression_ratio(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def frame_step(self) -> int:
        """An even number of latent frames would be decoded to a different number of frames."""
        return 2 * self.temporal_compression_ratio


class LTXAdapter(DiffusersAdapter):
    """LTX-Video and LTX-2: statistics stored with the weights; some decoders take a timestep or inject noise.

    The timestep is 0, and no noise is added to the latents, as the pipelines do by default. Noise that a
    decoder injects (version 0.9.1) follows from the generator's seed, independently for each sample.
    """

    def _shift_and_scale(
        self, latent_frames: int
    ) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        mean = rearrange(self.vae.latents_mean.float(), "c -> c 1 1 1")
        std = rearrange(self.vae.latents_std.float(), "c -> c 1 1 1")
        return mean, std / self.vae.config.scaling_factor

    def _network(
        self, raw: Float[Tensor, "b c n y x"], generator: list[Generator]
    ) -> Float[Tensor, "b 3 t h w"]:
        timestep = raw.new_zeros(1) if self.vae.config.timestep_conditioning else None
        devices = [raw.device] if raw.device.type == "cuda" else []
        frames = []
        with torch.random.fork_rng(devices):
            for sample, sample_generator in zip(raw.split(1), generator, strict=True):
                torch.manual_seed(sample_generator.initial_seed())
                frames.append(self.vae.decode(sample, timestep).sample)
        return torch.cat(frames)

    def _widest_channels(self) -> float:
        return self.vae.config.decoder_block_out_channels[0] / self.vae.config.patch_size**2


class LTX2DiffusionAdapter(LTXAdapter):
    """LTX-2.5: encoded by its autoencoder, decoded by its diffusion decoder in any number of Euler steps.

    Its attention needs a minimum size and 11 frames, so an image is encoded as a window of equal frames.
    Tiles are those of the decoder, whose first stages see the whole picture. Its attention stores a score for
    every pair of tokens; for large pictures compile `decoder`, or use the NATTEN processor (see diffusers).
    """

    denoises = True

    def __init__(self, vae: Any, decoder: Any, window: int = DEFAULT_WINDOW) -> None:
        self.decoder = decoder.eval()
        super().__init__(vae, window)

    @property
    def name(self) -> str:
        """Name of the decoder's class in diffusers."""
        return type(self.decoder).__name__

    @property
    def networks(self) -> list[nn.Module]:
        """The autoencoder, then the diffusion decoder."""
        return [self.vae, self.decoder]

    def num_parameters(self) -> int:
        """Weights of the encoder and the diffusion decoder; the other decoder is not used."""
        encoder = sum(parameter.numel() for parameter in self.vae.encoder.parameters())
        return encoder + self.decoder.num_parameters()

    def encode(self, video: Float[Tensor, "b 3 t h w"], *, tile: Tile | None = None) -> AutoencoderKLOutput:
        """As the base class, with an image as a window of equal frames."""
        if video.shape[2] == 1:
            video = video.expand(-1, -1, self.chunk_frames, -1, -1)
        return super().encode(video, tile=tile)

    def activation_bytes(self, frames: int, height: int, width: int) -> int:
        """Estimated memory, with a 32-bit score for every pair of tokens and head."""
        config = self.decoder.config
        tokens = frames * height * width // config.patch_size**2
        scores = 4 * tokens**2 * config.decoder_stage_channels[-1] // config.decoder_head_dim
        return super().activation_bytes(frames, height, width) + scores

    def _shortest(self) -> int:
        kernel, step = self.decoder.config.decoder_stage5_kernel[0], self.frame_step
        return 1 + max(1, -(-(kernel - 1) // step)) * step

    def _check_steps(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")

    def _frames(
        self, raw: Float[Tensor, "b c n y x"], steps: int, generator: list[Generator], tile: Tile | None
    ) -> Float[Tensor, "b 3 t h w"]:
        side, min_side = self.spatial_compression_ratio, self._min_side()
        if min(raw.shape[3:]) < min_side:
            raise ValueError(
                f"{self.name} needs sides of at least {min_side * side} pixels, got "
                f"{raw.shape[3] * side} x {raw.shape[4] * side}; use a larger --size."
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

    def _min_side(self) -> int:
        """Latent positions along a side: the attention window of every stage must fit into the picture."""
        config = self.decoder.config
        kernels = [*config.decoder_stage_kernels, config.decoder_stage5_kernel]
        needed, scale = 1, 1
        for kernel, stride in zip(kernels, [*config.decoder_upsample_strides, (1, 1, 1)], strict=True):
            needed = max(needed, -(-max(kernel[1:]) // scale))
            scale *= min(stride[1:])
        return needed


class MochiAdapter(DiffusersAdapter):
    """Mochi: a scaling factor, and mean and standard deviation per channel if configured."""

    def _shift_and_scale(
        self, latent_frames: int
    ) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        config = self.vae.config
        shift, scale = super()._shift_and_scale(latent_frames)
        if config.latents_mean is None or config.latents_std is None:
            return shift, scale
        return self._per_channel(config.latents_mean), self._per_channel(config.latents_std) * scale

    def _widest_channels(self) -> float:
        return float(self.vae.config.decoder_block_out_channels[0])


class CosmosAdapter(DiffusersAdapter):
    """Cosmos 1.0: mean and standard deviation per channel and latent frame if configured.

    The pipeline's additional factor 0.5 belongs to its scheduler and is left out.
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
        known = self._shift_and_scale(frames)[0].shape[1]
        if 1 < known < frames:
            longest = 1 + (known - 1) * self.temporal_compression_ratio
            raise ValueError(
                f"{self.name} has statistics for windows of at most {longest} frames, got {window}."
            )

    def _shift_and_scale(
        self, latent_frames: int
    ) -> tuple[Float[Tensor, "c #n 1 1"], Float[Tensor, "c #n 1 1"]]:
        config = self.vae.config
        if config.latents_mean is None or config.latents_std is None:
            shift = torch.zeros(self._channels, 1, 1, 1, device=self.device)
            return shift, torch.ones_like(shift)
        mean, std = self._per_channel(config.latents_mean), self._per_channel(config.latents_std)
        return mean[:, :latent_frames], std[:, :latent_frames]

    def _widest_channels(self) -> float:
        return self.vae.config.decode_block_out_channels[0] / self.vae.config.patch_size**2


ADAPTERS: dict[str, type[DiffusersAdapter]] = {
    "AutoencoderKLWan": WanAdapter,
    "AutoencoderKLHunyuanVideo": DiffusersAdapter,
    "AutoencoderKLHunyuanVideo15": DiffusersAdapter,
    "AutoencoderKLCogVideoX": CogVideoXAdapter,
    "AutoencoderKLLTXVideo": LTXAdapter,
    "AutoencoderKLLTX2Video": LTXAdapter,
    "AutoencoderKLMochi": MochiAdapter,
    "AutoencoderKLCosmos": CosmosAdapter,
}
