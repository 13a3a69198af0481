"""A whole training from a recipe: data, model, loop, latent statistics, and the model in RUN/model."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from regen.data.clips import ClipDataset
from regen.data.tasks import Stage, TaskConfig, TrainingBatches
from regen.embedders.base import VideoAutoencoder
from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.embedders.one_dva import AutoencoderOneDVA, OneDVAConfig
from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.losses.post_training import Predictor, denoised, unit_gaussian_velocity
from regen.runtime import generator_for, keep_freed_memory, name_of, pick_dtype
from regen.train.auxiliary_losses import AuxiliaryLosses, FeatureSpec, LossConfig
from regen.train.checkpoint import list_checkpoints
from regen.train.dataloader import BatchLoader
from regen.train.distributed import DistributedContext, full_state_dict
from regen.train.finetune import InitConfig, InitReport, init_weights
from regen.train.latent_statistics import measure_latent_statistics
from regen.train.lifecycle import ShouldStop
from regen.train.loop import LoopConfig, train
from regen.train.optimizer import OptimizerConfig
from regen.train.pca_init import init_from_pca
from regen.train.preview import save_preview


@dataclass(frozen=True)
class DataConfig:
    """What is cut out of the videos and images of the training folders."""

    stages: tuple[Stage, ...]
    scale: tuple[float, float] = (0.5, 1.0)
    """A crop is cut out of the picture at a scale drawn between these; 1 is the picture as it is."""
    short_side: int | None = None
    """Size to which larger pictures are reduced first; a frame cache keeps them in this size."""
    frame_rate: float | None = None
    """Frames per second of the clips; None takes the frames of each video as they are."""
    num_val_videos: int = 2
    """Videos that are kept out of the training, to measure and draw the evaluations on; with 0 the
    evaluations use the training videos."""
    num_val_clips: int = 8
    """Clips of the held-out videos that an evaluation reconstructs."""
    statistics_clips: int = 10_000
    """Clips over which the latents' mean and deviation are measured at the end."""
    decode_timeout: float = 60.0
    """Longest time to read one sample; then another is drawn, and the log counts it."""

    def __post_init__(self) -> None:
        if min(self.num_val_clips, self.statistics_clips) < 1 or self.num_val_videos < 0:
            raise ValueError(
                "A training needs at least 1 preview clip and 1 for statistics, and no negative hold-out."
            )


ModelConfig = RegenConfig | Magvit2Config | OneDVAConfig
Autoencoder = AutoencoderRegen | AutoencoderMagvit2 | AutoencoderOneDVA
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
        wanted = max(self.losses.adversarial.weight, self.losses.perceptual_weight) > 0
        if isinstance(self.model, RegenConfig) and wanted:
            raise ValueError("REGEN has one loss, that of diffusion; set the weights of the others to 0.")
        if not isinstance(self.model, RegenConfig) and self.tasks.warmup_fraction < 1:
            raise ValueError(
                "Only REGEN decodes other frames than it encodes; set tasks.warmup_fraction to 1."
            )
        own = max(self.losses.representation.weight, self.losses.prediction.share, self.init.pca_clips) > 0
        if not isinstance(self.model, OneDVAConfig) and own:
            raise ValueError(
                "Representation alignment, predicted latents and a start at components are One-DVA's; leave "
                "them out."
            )


def model_class(config: ModelConfig) -> type[Autoencoder]:
    """The class that a configuration is one of."""
    if isinstance(config, OneDVAConfig):
        return AutoencoderOneDVA
    return AutoencoderMagvit2 if isinstance(config, Magvit2Config) else AutoencoderRegen


def build_model(config: ModelConfig) -> Autoencoder:
    """A new model of this size, with the weights that training begins with."""
    return model_class(config)(**asdict(config))


