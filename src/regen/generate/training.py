"""A whole training of a generator: exported latents, their captions, the loop, and the model in RUN/model."""

import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from regen.console import progress_bar
from regen.corpus.dataset import LatentDataset
from regen.data.tasks import BatchKey
from regen.generate.captions import CaptionStates, embed_captions
from regen.generate.generator import GeneratorConfig, LatentGenerator
from regen.generate.latent_batches import LatentBatches, LatentStage
from regen.generate.latent_spec import class_names, make_latent_spec
from regen.generate.preview import SamplePreview
from regen.generate.sampling import SampleOptions
from regen.generate.text import DEFAULT_TEXT_ENCODER, TextEncoderSource, find_text_encoder
from regen.pretrained.models import find_model, is_generator, silence_logging, stored_config, stored_weights
from regen.runtime import dtype_name, generator_for, pick_dtype, tune_malloc
from regen.train.distributed import DistributedContext, full_state_dict
from regen.train.lifecycle import ShouldStop
from regen.train.loop import LoopConfig, to_device, train
from regen.train.optimizer import OptimizerConfig
from regen.train.trainer import save_model

VALIDATION_STREAM = -5


@dataclass(frozen=True)
class LatentDataConfig:
    """What is taken of the exported latents, and what the generator is told of it."""

    stages: tuple[LatentStage, ...]
    condition: Literal["text", "class", "none"] = "text"
    text_encoder: str = DEFAULT_TEXT_ENCODER
    """The text encoder: minilm, which is small and comes inside a package, or a folder or a name on the
    Hugging Face Hub of a T5, CLIP, Gemma or such."""
    max_text_tokens: int | None = None
    """The most tokens of a caption; None: what the encoder reads, up to 256."""
    num_val_samples: int = 64
    """Samples kept out of the training for the loss on them, and for the pictures of the evaluations."""
    preview_samples: int = 4
    """Videos that an evaluation generates, from held-out captions or classes; 0: no pictures."""
    preview_steps: int = 20
    preview_guidance_scale: float = 3.0

    def __post_init__(self) -> None:
        if min(self.num_val_samples, self.preview_samples + 1, self.preview_steps) < 1:
            raise ValueError("Hold out 1 sample or more, and draw 0 or more pictures in 1 step or more.")


@dataclass(frozen=True)
class GeneratorRecipe:
    """A full configuration of a generator's training; `regen.recipes` has the named ones."""

    model: GeneratorConfig
    data: LatentDataConfig
    loop: LoopConfig
    optimizer: OptimizerConfig
    init_from: str | None = None
    """Begin with the weights of this generator (a name, a folder or owner/name), which must fit."""


def run_generator(
    recipe: GeneratorRecipe, latents: Path, out: Path, world: DistributedContext, resume: bool = True
) -> Path:
    """Train a generator on the folder `latents` of `regen latents export`; return the model's folder.

    All processes of `world` have to call it. `out` receives the run (see `regen.train.loop.train`), previews/
    with a picture for each evaluation (where the embedder is at hand), and at the end model/. The same call
    goes on with a run that was stopped. Raises ValueError for latents that are not there or don't fit the
    recipe, a text encoder that is not there, and whatever `train` raises.
    """
    tune_malloc()
    silence_logging()
    dataset = LatentDataset(latents)
    text = (
        find_text_encoder(recipe.data.text_encoder, recipe.data.max_text_tokens)
        if needs_text(recipe)
        else None
    )
    states = None if text is None else prepare_captions(dataset, text, world)
    torch.manual_seed(recipe.loop.seed)
    model = build_generator(recipe, dataset, text, states)
    if recipe.init_from is not None:
        load_initial_weights(model, recipe.init_from)
    numbers, held_out = split_samples(dataset, recipe.data.num_val_samples)
    stages, has_classes = recipe.data.stages, recipe.data.condition == "class"
    batches = LatentBatches(
        dataset, numbers, stages, recipe.loop.steps, recipe.loop.seed, states, has_classes
    )
    check_sizes(model, batches, world.size * recipe.loop.gradient_accumulation_steps)
    dtype = pick_dtype(recipe.loop.mixed_precision, world.device)
    evaluate = Validation(
        validation_batches(dataset, held_out, recipe, states), world, dtype, recipe, out / "previews"
    )
    loop = replace(recipe.loop, mixed_precision=dtype_name(dtype))
    resolved = asdict(replace(recipe, loop=loop)) | {
        "class": "LatentGenerator",
        "latents": {"weights": dataset.manifest.weights, "samples": len(dataset)},
        "text_fingerprint": None if text is None else text.fingerprint,
    }
    state = train(model, batches, recipe.loop, recipe.optimizer, out, world, evaluate, resolved, resume)
    folder = out / "model"
    if not folder.exists():
        weights = full_state_dict(state.ema.model)
        if world.is_main:
            finished = build_generator(recipe, dataset, text, states)
            finished.load_state_dict(weights)
            save_model(finished.eval(), folder)
    return folder


