"""A whole training from a recipe: data, model, loop, latent statistics, and the model in RUN/model."""

import hashlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from regen.autoencoder import VideoAutoencoder
from regen.data.clips import ClipDataset
from regen.data.tasks import Stage, TaskConfig, TrainingBatches
from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.runtime import generator_for, keep_freed_memory, name_of, pick_device, pick_dtype
from regen.train.further import FurtherLosses, LossConfig
from regen.train.loop import LoopConfig, load_batches, train
from regen.train.optimizer import OptimizerConfig
from regen.train.preview import save_preview
from regen.train.statistics import measure_latent_statistics


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
    held_out: int = 2
    """Videos that are kept out of the training, to measure and draw the evaluations on; with 0 the
    evaluations use the training videos."""
    preview_clips: int = 8
    """Clips of the held-out videos that an evaluation reconstructs."""
    statistics_clips: int = 10_000
    """Clips over which the latents' mean and deviation are measured at the end."""

    def __post_init__(self) -> None:
        if min(self.preview_clips, self.statistics_clips) < 1 or self.held_out < 0:
            raise ValueError(
                "A training needs at least 1 preview clip and 1 for statistics, and no negative hold-out."
            )


ModelConfig = RegenConfig | Magvit2Config
M = TypeVar("M", RegenConfig, Magvit2Config, covariant=True)