def run_recipe(
    recipe: Recipe,
    data: Sequence[str | Path],
    out: Path,
    context: DistributedContext,
    resume: bool = True,
    cache: Path | None = None,
    predictor: Predictor | None = None,
) -> Path:
    """Train by `recipe` on the videos and images of the folders and shards `data`; return the model's folder.

    All processes of `world` have to call it. The folder `out` receives the run (see
    `regen.train.loop.train`), previews/ with a picture for each evaluation (original above, reconstruction
    below), and at the end model/, which `from_pretrained` loads. The same call goes on with a run that was
    stopped. `cache` is a folder for decoded frames: worthwhile for up to some hours of video, where decoding
    would take longer than training. `predictor` is what post-training predicts latents with; by default one
    that knows of them that they are normalised, and nothing else.

    Raises ValueError when there is nothing to train on or to start from, and whatever `train` raises.
    """
    keep_freed_memory()
    torch.manual_seed(recipe.loop.seed)
    model = build_model(recipe.model)
    further = build_auxiliary_losses(recipe, model, context.device, predictor)
    start = init_weights(model, recipe.init)
    check_post_training(recipe, start)
    clips = ClipDataset(data, cache, recipe.data.short_side, recipe.data.decode_timeout)
    if context.is_main:
        report_init(start)
        report_skipped(clips)
        if cache is not None:
            clips.fill_cache()
    context.barrier()
    training, held_out = clips, clips
    if recipe.data.num_val_videos:
        training, held_out = clips.split(recipe.data.num_val_videos, model.chunk_frames)
    span = model.chunk_frames - 1
    batches = make_batches(training, recipe, span, recipe.tasks, recipe.data.stages, recipe.loop.steps)
    if recipe.init.pca_clips and not list_checkpoints(out / "checkpoints"):
        start_linear(model, whole_chunks(training, recipe, span, recipe.init.pca_clips), recipe)
    preview = Preview(held_out, recipe, model.chunk_frames, out / "previews", context)
    statistics = (model.latents_mean, model.latents_std) if start.keeps_latents else None
    resolved = resolve_config(recipe, clips, context.device)
    state = train(
        model, batches, recipe.loop, recipe.optimizer, out, context, preview, resolved, resume, further
    )
    folder = out / "model"
    if not folder.exists():
        weights = full_state_dict(state.ema.model)
        if context.is_main:  # the others are done: what is left is little work
            finished = build_model(recipe.model)
            finished.load_state_dict(weights)
            finished.to(context.device).eval()
            measured = whole_chunks(training, recipe, span, recipe.data.statistics_clips)
            finished.set_latent_statistics(
                *(statistics or measure_statistics(finished, measured, recipe, context.device))
            )
            save_model(finished, folder)
    return folder


def check_post_training(recipe: Recipe, start: InitReport) -> None:
    """Raise ValueError when latents are to be predicted that are not normalised, or still change."""
    if recipe.losses.prediction.share > 0 and not start.keeps_latents:
        raise ValueError(
            "Post-training needs a finished model whose encoder stays as it is: give --init.model and "
            "--init.freeze encoder."
        )


def build_auxiliary_losses(
    recipe: Recipe, model: Autoencoder, device: torch.device, predictor: Predictor | None = None
) -> AuxiliaryLosses | None:
    """What this model is trained with besides its own losses; None for one that takes nothing."""
    if isinstance(model, AutoencoderRegen):
        return None
    tap = FeatureSpec(model.config.width, model.patches) if isinstance(model, AutoencoderOneDVA) else None
    return AuxiliaryLosses(recipe.losses, device, tap, predictor or denoised(unit_gaussian_velocity))


def resolve_config(recipe: Recipe, clips: ClipDataset, device: torch.device) -> dict[str, Any]:
    """The recipe as it is run: with the precision in words, and with what the data are, wherever they lie."""
    loop = replace(recipe.loop, mixed_precision=name_of(pick_dtype(recipe.loop.mixed_precision, device)))
    return asdict(replace(recipe, loop=loop)) | {
        "class": model_class(recipe.model).__name__,
        "files": len(clips),
        "files_fingerprint": clips.fingerprint(),
    }


def report_init(start: InitReport) -> None:
    """Say what came from the start model, what is new and what is frozen."""
    if text := str(start):
        print(text, file=sys.stderr)
    if start.warning:
        print(f"regen: warning: {start.warning}", file=sys.stderr)


def report_skipped(clips: ClipDataset) -> None:
    """Name the files that can't be used, the first few with their reasons."""
    reasons = list(clips.skipped.values())
    if reasons:
        count = f"{len(reasons)} file{'s are' if len(reasons) > 1 else ' is'} left out"
        lines = "".join(f"\n  {reason}" for reason in reasons[:5])
        print(f"regen: warning: {count}, {len(clips)} remain:{lines}", file=sys.stderr)