def check_sizes(model: LatentGenerator, batches: LatentBatches, parts: int) -> None:
    """Raise ValueError for a size in the batches that does not divide into the model's patches, and where a
    batch has fewer samples than the `parts` that it is divided into."""
    if batches.min_batch_size() < parts:
        raise ValueError(
            f"The smallest batch has {batches.min_batch_size()} samples and can't be divided into {parts} parts; use "  # noqa: E501
            "fewer processes, fewer passes for each update, or more tokens in a batch."
        )
    for bucket in (bucket for buckets in batches.buckets.values() for bucket in buckets):
        height, width = (
            -(-side // model.latent_spec.spatial_compression_ratio) for side in (bucket.height, bucket.width)
        )
        model.layout.grid(1, height, width)


def needs_text(recipe: GeneratorRecipe) -> bool:
    return recipe.data.condition == "text"


def prepare_captions(
    dataset: LatentDataset, text: TextEncoderSource, world: DistributedContext
) -> CaptionStates:
    """The embedded captions; the processes share the shards whose captions are not embedded yet."""
    if not any(any(dataset.captions(shard)) for shard in range(len(dataset.manifest.shards))):
        raise ValueError(
            f"None of the latents in {dataset.folder} has a caption; put NAME.txt beside the videos and "
            "export again, or train with --data.condition class or none."
        )
    with progress_bar("captions") if world.is_main else nullcontext() as on_progress:
        embed_captions(
            dataset, text, world.device, on_progress=on_progress, part=world.rank, parts=world.size
        )
    world.barrier()
    return CaptionStates(dataset, text.fingerprint)


def build_generator(
    recipe: GeneratorRecipe,
    dataset: LatentDataset,
    text: TextEncoderSource | None,
    states: CaptionStates | None,
) -> LatentGenerator:
    """A new generator for these latents. Raises ValueError when they have no classes and it needs some."""
    classes = class_names(dataset) if recipe.data.condition == "class" else None
    about = None
    if text is not None:
        about = {"name": text.name, "fingerprint": text.fingerprint, "max_tokens": text.max_tokens}
    return LatentGenerator(
        **asdict(recipe.model),
        latent_spec=asdict(make_latent_spec(dataset, recipe.data.stages, recipe.data.condition == "class")),
        classes=classes,
        text_width=None if states is None else states.width,
        text_encoder=about,
    )


def load_initial_weights(model: LatentGenerator, name: str) -> None:
    """Put the weights of another generator into `model`. Raises ValueError when they don't fit."""
    folder = find_model(name)
    stored_config(folder)  # which tells of a run that is not finished
    if not is_generator(folder):
        raise ValueError(f"{name} is an embedder; start from a generator.")
    weights = dict(stored_weights(folder))
    own = model.state_dict()
    shapes, theirs = ({key: value.shape for key, value in part.items()} for part in (own, weights))
    wrong = [key for key in sorted({*shapes, *theirs}) if shapes.get(key) != theirs.get(key)]
    if wrong:
        raise ValueError(
            f"The generator {name} does not fit this recipe ({wrong[0]} and {len(wrong) - 1} more differ); "
            "start from one of the same size and the same kind of condition and of latents."
        )
    model.load_state_dict(weights)


def split_samples(dataset: LatentDataset, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the samples to train on, and of those kept out: equally far apart in the data set."""
    if held_out >= len(dataset):
        raise ValueError(
            f"{held_out} of {len(dataset)} samples can't be kept out of the training; export more, or lower "
            "--data.num-val-samples."
        )
    kept = np.unique(np.linspace(0, len(dataset) - 1, held_out).round().astype(int))
    return np.setdiff1d(np.arange(len(dataset)), kept), kept


def validation_batches(
    dataset: LatentDataset, held_out: np.ndarray, recipe: GeneratorRecipe, states: CaptionStates | None
) -> LatentBatches:
    """Batches of the held-out samples, as the training ends; of all where those are of other sizes."""
    stage = replace(recipe.data.stages[-1], until=1.0)
    has_classes = recipe.data.condition == "class"
    try:
        return LatentBatches(dataset, held_out, (stage,), 4, recipe.loop.seed, states, has_classes)
    except ValueError:
        print(
            "regen: warning: none of the samples that are kept out of the training fits its last stage, so "
            "validation sees those of the training; raise --data.num-val-samples.",
            file=sys.stderr,
        )
        everything = np.arange(len(dataset))
        return LatentBatches(dataset, everything, (stage,), 4, recipe.loop.seed, states, has_classes)


class Validation:
    """An evaluation of a training: the loss on held-out samples, and a picture of generated videos."""

    def __init__(
        self,
        batches: LatentBatches,
        world: DistributedContext,
        dtype: torch.dtype,
        recipe: GeneratorRecipe,
        folder: Path,
    ):
        self.batches, self.world, self.dtype, self.seed = batches, world, dtype, recipe.loop.seed
        self.passes, data = recipe.loop.gradient_accumulation_steps, recipe.data
        self.preview: SamplePreview | None = None
        if data.preview_samples:
            try:
                self.preview = SamplePreview(
                    batches,
                    data.preview_samples,
                    SampleOptions(data.preview_steps, data.preview_guidance_scale),
                    folder,
                    world,
                )
            except ValueError as error:
                print(f"regen: warning: no pictures of this training: {error}", file=sys.stderr)

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int, leave: ShouldStop) -> dict[str, float] | None:
        """The mean loss over samples; each process works on its parts of the batches, as in the training."""
        assert isinstance(model, LatentGenerator)
        world, total = self.world, 0.0
        for index in range(len(self.batches)):
            for part in range(world.rank * self.passes, (world.rank + 1) * self.passes):
                if leave():
                    return None
                total += self._loss(model, (index, part, world.size * self.passes))
        if self.preview is not None and not leave():
            with torch.autocast(world.device.type, self.dtype, enabled=self.dtype != torch.float32):
                self.preview(model, step)
        return world.all_reduce_mean({"validation_loss": world.size * total / len(self.batches)})

    def _loss(self, model: LatentGenerator, key: BatchKey) -> float:
        """That of a part of a batch, as its share of the whole one's mean."""
        batch, device = self.batches[key], self.world.device
        rows = batch["rows"].tolist()
        noise = [generator_for(self.seed, VALIDATION_STREAM, key[0], row, device=device) for row in rows]
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            return (
                float(model.loss(to_device(batch, device), noise)[0]) * len(rows) / int(batch["batch_size"])
            )