@dataclass(frozen=True)
class Recipe(Generic[M]):
    """A full training configuration; `regen.recipes` has the named ones."""

    model: M
    data: DataConfig
    loop: LoopConfig
    tasks: TaskConfig = field(default_factory=TaskConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    losses: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        wanted = max(self.losses.adversarial.weight, self.losses.perceptual_weight) > 0
        if isinstance(self.model, RegenConfig) and wanted:
            raise ValueError("REGEN has one loss, that of diffusion; set the weights of the others to 0.")
        if isinstance(self.model, Magvit2Config) and self.tasks.hold < 1:
            raise ValueError("The baseline can only reconstruct; set tasks.hold to 1.")


def build_model(config: ModelConfig) -> AutoencoderRegen | AutoencoderMagvit2:
    """A new model of this size, with the weights that training begins with."""
    if isinstance(config, Magvit2Config):
        return AutoencoderMagvit2(**asdict(config))
    return AutoencoderRegen(**asdict(config))


def run_recipe(
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    device: str | None = None,
    resume: bool = True,
    cache: Path | None = None,
) -> Path:
    """Train by `recipe` on the videos and images below the folders `data`; return the folder of the model.

    The folder `out` receives the run (see `regen.train.loop.train`), previews/ with a picture for each
    evaluation (original above, reconstruction below), and at the end model/, which `from_pretrained` loads.
    The same call goes on with a run that was stopped. `cache` is a folder for decoded frames: worthwhile for
    up to some hours of video, where decoding would take longer than training.

    Raises ValueError when there is nothing to train on, and whatever `train` raises.
    """
    keep_freed_memory()
    target = pick_device(device)
    torch.manual_seed(recipe.loop.seed)
    model = build_model(recipe.model)
    further = FurtherLosses(recipe.losses, target) if isinstance(model, AutoencoderMagvit2) else None
    clips = ClipDataset(data, cache=cache, short_side=recipe.data.short_side)
    report_skipped(clips)
    if cache is not None:
        clips.fill_cache()
    training, held_out = clips, clips
    if recipe.data.held_out:
        training, held_out = clips.split(recipe.data.held_out, model.chunk_frames)
    span = model.chunk_frames - 1
    batches = batches_of(training, recipe, span, recipe.tasks, recipe.data.stages, recipe.loop.steps)
    measured = statistics_batches(training, recipe, span)
    preview = Preview(held_out, recipe, model.chunk_frames, out / "previews", target)
    state = train(
        model,
        batches,
        recipe.loop,
        recipe.optimizer,
        out,
        target,
        preview,
        resolve(recipe, clips, target),
        resume,
        further,
    )
    folder = out / "model"
    if not folder.exists():
        loop = replace(recipe.loop, steps=len(measured))
        with closing(load_batches(measured, 0, loop, target)) as loaded:
            export(state.ema.model, loaded, recipe.data.statistics_clips, folder)
    return folder


def resolve(recipe: Recipe, clips: ClipDataset, device: torch.device) -> dict[str, Any]:
    """The recipe as it is run: with the precision in words, and with what the data are, wherever they lie."""
    names = "\n".join(f"{one.path.name} {len(one.times)} {one.width}x{one.height}" for one in clips.media)
    fingerprint = hashlib.blake2b(names.encode(), digest_size=8).hexdigest()
    loop = replace(recipe.loop, dtype=name_of(pick_dtype(recipe.loop.dtype, device)))
    return asdict(replace(recipe, loop=loop)) | {"files": len(clips.media), "files_fingerprint": fingerprint}


def report_skipped(clips: ClipDataset) -> None:
    """Name the files that can't be used, the first few with their reasons."""
    reasons = list(clips.skipped.values())
    if reasons:
        count = f"{len(reasons)} file{'s are' if len(reasons) > 1 else ' is'} left out"
        lines = "".join(f"\n  {reason}" for reason in reasons[:5])
        print(f"regen: warning: {count}, {len(clips.media)} remain:{lines}", file=sys.stderr)


def batches_of(
    clips: ClipDataset, recipe: Recipe, span: int, tasks: TaskConfig, stages: tuple[Stage, ...], steps: int
) -> TrainingBatches:
    """`steps` batches of a recipe's data, for chunks of 1 + `span` frames."""
    data = recipe.data
    return TrainingBatches(clips, span, tasks, stages, data.scale, steps, recipe.loop.seed, data.frame_rate)


def statistics_batches(clips: ClipDataset, recipe: Recipe, span: int) -> TrainingBatches:
    """Batches of whole chunks at the size with which the training ended."""
    stage = replace(recipe.data.stages[-1], until=1.0)
    tasks = TaskConfig(image_share=0.0, hold=1.0)
    return batches_of(clips, recipe, span, tasks, (stage,), -(-recipe.data.statistics_clips // stage.clips))


class Preview:
    """Reconstructs the same held-out clips at each evaluation, in one step: their PSNR and a picture."""

    def __init__(self, clips: ClipDataset, recipe: Recipe, frames: int, folder: Path, device: torch.device):
        stage = recipe.data.stages[-1]
        clips.require(frames)
        self.size, self.frames, self.count = (stage.height, stage.width), frames, recipe.data.preview_clips
        self.clips, self.folder, self.device = clips, folder, device
        self.seed, self.dtype = recipe.loop.seed, pick_dtype(recipe.loop.dtype, device)

    def __call__(self, model: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(model, VideoAutoencoder)
        originals, answers, psnr = [], [], []
        for i in range(self.count):
            clip = self.clips.read(i, self.frames, self.size, (1.0, 1.0), self.seed)[None]
            answer = self._reconstruct(model, clip)
            psnr.append(-10 * torch.log10((answer - clip).square().mean() / 4).item())
            originals.append(clip)
            answers.append(answer)
        save_preview(self.folder / f"step-{step:08d}.png", torch.cat(originals), torch.cat(answers))
        return {"psnr": sum(psnr) / len(psnr)}

    def _reconstruct(
        self, model: VideoAutoencoder, clip: Float[Tensor, "1 3 t h w"]
    ) -> Float[Tensor, "1 3 t h w"]:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            latents = model.encode(clip.to(self.device)).latent_dist.mode()
            answer = model.decode(latents, generator=generator_for(self.seed)).sample
        return answer.clamp(-1, 1).float().cpu()


def export(model: nn.Module, batches: Iterable[dict[str, Tensor]], count: int, folder: Path) -> None:
    """Measure the latents over `count` clips, store that in the model and save it whole or not at all."""
    assert isinstance(model, VideoAutoencoder)
    mean, std = measure_latent_statistics(model, batches, count)
    model.set_latent_statistics(mean.float(), std.float())
    temporary = folder.with_name(".model-incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    temporary.replace(folder)
