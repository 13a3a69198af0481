"""Pipelines of diffusers, tiny and with random weights, for the autoencoders of `tiny_diffusers_models`.

Texts are given as embeddings, so that nothing is loaded.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from tiny_diffusers_models import (
    cogvideox,
    cosmos,
    hunyuan,
    hunyuan_15,
    ltx,
    ltx_2,
    ltx_with_noise,
    mochi,
    wan,
    wan_22,
)  # fmt: skip
from torch import Tensor

Made = tuple[Any, dict[str, Any]]  # a pipeline, and the arguments of its call
TEXT = 8  # channels of text embeddings
NO_TEXT = {"text_encoder": None, "tokenizer": None}


def embeddings(*, has_mask: bool = False, is_guided: bool = True) -> dict[str, Tensor]:
    """The embeddings of a prompt of 3 tokens, and of a negative one."""
    result = {}
    for prefix in ("", "negative_") if is_guided else ("",):
        result[f"{prefix}prompt_embeds"] = torch.randn(1, 3, TEXT)
        if has_mask:
            result[f"{prefix}prompt_attention_mask"] = torch.ones(1, 3, dtype=torch.bool)
    return result


def wan_transformer(vae: Any, in_channels: int | None = None) -> Any:
    channels = vae.config.z_dim
    return diffusers.WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, in_channels=in_channels or channels,
        out_channels=channels, text_dim=TEXT, freq_dim=8, ffn_dim=8, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip


def wan_pipeline(vae: Any) -> Made:
    pipe = diffusers.WanPipeline(
        **NO_TEXT, vae=vae, transformer=wan_transformer(vae),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    return pipe, embeddings()


def wan_image_pipeline(vae: Any) -> Made:
    """It encodes the image by the autoencoder, and gives its latents to the transformer."""
    pipe = diffusers.WanImageToVideoPipeline(
        **NO_TEXT, vae=vae, transformer=wan_transformer(vae, 2 * vae.config.z_dim + 4),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    return pipe, {**embeddings(), "image": torch.rand(1, 3, 32, 48)}


def hunyuan_pipeline(vae: Any) -> Made:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=2, out_channels=2, num_attention_heads=1, attention_head_dim=12, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, text_embed_dim=TEXT,
        pooled_projection_dim=TEXT, rope_axes_dim=(4, 4, 4),
    )  # fmt: skip
    pipe = diffusers.HunyuanVideoPipeline(
        **NO_TEXT, text_encoder_2=None, tokenizer_2=None, vae=vae, transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    texts = embeddings(has_mask=True, is_guided=False)
    return pipe, {**texts, "pooled_prompt_embeds": torch.randn(1, TEXT)}


def hunyuan_15_pipeline(vae: Any) -> Made:
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=2 * vae.config.latent_channels + 1, out_channels=vae.config.latent_channels,
        num_attention_heads=1, attention_head_dim=12, num_layers=1, num_refiner_layers=1, patch_size=1,
        text_embed_dim=TEXT, text_embed_2_dim=TEXT, image_embed_dim=4, rope_axes_dim=(4, 4, 4),
        target_size=64,
    )  # fmt: skip
    pipe = diffusers.HunyuanVideo15Pipeline(
        **NO_TEXT, text_encoder_2=None, tokenizer_2=None, vae=vae, transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=1.0),
    )  # fmt: skip
    mask = torch.ones(1, 3)
    return pipe, {
        "prompt_embeds": torch.randn(1, 3, TEXT), "prompt_embeds_mask": mask,
        "prompt_embeds_2": torch.randn(1, 3, TEXT), "prompt_embeds_mask_2": mask,
    }  # fmt: skip


def cogvideox_pipeline(vae: Any) -> Made:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=1, attention_head_dim=16, in_channels=2, out_channels=2, time_embed_dim=2,
        text_embed_dim=TEXT, num_layers=1, sample_width=6, sample_height=4, sample_frames=9,
        max_text_seq_length=3,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler()
    pipe = diffusers.CogVideoXPipeline(**NO_TEXT, vae=vae, transformer=transformer, scheduler=scheduler)
    return pipe, embeddings()


def ltx_pipeline(vae: Any) -> Made:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=1, attention_head_dim=8, cross_attention_dim=8,
        num_layers=1, caption_channels=TEXT,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.LTXPipeline(**NO_TEXT, vae=vae, transformer=transformer, scheduler=scheduler)
    return pipe, embeddings(has_mask=True)


def ltx_2_pipeline(vae: Any) -> Made:
    """It makes sound as well."""
    heads = {
        f"{kind}_connector_{name}": value
        for kind in ("video", "audio")
        for name, value in (
            ("num_attention_heads", 1), ("attention_head_dim", TEXT), ("num_layers", 1),
            ("num_learnable_registers", None),
        )
    }  # fmt: skip
    rope = {"rope_double_precision": False, "rope_type": "split"}
    pipe = diffusers.LTX2Pipeline(
        **NO_TEXT,
        vae=vae,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        connectors=LTX2TextConnectors(
            caption_channels=TEXT, text_proj_in_factor=1, connector_rope_base_seq_len=32, rope_theta=10000.0,
            causal_temporal_positioning=False, **heads, **rope,
        ),
        transformer=diffusers.LTX2VideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=1, attention_head_dim=16,
            cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=1,
            audio_attention_head_dim=8, audio_cross_attention_dim=8, num_layers=1, caption_channels=TEXT,
            **rope,
        ),
        audio_vae=diffusers.AutoencoderKLLTX2Audio(
            base_channels=4, ch_mult=(1,), num_res_blocks=1, latent_channels=2, norm_type="pixel",
            causality_axis="height", mid_block_add_attention=False, mel_bins=8,
        ),
        vocoder=LTX2Vocoder(
            in_channels=16, hidden_channels=4, upsample_kernel_sizes=[4], upsample_factors=[2],
            resnet_kernel_sizes=[3], resnet_dilations=[[1]],
        ),
    )  # fmt: skip
    return pipe, embeddings(has_mask=True)


def mochi_pipeline(vae: Any) -> Made:
    transformer = diffusers.MochiTransformer3DModel(
        num_attention_heads=1, attention_head_dim=8, num_layers=2, pooled_projection_dim=TEXT,
        in_channels=12, text_embed_dim=TEXT, time_embed_dim=4, max_sequence_length=3,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.MochiPipeline(**NO_TEXT, vae=vae, transformer=transformer, scheduler=scheduler)
    return pipe, embeddings(has_mask=True)


class NoChecks(torch.nn.Module):
    """In place of Cosmos' checks of prompts and videos, which need a package of their own."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def cosmos_pipeline(vae: Any) -> Made:
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=2, out_channels=2, num_attention_heads=1, attention_head_dim=12, num_layers=1,
        text_embed_dim=TEXT, adaln_lora_dim=4, max_size=(4, 16, 16), concat_padding_mask=False,
        extra_pos_embed_type=None,
    )  # fmt: skip
    pipe = diffusers.CosmosTextToWorldPipeline(
        **NO_TEXT, vae=vae, transformer=transformer, scheduler=diffusers.EDMEulerScheduler(),
        safety_checker=NoChecks(),
    )  # fmt: skip
    return pipe, embeddings()


# Of each: its autoencoder, and how the pipeline around it is made.
PIPELINES: dict[str, tuple[Callable[[], Any], Callable[[Any], Made]]] = {
    "wan": (wan, wan_pipeline),
    "wan-2.2": (wan_22, wan_pipeline),
    "wan-image": (wan, wan_image_pipeline),
    "hunyuan": (hunyuan, hunyuan_pipeline),
    "hunyuan-1.5": (hunyuan_15, hunyuan_15_pipeline),
    "cogvideox": (cogvideox, cogvideox_pipeline),
    "ltx": (ltx, ltx_pipeline),
    "ltx-with-noise": (ltx_with_noise, ltx_pipeline),
    "ltx-2": (ltx_2, ltx_2_pipeline),
    "mochi": (lambda: mochi(12), mochi_pipeline),
    "cosmos": (cosmos, cosmos_pipeline),
}
