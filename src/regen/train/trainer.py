"""Training of a recipe: data, model, loop, latent statistics, saved model."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from regen.console import warn
from regen.corpus.dataset import LatentDataset
from regen.corpus.pairs import PairedClips
from regen.data.batches import Clips, MediaConditions, TrainingBatches, hold_out
from regen.data.clips import ClipDataset
from regen.data.tasks import Stage, TaskConfig
from regen.embedders.base import VideoAutoencoder
from regen.embedders.diffusion_decoder import DiffusionDecoder
from regen.embedders.model import MEASURED
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.preview import fit_rgb_factors, fit_rgb_pairs
from regen.embedders.regen_decoder import RegenDecoder, RegenDecoderConfig
from regen.io import write_text
from regen.losses.auxiliary import AuxiliaryLosses
from regen.losses.one_dva import Predictor, denoised, unit_gaussian_velocity
from regen.pretrained.listing import find_model
from regen.runtime import dtype_name, pick_dtype, tune_malloc
from regen.train.card import CardOptions, model_card
from regen.train.checkpoint import list_checkpoints
from regen.train.dataloader import BatchLoader
from regen.train.distributed import DistributedContext, full_state_dict
from regen.train.finetune import InitReport, init_weights
from regen.train.latent_source import load_encoder, spans
from regen.train.latent_statistics import measure_latent_statistics, small_batches, small_pairs
from regen.train.lifecycle import run_identity
from regen.train.linear_start import fit_linear_path, init_from_pca
from regen.train.loop import train
from regen.train.preview import Preview
from regen.train.recipe import MODEL_CLASSES, Autoencoder, ModelConfig, Recipe, build_model, group_of

FITTED_CLIPS = 64  # to which the linear preview is fitted, at most


def open_data(
    recipe: Recipe, data: Sequence[str | Path], cache: Path | None, exported: LatentDataset | None
) -> ClipDataset | PairedClips:
    """The data of a training, with their latents where these were exported.

    Raises ValueError when data or a model to start from is missing.
    """
    for name in filter(None, (recipe.init.model, recipe.init.linear)):
        find_model(name)
    if exported is not None:
        return PairedClips(exported, data, cache, recipe.data.decode_timeout)
    return ClipDataset(data, cache, recipe.data.short_side, recipe.data.decode_timeout)


def run_recipe(
    recipe: Recipe,
    data: Sequence[str | Path],
    out: Path,
    context: DistributedContext,
    resume: bool = True,
    cache: Path | None = None,
    predictor: Predictor | None = None,
    media_conditions: MediaConditions | None = None,
    card: CardOptions = CardOptions(),
    strict: bool = False,
    name: str | None = None,
    latents: Path | None = None,
) -> Path:
    """Train `recipe` on the videos and images of the folders and shards `data`; return the model's folder.

    `out` receives the run (see `regen.train.loop.train`), previews/ with a picture for each evaluation, and
    model/ for `from_pretrained` with its card (licence and command by `card`). The same call resumes a run,
    which stores the `name` of its recipe. `cache`: folder of decoded frames. `predictor` predicts the latents
    of post-training, by default from the prior, and takes `media_conditions`. `strict` allows no bad files.
    A decoder of foreign latents takes those in the folder `latents`, exported of `data`, and no encoder.

    Raises ValueError when there is no data or no model to start from, and whatever `train` raises.
    """
    tune_malloc()
    exported = None if latents is None else LatentDataset(latents)
    clips = open_data(recipe, data, cache, exported)
    torch.manual_seed(recipe.loop.seed)
    recipe, encoder = load_encoder(recipe, context, exported)
    model = build_model(recipe.model, encoder)
    auxiliary = build_auxiliary_losses(recipe, model, context.device, predictor)
    init = init_weights(model, recipe.init)
    if recipe.losses.prediction.share > 0 and not init.keeps_latents:
        raise ValueError("Post-training needs a finished model: give --init.model and --init.freeze encoder.")
    if context.is_main:
        report(init, clips, strict)
        if cache is not None:
            clips.fill_cache()
    context.barrier()
    window, span = spans(recipe, model.chunk_frames, exported)
    training, validation = hold_out(clips, recipe.data.num_val_videos, span + 1, context.is_main)
    batches = make_batches(training, recipe, window, recipe.tasks, recipe.data.stages, recipe.loop.steps)
    if media_conditions is not None and isinstance(clips, ClipDataset):
        batches.conditions = media_conditions(clips.collection, out / "captions")
    if not list_checkpoints(out / "checkpoints"):
        fit_linear_maps(model, training, recipe, span)
    evaluate = Preview(validation, recipe, span + 1, out / "previews", context)
    config = resolve_config(recipe, clips, context.device) | run_identity(name)
    options = (recipe.loop, recipe.optimizer, out, context, evaluate, config, resume, auxiliary)
    average = train(model, batches, *options).ema.model
    del model, auxiliary  # of the state only the average stays in memory
    if not (out / "model").exists():
        keeps_latents = init.keeps_latents or isinstance(recipe.model, RegenDecoderConfig)
        measured = measure_latents(average, training, recipe, span, context, keeps_latents)
        weights = full_state_dict(average, context)
        if context.is_main:
            finished = finish_model(recipe.model, weights, measured)
            text = model_card(finished, out, data, context, card, recipe.init.model)
            save_model(finished, out / "model", text)
    return out / "model"


def fit_linear_maps(model: nn.Module, clips: Clips, recipe: Recipe, span: int) -> None:
    """Fit the linear maps that a model starts from, if any, to clips of 1 + `span` frames."""
    count = recipe.init.pca_clips or recipe.init.linear_clips
    if not count:
        return
    alone = DistributedContext(torch.device("cpu"))  # every process computes the same
    with load_chunks(clips, recipe, span, count, alone) as loader:
        if isinstance(model, AutoencoderOneDVA):
            init_from_pca(model, loader, count)
        else:
            assert isinstance(model, RegenDecoder)
            fit_linear_path(model, loader, count)


def measure_latents(
    model: nn.Module, clips: Clips, recipe: Recipe, span: int, context: DistributedContext, keep: bool
) -> dict[str, Any]:
    """Statistics of the latents, unless they are to `keep`, and factors of the preview, as in the config.

    Collective.
    """
    assert isinstance(model, VideoAutoencoder)
    dtype = pick_dtype(recipe.loop.mixed_precision, context.device)
    count, average = recipe.data.statistics_clips, context.average_tensors
    if not keep:
        with load_chunks(clips, recipe, span, count, context) as loader:
            model.set_latent_statistics(*measure_latent_statistics(model, loader, count, context, dtype))
    autocast = torch.autocast(context.device.type, dtype, enabled=dtype != torch.float32)
    with load_chunks(clips, recipe, span, min(count, FITTED_CLIPS), context) as loader, autocast:
        if isinstance(clips, PairedClips):
            pairs = small_pairs(loader, FITTED_CLIPS, context)
            factors = fit_rgb_pairs(pairs, model.spatial_compression_ratio, average)
        else:
            factors = fit_rgb_factors(model, small_batches(loader, FITTED_CLIPS, context), average)
    return {name: model.config[name] for name in MEASURED} | {"latent_rgb_factors": factors}


def finish_model(config: ModelConfig, weights: dict[str, Tensor], measured: dict[str, Any]) -> Autoencoder:
    """A model with trained weights and the measured entries of its config, in evaluation mode."""
    model = build_model(config)
    model.load_state_dict(weights)
    model.register_to_config(**measured)
    return model.eval()


def build_auxiliary_losses(
    recipe: Recipe, model: Autoencoder, device: torch.device, predictor: Predictor | None
) -> AuxiliaryLosses | None:
    """Losses besides the model's own; None for REGEN without a perceptual loss."""
    if isinstance(model, DiffusionDecoder) and recipe.losses.perceptual_weight == 0:
        return None
    features = (model.config.width, model.patches) if isinstance(model, AutoencoderOneDVA) else None
    predictor = predictor or denoised(unit_gaussian_velocity)
    return AuxiliaryLosses(recipe.losses, device, features, predictor, model.latent_channels)


