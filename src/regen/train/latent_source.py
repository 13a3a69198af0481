"""Where a decoder's training has its latents from: a frozen encoder that runs in it, or an export."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from regen.console import warn
from regen.corpus.dataset import LatentDataset
from regen.corpus.pairs import longest_clip
from regen.embedders.frozen_encoder import (
    FrozenEncoder,
    LatentSpace,
    describe,
    load_frozen_encoder,
    read_encoder,
)
from regen.embedders.regen_decoder import RegenDecoderConfig
from regen.runtime import pick_dtype
from regen.train.distributed import DistributedContext
from regen.train.recipe import Recipe

BETWEEN = (
    "exported latents have no frames between theirs, so that the decoder learns none; for --interpolate, "
    "train some updates more without --latents (--init.model RUN)."
)
SHARED = "latent_channels", "temporal_compression_ratio", "spatial_compression_ratio", "chunk_frames"


def load_encoder(
    recipe: Recipe, context: DistributedContext, exported: LatentDataset | None = None
) -> tuple[Recipe, FrozenEncoder | None]:
    """The recipe with the latent space of its frozen encoder, if it has one, and that encoder.

    None where its latents were `exported`. Raises ValueError when there is no encoder of that name, or the
    latents are not its own.
    """
    if exported is not None:
        if context.is_main and max(recipe.tasks.share_start, recipe.tasks.share_end) > 0:
            warn(BETWEEN)
        return use_exported(recipe, exported), None
    if not isinstance(recipe.model, RegenDecoderConfig):
        return recipe, None
    if not recipe.model.encoder:
        raise ValueError(
            "Say for whose latents: --encoder FOLDER or owner/name, such as a model of diffusers."
        )
    dtype = pick_dtype(recipe.loop.mixed_precision, context.device)
    encoder = load_frozen_encoder(recipe.model.encoder, context.device, dtype, recipe.model.chunk_frames)
    return in_space(recipe, encoder.space, encoder.space.chunk_frames), encoder


def plan_source(recipe: Any, name: str | None, exported: LatentDataset | None) -> tuple[Any, Any]:
    """The recipe as its training changes it, and the encoder `name` that would run in it, if any."""
    if name is not None:
        recipe = replace(recipe, model=replace(recipe.model, encoder=name))
    if exported is not None:
        return use_exported(recipe, exported), None
    if name is None:
        return recipe, None
    encoder = read_encoder(name, torch.device("cpu"), torch.bfloat16, recipe.model.chunk_frames)
    return in_space(recipe, describe(encoder, name), encoder.chunk_frames), encoder


def use_exported(recipe: Recipe, exported: LatentDataset) -> Recipe:
    """The recipe of a decoder for exported latents, whose encoder is not needed any more.

    If the recipe names one, its weights are read, on the CPU, and compared. Raises ValueError when the
    latents are those of another, have not even a group, or the recipe needs the encoder's own decoder.
    """
    folder, manifest = exported.folder, exported.manifest
    if not isinstance(recipe.model, RegenDecoderConfig):
        raise ValueError("Only decoders of the latents of others are trained on exported latents.")
    if recipe.model.distillation_weight > 0:
        raise ValueError(
            "model.distillation_weight needs the encoder's own decoder: drop it, or train without --latents."
        )
    if not manifest.latent_space:
        raise ValueError(f"The latents in {folder} do not say of which encoder they are; export them again.")
    try:
        space = LatentSpace.parse(manifest.latent_space)
        if any(getattr(space, name) != getattr(manifest, name) for name in SHARED):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{folder}/manifest.json is damaged; export the latents to another folder."
        ) from None
    if recipe.model.encoder:
        check_encoder(recipe.model.encoder, exported, space)
        space = replace(space, encoder=recipe.model.encoder)
    is_video = exported.column("frames") > 1
    r, frames = space.temporal_compression_ratio, longest_clip(exported)
    wanted = np.where(is_video, 1 + (space.chunk_frames - 1) // r, 1)
    if (exported.column("sequence_length") >= 0).any() or (exported.column("latent_frames") != wanted).any():
        raise ValueError(
            f"The latents in {folder} must be grids of 1 latent frame for 1 frame and 1 + n for 1 + {r} n; "
            f"those of {space.encoder_class} are not; choose another autoencoder."
        )
    if frames == 1:
        raise ValueError(
            f"The latents in {folder} have no video of {1 + r} frames or more; export longer ones."
        )
    tasks = replace(recipe.tasks, share_start=0.0, share_end=0.0)
    return in_space(replace(recipe, tasks=tasks), space, frames)


def check_encoder(name: str, exported: LatentDataset, space: LatentSpace) -> None:
    """Raise ValueError unless the latents are those of the encoder `name`, scaled as it scales them."""
    embedder = read_encoder(name, torch.device("cpu"), torch.float32, space.chunk_frames)
    found, manifest = describe(embedder, name), exported.manifest
    if (found.encoder_class, found.encoder_hash) != (space.encoder_class, space.encoder_hash):
        raise ValueError(
            f"The latents in {exported.folder} are of {space.encoder} ({space.encoder_class}, hash "
            f"{space.encoder_hash}), got {name} ({found.encoder_class}, hash {found.encoder_hash}); drop "
            "--encoder, or export the latents again."
        )
    pairs: list[tuple[Any, Any]] = [
        (found.encoder_mean, space.encoder_mean),
        (found.encoder_std, space.encoder_std),
    ]
    if manifest.model_class == found.encoder_class:
        pairs += [(embedder.latents_mean.tolist(), manifest.latents_mean)]
        pairs += [(embedder.latents_std.tolist(), manifest.latents_std)]
    if not all(np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-5) for a, b in pairs):
        raise ValueError(
            f"The latents in {exported.folder} are scaled by other means and deviations than those in the "
            f"config.json of {name}; export the latents again."
        )


def spans(recipe: Recipe, chunk_frames: int, exported: LatentDataset | None) -> tuple[int, int]:
    """Frames after the first one of the clips of updates, and of evaluations and fits."""
    if exported is None or not isinstance(recipe.model, RegenDecoderConfig):
        return chunk_frames - 1, chunk_frames - 1
    return recipe.model.groups_per_clip * recipe.model.temporal_compression_ratio, longest_clip(exported) - 1


def in_space(recipe: Recipe, space: LatentSpace, frames: int) -> Recipe:
    """The recipe for these latents, with as many groups of clips of `frames` frames as there are at most."""
    groups = min(recipe.model.groups_per_clip, (frames - 1) // space.temporal_compression_ratio)
    return replace(recipe, model=replace(recipe.model, **vars(space), groups_per_clip=groups))
