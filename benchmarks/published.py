"""The published configurations of other video autoencoders, built with random weights.

They are the defaults of diffusers' classes unless something stands here; what stands here is from diffusers'
conversion scripts (scripts/convert_{wan,cogvideox,ltx,ltx2,cosmos}_to_diffusers.py, August 2026), which
write the config.json of the published models.
"""

from collections.abc import Callable

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

from regen.embedders.diffusers_adapter import DiffusersAdapter
from regen.embedders.diffusers_models import (
    CogVideoXAdapter,
    CosmosAdapter,
    LTX2DiffusionAdapter,
    LTXAdapter,
    WanAdapter,
)


def wan_22(window: int) -> DiffusersAdapter:
    """Its 48 means and deviations are left at 0 and 1, which takes no other time."""
    vae = AutoencoderKLWan(
        base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12,
        patch_size=2, scale_factor_spatial=16, latents_mean=[0.0] * 48, latents_std=[1.0] * 48,
    )  # fmt: skip
    return WanAdapter(vae, window)


def ltx_097(window: int) -> DiffusersAdapter:
    """The same since 0.9.5."""
    vae = AutoencoderKLLTXVideo(
        block_out_channels=(128, 256, 512, 1024, 2048),
        down_block_types=("LTXVideo095DownBlock3D",) * 4,
        decoder_block_out_channels=(256, 512, 1024),
        layers_per_block=(4, 6, 6, 2, 2),
        decoder_layers_per_block=(5, 5, 5, 5),
        spatio_temporal_scaling=(True,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4,
        downsample_type=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        upsample_residual=(True,) * 3,
        upsample_factor=(2, 2, 2),
        timestep_conditioning=True,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )
    return LTXAdapter(vae, window)


def ltx_2(window: int) -> DiffusersAdapter:
    """LTX-2.0."""
    vae = AutoencoderKLLTX2Video(
        decoder_causal=False, spatial_compression_ratio=32, temporal_compression_ratio=8
    )
    return LTXAdapter(vae, window)


def _ltx_25() -> AutoencoderKLLTX2Video:
    return AutoencoderKLLTX2Video(
        block_out_channels=(256, 512, 1024, 1024),
        decoder_block_out_channels=(256, 512, 512, 1024),
        layers_per_block=(4, 6, 4, 2, 2),
        decoder_layers_per_block=(4, 6, 4, 2, 2),
        decoder_spatio_temporal_scaling=(True,) * 4,
        decoder_inject_noise=(False,) * 5,
        upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        upsample_residual=(False,) * 4,
        upsample_factor=(2, 2, 1, 2),
        decoder_causal=False,
        decoder_spatial_padding_mode="zeros",
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )


def cosmos(window: int) -> DiffusersAdapter:
    """Cosmos-1.0-Tokenizer-CV8x8x8."""
    return CosmosAdapter(AutoencoderKLCosmos(latents_mean=None, latents_std=None), window)


PUBLISHED: dict[str, Callable[[int], DiffusersAdapter]] = {
    "wan-2.1": lambda window: WanAdapter(AutoencoderKLWan(), window),
    "wan-2.2": wan_22,
    "hunyuan-video": lambda window: DiffusersAdapter(AutoencoderKLHunyuanVideo(), window),
    "hunyuan-video-1.5": lambda window: DiffusersAdapter(AutoencoderKLHunyuanVideo15(), window),
    "cogvideox-5b": lambda window: CogVideoXAdapter(AutoencoderKLCogVideoX(scaling_factor=0.7), window),
    "ltx-0.9": lambda window: LTXAdapter(AutoencoderKLLTXVideo(), window),
    "ltx-0.9.7": ltx_097,
    "ltx-2": ltx_2,
    "ltx-2.5": lambda window: LTXAdapter(_ltx_25(), window),
    "ltx-2.5-diffusion": lambda window: LTX2DiffusionAdapter(
        _ltx_25(), LTX2VideoDiffusionDecoderModel(), window
    ),
    "mochi": lambda window: DiffusersAdapter(AutoencoderKLMochi(), window),
    "cosmos-1.0-cv8x8x8": cosmos,
}