def resolve_config(recipe: Recipe, clips: Clips, device: torch.device) -> dict[str, Any]:
    """The recipe with its resolved precision and a fingerprint of the data, wherever those are."""
    precision = dtype_name(pick_dtype(recipe.loop.mixed_precision, device))
    return asdict(replace(recipe, loop=replace(recipe.loop, mixed_precision=precision))) | {
        "class": MODEL_CLASSES[type(recipe.model)].__name__,
        "files": len(clips),
        "files_fingerprint": clips.fingerprint(),
    }


def report(init: InitReport, clips: Clips, strict: bool) -> None:
    """Print what was loaded and frozen, and the first unusable files; with `strict` these are an error."""
    if text := str(init):
        print(text, file=sys.stderr)
    if init.warning:
        warn(init.warning)
    if reasons := list(clips.skipped.values()):
        count = f"{len(reasons)} file{'s' if len(reasons) > 1 else ''} skipped"
        warn(f"{count}, {len(clips)} remain:" + "".join(f"\n  {reason}" for reason in reasons[:5]))
        if strict:
            raise ValueError(f"{count}, and --strict allows none; they are named above.")


def make_batches(
    clips: Clips, recipe: Recipe, span: int, tasks: TaskConfig, stages: tuple[Stage, ...], steps: int
) -> TrainingBatches:
    """`steps` batches of a recipe's data, for chunks of 1 + `span` frames."""
    data, seed = recipe.data, recipe.loop.seed
    rate, group = data.frame_rate, group_of(recipe)
    return TrainingBatches(clips, span, tasks, stages, data.scale, steps, seed, rate, group)


def load_chunks(
    clips: Clips, recipe: Recipe, span: int, count: int, context: DistributedContext
) -> BatchLoader:
    """This process's parts of batches of at least `count` whole chunks, at the size of the last stage."""
    stage = replace(recipe.data.stages[-1], until=1.0)
    tasks = TaskConfig(image_share=0.0, warmup_fraction=1.0)
    batches = make_batches(clips, recipe, span, tasks, (stage,), -(-count // stage.video_batch_size))
    keys = [(step, context.rank, context.size) for step in range(len(batches))]
    return BatchLoader(batches, keys, recipe.loop.num_workers, context.device)


def save_model(model: ModelMixin, folder: Path, card: str) -> None:
    """Save a model with its card atomically."""
    temporary = folder.with_name(".model-incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    write_text(temporary / "README.md", card)
    temporary.replace(folder)
