"""Each class of diffusers' video autoencoders, tiny and with random weights, for tests."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLCosmos,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Video,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    LTX2VideoDiffusionDecoderModel,
)


def wan() -> Any:
    return AutoencoderKLWan(
        base_dim=4, z_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.25, -0.5], latents_std=[2.0, 0.5],
    )  # fmt: skip


def wan_22() -> Any:
    return AutoencoderKLWan(
        base_dim=4, z_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True, in_channels=12,
        out_channels=12, patch_size=2, scale_factor_spatial=16, latents_mean=[0.1, 0.2],
        latents_std=[3.0, 4.0],
    )  # fmt: skip


def hunyuan() -> Any:
    return AutoencoderKLHunyuanVideo(
        latent_channels=2, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2
    )


def hunyuan_15() -> Any:
    return AutoencoderKLHunyuanVideo15(
        latent_channels=2, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
    )


def cogvideox() -> Any:
    return AutoencoderKLCogVideoX(
        latent_channels=2, block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2,
        scaling_factor=0.7,
    )  # fmt: skip


def ltx(**more: Any) -> Any:
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(4, 4, 4, 4), decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), patch_size=2,
        scaling_factor=1.5, **more,
    )  # fmt: skip
    return _with_statistics(vae)


def ltx_with_noise() -> Any:
    """As version 0.9.1: it knows the noise level, and draws noise."""
    return ltx(timestep_conditioning=True, decoder_inject_noise=(True, True, False, False, False))


def ltx_2() -> Any:
    vae = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1), patch_size=1,
        decoder_causal=False, decoder_spatial_padding_mode="zeros", spatial_compression_ratio=8,
        temporal_compression_ratio=8,
    )  # fmt: skip
    return _with_statistics(vae)


def ltx_2_diffusion_decoder() -> Any:
    return LTX2VideoDiffusionDecoderModel(
        latent_channels=4, patch_size=4, decoder_head_dim=8, decoder_stage_channels=(8, 8, 8, 8, 8),
        decoder_stage_depths=(1, 1, 1, 1, 1), decoder_stage_kernels=((3, 3, 3),) * 4,
        decoder_upsample_strides=((1, 2, 2), (2, 1, 1), (2, 1, 1), (2, 1, 1)),
        decoder_upsample_channel_reductions=(1, 1, 1, 1), decoder_stage5_kernel=(3, 3, 3),
        decoder_t_emb_dim=8, spatial_compression_ratio=8,
    )  # fmt: skip


def mochi(channels: int = 2) -> Any:
    """The pipeline takes 12 channels alone."""
    return AutoencoderKLMochi(
        latent_channels=channels, encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32), layers_per_block=(1, 1, 1, 1, 1), scaling_factor=0.5,
        latents_mean=(0.25, -0.5) * (channels // 2), latents_std=(2.0, 0.5) * (channels // 2),
    )  # fmt: skip


def cosmos() -> Any:
    return AutoencoderKLCosmos(
        latent_channels=2, encoder_block_out_channels=(4, 4, 4, 4), decode_block_out_channels=(4, 4, 4, 4),
        attention_resolutions=(8,), resolution=64, num_layers=1, latents_mean=[0.1 * i for i in range(6)],
        latents_std=[1.0 + i for i in range(6)],
    )  # fmt: skip


def _with_statistics(vae: Any) -> Any:
    vae.latents_mean.copy_(torch.linspace(-1, 1, 4))
    vae.latents_std.copy_(torch.linspace(0.5, 2, 4))
    return vae


TINY: dict[str, Callable[[], Any]] = {
    "wan": wan,
    "wan-2.2": wan_22,
    "hunyuan": hunyuan,
    "hunyuan-1.5": hunyuan_15,
    "cogvideox": cogvideox,
    "ltx": ltx,
    "ltx-with-noise": ltx_with_noise,
    "ltx-2": ltx_2,
    "mochi": mochi,
    "cosmos": cosmos,
}