def make_batches(
    clips: ClipDataset, recipe: Recipe, span: int, tasks: TaskConfig, stages: tuple[Stage, ...], steps: int
) -> TrainingBatches:
    """`steps` batches of a recipe's data, for chunks of 1 + `span` frames."""
    data = recipe.data
    return TrainingBatches(clips, span, tasks, stages, data.scale, steps, recipe.loop.seed, data.frame_rate)


def whole_chunks(clips: ClipDataset, recipe: Recipe, span: int, count: int) -> TrainingBatches:
    """`count` whole chunks or a few more, in batches, at the size with which the training ends."""
    stage = replace(recipe.data.stages[-1], until=1.0)
    tasks = TaskConfig(image_share=0.0, warmup_fraction=1.0)
    return make_batches(clips, recipe, span, tasks, (stage,), -(-count // stage.video_batch_size))


def start_linear(model: Autoencoder, batches: TrainingBatches, recipe: Recipe) -> None:
    """Let a One-DVA model begin as the best linear embedder, fitted to `batches`."""
    assert isinstance(model, AutoencoderOneDVA), "the recipe has seen to it"
    keys = [(step, 0, 1) for step in range(len(batches))]
    with BatchLoader(batches, keys, recipe.loop.num_workers, torch.device("cpu")) as loader:
        init_from_pca(model, loader, recipe.init.pca_clips)


class Preview:
    """Reconstructs the same held-out clips at each evaluation, in one step: their PSNR and a picture."""

    def __init__(
        self, clips: ClipDataset, recipe: Recipe, frames: int, folder: Path, world: DistributedContext
    ):
        stage = recipe.data.stages[-1]
        clips.require_length(frames)
        self.size, self.frames, self.count = (stage.height, stage.width), frames, recipe.data.num_val_clips
        self.clips, self.folder, self.device, self.draws = clips, folder, world.device, world.is_main
        self.seed, self.dtype = recipe.loop.seed, pick_dtype(recipe.loop.mixed_precision, world.device)

    def __call__(self, model: nn.Module, step: int, leave: ShouldStop) -> dict[str, float] | None:
        """PSNR in dB, the mean over clips; None when it was left before its end. Every process computes the
        same, because a model that they share among them needs them all; one draws the picture."""
        assert isinstance(model, VideoAutoencoder)
        originals, answers, psnr = [], [], []
        for i in range(self.count):
            if leave():
                return None
            clip = self.clips.read(i, self.frames, self.size, (1.0, 1.0), self.seed)[None]
            answer = self._reconstruct(model, clip)
            psnr.append(-10 * torch.log10((answer - clip).square().mean() / 4).item())
            originals.append(clip)
            answers.append(answer)
        if self.draws:
            save_preview(self.folder / f"step-{step:08d}.png", torch.cat(originals), torch.cat(answers))
        return {"psnr": sum(psnr) / len(psnr)}

    def _reconstruct(
        self, model: VideoAutoencoder, clip: Float[Tensor, "1 3 t h w"]
    ) -> Float[Tensor, "1 3 t h w"]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            latents = model.encode(clip.to(self.device)).latent_dist.mode()
            answer = model.decode(latents, generator=generator_for(self.seed)).sample
        return answer[..., : clip.shape[3], : clip.shape[4]].clamp(-1, 1).float().cpu()


def measure_statistics(
    model: VideoAutoencoder, batches: TrainingBatches, recipe: Recipe, device: torch.device
) -> tuple[Float[Tensor, "2 c"], Float[Tensor, "2 c"]]:
    """Mean and deviation of the latents over the recipe's number of clips."""
    keys = [(step, 0, 1) for step in range(len(batches))]
    with BatchLoader(batches, keys, recipe.loop.num_workers, device) as loader:
        mean, std = measure_latent_statistics(model, loader, recipe.data.statistics_clips)
    return mean.float(), std.float()


def save_model(model: ModelMixin, folder: Path) -> None:
    """Save the model whole or not at all."""
    temporary = folder.with_name(".model-incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    temporary.replace(folder)
