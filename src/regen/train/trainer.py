"""Training of a recipe: data, model, loop, latent statistics, saved model."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from diffusers import ModelMixin
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from regen.console import warn
from regen.data.clips import ClipDataset
from regen.data.tasks import MediaConditions, Stage, TaskConfig, TrainingBatches, hold_out
from regen.embedders.base import VideoAutoencoder, without_margin
from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.embedders.model import MEASURED
from regen.embedders.one_dva import AutoencoderOneDVA, OneDVAConfig
from regen.embedders.preview import fit_rgb_factors
from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.io import write_text
from regen.losses.auxiliary import AuxiliaryLosses, LossConfig
from regen.losses.one_dva import Predictor, denoised, unit_gaussian_velocity
from regen.runtime import dtype_name, generator_for, pick_dtype, tune_malloc
from regen.train.card import CardOptions, model_card
from regen.train.checkpoint import list_checkpoints
from regen.train.dataloader import BatchLoader
from regen.train.distributed import DistributedContext, full_state_dict
from regen.train.finetune import InitConfig, InitReport, init_from_pca, init_weights
from regen.train.latent_statistics import measure_latent_statistics, small_batches
from regen.train.lifecycle import ShouldStop, run_identity
from regen.train.loop import LoopConfig, train
from regen.train.optimizer import OptimizerConfig

PREVIEW_CLIPS, FITTED_CLIPS = 4, 64  # in a picture; to which the linear preview is fitted, at most


@dataclass(frozen=True)
class DataConfig:
    """Clips for training and validation."""

    stages: tuple[Stage, ...]
    scale: tuple[float, float] | None = (0.5, 1.0)
    """Range of random scales at which crops are taken; 1 is the original size. None: the largest crop of the
    aspect ratio, so that the whole picture is seen."""
    short_side: int | None = None
    """Size to which larger pictures are reduced first; a frame cache keeps them in this size."""
    frame_rate: float | None = None
    """Frames per second of the clips; None keeps each video's frame rate."""
    num_val_videos: int = 2
    """Videos held out for evaluations; with 0 the evaluations use the training videos."""
    num_val_clips: int = 8
    """Clips of the validation videos that an evaluation reconstructs."""
    statistics_clips: int = 10_000
    """Clips over which mean and standard deviation of the latents are measured at the end."""
    decode_timeout: float = 60.0
    """Seconds to decode one sample; then another sample replaces it, and the log counts it."""

    def __post_init__(self) -> None:
        for name, minimum in (("num_val_clips", 1), ("statistics_clips", 1), ("num_val_videos", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be >= {minimum}, got {getattr(self, name)}.")


ModelConfig = RegenConfig | Magvit2Config | OneDVAConfig
Autoencoder = AutoencoderRegen | AutoencoderMagvit2 | AutoencoderOneDVA
MODEL_CLASSES: dict[type[ModelConfig], type[Autoencoder]] = {
    RegenConfig: AutoencoderRegen,
    Magvit2Config: AutoencoderMagvit2,
    OneDVAConfig: AutoencoderOneDVA,
}
M = TypeVar("M", RegenConfig, Magvit2Config, OneDVAConfig, covariant=True)


@dataclass(frozen=True)
class Recipe(Generic[M]):
    """A full training configuration; `regen.recipes` has the named ones."""

    model: M
    data: DataConfig
    loop: LoopConfig
    tasks: TaskConfig = field(default_factory=TaskConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    init: InitConfig = field(default_factory=InitConfig)

    def __post_init__(self) -> None:
        losses, is_regen = self.losses, isinstance(self.model, RegenConfig)
        if is_regen and losses.adversarial.weight > 0:
            raise ValueError("REGEN has no discriminator: losses.adversarial.weight must be 0.")
        if not is_regen and self.tasks.warmup_fraction < 1:
            raise ValueError("Only REGEN decodes frames it does not encode; set tasks.warmup_fraction to 1.")
        weights = losses.alignment.weight, losses.representation.weight, losses.prediction.share
        if not isinstance(self.model, OneDVAConfig) and max(*weights, self.init.pca_clips) > 0:
            raise ValueError(
                "Only One-DVA takes losses.alignment, .representation and .prediction, and init.pca_clips."
            )


def build_model(config: ModelConfig) -> Autoencoder:
    return MODEL_CLASSES[type(config)](**asdict(config))


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
) -> Path:
    """Train `recipe` on the videos and images of the folders and shards `data`; return the model's folder.

    `out` receives the run (see `regen.train.loop.train`), previews/ with a picture for each evaluation, and
    model/ for `from_pretrained` with its card (licence and command by `card`). The same call resumes a run,
    which stores the `name` of its recipe. `cache`: folder of decoded frames. `predictor` predicts the latents
    of post-training, by default from the prior, and takes `media_conditions`. `strict` allows no bad files.

    Raises ValueError when there is no data or no model to start from, and whatever `train` raises.
    """
    tune_malloc()
    torch.manual_seed(recipe.loop.seed)
    model = build_model(recipe.model)
    auxiliary = build_auxiliary_losses(recipe, model, context.device, predictor)
    init = init_weights(model, recipe.init)
    if recipe.losses.prediction.share > 0 and not init.keeps_latents:
        raise ValueError("Post-training needs a finished model: give --init.model and --init.freeze encoder.")
    clips = ClipDataset(data, cache, recipe.data.short_side, recipe.data.decode_timeout)
    if context.is_main:
        report(init, clips, strict)
        if cache is not None:
            clips.fill_cache()
    context.barrier()
    span = model.chunk_frames - 1
    training, validation = hold_out(clips, recipe.data.num_val_videos, model.chunk_frames, context.is_main)
    batches = make_batches(training, recipe, span, recipe.tasks, recipe.data.stages, recipe.loop.steps)
    if media_conditions is not None:
        batches.conditions = media_conditions(clips.collection, out / "captions")
    if recipe.init.pca_clips and not list_checkpoints(out / "checkpoints"):
        assert isinstance(model, AutoencoderOneDVA)
        alone = DistributedContext(torch.device("cpu"))  # every process computes the same
        with load_chunks(training, recipe, span, recipe.init.pca_clips, alone) as loader:
            init_from_pca(model, loader, recipe.init.pca_clips)
    evaluate = Preview(validation, recipe, model.chunk_frames, out / "previews", context)
    config = resolve_config(recipe, clips, context.device) | run_identity(name)
    options = (recipe.loop, recipe.optimizer, out, context, evaluate, config, resume, auxiliary)
    average = train(model, batches, *options).ema.model
    del model, auxiliary  # of the state only the average stays in memory
    if not (out / "model").exists():
        measured = measure_latents(average, training, recipe, context, init.keeps_latents)
        weights = full_state_dict(average, context)
        if context.is_main:
            finished = finish_model(recipe.model, weights, measured)
            text = model_card(finished, out, data, context, card, recipe.init.model)
            save_model(finished, out / "model", text)
    return out / "model"


def measure_latents(
    model: nn.Module, clips: ClipDataset, recipe: Recipe, context: DistributedContext, keep_statistics: bool
) -> dict[str, Any]:
    """Statistics of the latents, unless kept, and factors of the preview, as in the config. Collective."""
    assert isinstance(model, VideoAutoencoder)
    dtype = pick_dtype(recipe.loop.mixed_precision, context.device)
    span, count = model.chunk_frames - 1, recipe.data.statistics_clips
    if not keep_statistics:
        with load_chunks(clips, recipe, span, count, context) as loader:
            model.set_latent_statistics(*measure_latent_statistics(model, loader, count, context, dtype))
    autocast = torch.autocast(context.device.type, dtype, enabled=dtype != torch.float32)
    with load_chunks(clips, recipe, span, min(count, FITTED_CLIPS), context) as loader, autocast:
        batches = small_batches(loader, FITTED_CLIPS, context)
        factors = fit_rgb_factors(model, batches, context.average_tensors)
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
    if isinstance(model, AutoencoderRegen) and recipe.losses.perceptual_weight == 0:
        return None
    features = (model.config.width, model.patches) if isinstance(model, AutoencoderOneDVA) else None
    predictor = predictor or denoised(unit_gaussian_velocity)
    return AuxiliaryLosses(recipe.losses, device, features, predictor, model.latent_channels)


def resolve_config(recipe: Recipe, clips: ClipDataset, device: torch.device) -> dict[str, Any]:
    """The recipe with its resolved precision and a fingerprint of the data, wherever those are."""
    precision = dtype_name(pick_dtype(recipe.loop.mixed_precision, device))
    return asdict(replace(recipe, loop=replace(recipe.loop, mixed_precision=precision))) | {
        "class": MODEL_CLASSES[type(recipe.model)].__name__,
        "files": len(clips),
        "files_fingerprint": clips.fingerprint(),
    }


def report(init: InitReport, clips: ClipDataset, strict: bool) -> None:
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
    clips: ClipDataset, recipe: Recipe, span: int, tasks: TaskConfig, stages: tuple[Stage, ...], steps: int
) -> TrainingBatches:
    """`steps` batches of a recipe's data, for chunks of 1 + `span` frames."""
    data = recipe.data
    return TrainingBatches(clips, span, tasks, stages, data.scale, steps, recipe.loop.seed, data.frame_rate)


def load_chunks(
    clips: ClipDataset, recipe: Recipe, span: int, count: int, context: DistributedContext
) -> BatchLoader:
    """This process's parts of batches of at least `count` whole chunks, at the size of the last stage."""
    stage = replace(recipe.data.stages[-1], until=1.0)
    tasks = TaskConfig(image_share=0.0, warmup_fraction=1.0)
    batches = make_batches(clips, recipe, span, tasks, (stage,), -(-count // stage.video_batch_size))
    keys = [(step, context.rank, context.size) for step in range(len(batches))]
    return BatchLoader(batches, keys, recipe.loop.num_workers, context.device)


class Preview:
    """Evaluation on the same validation clips every time: PSNR of one-step reconstructions, and a picture."""

    def __init__(
        self, clips: ClipDataset, recipe: Recipe, frames: int, folder: Path, context: DistributedContext
    ):
        clips.require_length(frames)
        self.clips, self.frames, self.folder, self.context = clips, frames, folder, context
        stage, self.count, self.seed = recipe.data.stages[-1], recipe.data.num_val_clips, recipe.loop.seed
        self.margin = stage.margin
        self.size = stage.height + 2 * stage.margin, stage.width + 2 * stage.margin
        self.dtype = pick_dtype(recipe.loop.mixed_precision, context.device)

    def __call__(self, model: nn.Module, step: int, should_stop: ShouldStop) -> dict[str, float] | None:
        """Mean PSNR in dB, None when stopped early; all processes compute it, for sharded models need all."""
        assert isinstance(model, VideoAutoencoder)
        originals, videos, psnr, device = [], [], [], self.context.device
        for i in range(self.count):
            if should_stop():
                return None
            clip = self.clips.read(i, self.frames, self.size, (1.0, 1.0), self.seed)[None]
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                latents = model.encode(clip.to(device)).latent_dist.mode()
                generator = generator_for(self.seed)
                video = model.decode(latents, steps=model.min_steps, generator=generator).sample
            video = video[..., : self.size[0], : self.size[1]].clamp(-1, 1).float().cpu()
            video, clip = without_margin(video, self.margin), without_margin(clip, self.margin)
            psnr.append(-10 * torch.log10((video - clip).square().mean() / 4).item())
            originals.append(clip)
            videos.append(video)
        if self.context.is_main:
            path = self.folder / f"step-{step:08d}.png"
            save_preview(path, torch.cat(originals), torch.cat(videos))
        return {"psnr": sum(psnr) / len(psnr)}


def save_preview(
    path: Path, original: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
) -> None:
    """Write a PNG of the first clips' frames above those of their reconstructions, both RGB in [-1, 1]."""
    pairs = torch.stack([original[:PREVIEW_CLIPS], reconstruction[:PREVIEW_CLIPS]]).detach().float().cpu()
    grid = rearrange(pairs, "pair b c t h w -> (b pair h) (t w) c")
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path, format="PNG")


def save_model(model: ModelMixin, folder: Path, card: str) -> None:
    """Save a model with its card atomically."""
    temporary = folder.with_name(".model-incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    write_text(temporary / "README.md", card)
    temporary.replace(folder)
