"""Training of generators, from exported latents to a model."""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from regen.console import progress_bar, warn
from regen.corpus.dataset import LatentDataset
from regen.data.batches import BatchKey
from regen.generate.captions import CaptionStates, embed_captions
from regen.generate.generator import GeneratorConfig, LatentGenerator
from regen.generate.inputs import Condition
from regen.generate.latent_batches import LatentBatches, LatentStage, class_names, make_latent_spec
from regen.generate.load import load_generator
from regen.generate.prompts import caption_words
from regen.generate.run import write_contact_sheet
from regen.generate.sampling import SampleOptions, sample
from regen.generate.text import DEFAULT_TEXT_ENCODER, TextEncoderSpec, find_text_encoder
from regen.generate.video_generator import GeneratedLatents
from regen.latents import Latents
from regen.pretrained.models import load, silence_logging, weights_hash
from regen.runtime import dtype_name, generator_for, pick_dtype, tune_malloc
from regen.train.card import CardOptions, model_card
from regen.train.distributed import DistributedContext, full_state_dict
from regen.train.lifecycle import ShouldStop, run_identity
from regen.train.loop import LoopConfig, to_device, train
from regen.train.optimizer import OptimizerConfig
from regen.train.trainer import save_model

VALIDATION_STREAM = -5


@dataclass(frozen=True)
class LatentDataConfig:
    """Training data and condition of a generator."""

    stages: tuple[LatentStage, ...]
    condition: Literal["text", "class", "none"] = "text"
    text_encoder: str = DEFAULT_TEXT_ENCODER
    """minilm (small, in the extra `text`), or a folder or Hub name of a T5, CLIP, Gemma or similar."""
    max_text_tokens: int | None = None
    """Maximum tokens of a caption; by default what the encoder reads, up to 256."""
    num_val_samples: int = 64
    """Samples held out for the validation loss and previews."""
    preview_samples: int = 4
    """Videos generated at each evaluation, from held-out captions or classes; 0: none."""
    preview_steps: int = 20
    preview_guidance_scale: float = 3.0

    def __post_init__(self) -> None:
        if min(self.num_val_samples, self.preview_samples + 1, self.preview_steps) < 1:
            raise ValueError(
                f"num_val_samples and preview_steps must be >= 1 and preview_samples >= 0, got "
                f"{self.num_val_samples}, {self.preview_steps} and {self.preview_samples}."
            )


@dataclass(frozen=True)
class GeneratorRecipe:
    """Full configuration of a generator's training; see `regen.recipes` for named ones."""

    model: GeneratorConfig
    data: LatentDataConfig
    loop: LoopConfig
    optimizer: OptimizerConfig
    init_from: str | None = None
    """Initial weights: a generator (name, folder or owner/name) of the same shapes."""


def run_generator(
    recipe: GeneratorRecipe,
    latents: Path,
    out: Path,
    context: DistributedContext,
    resume: bool = True,
    card: CardOptions = CardOptions(),
    name: str | None = None,
) -> Path:
    """Train a generator on the folder `latents` of `regen latents export`; return the model's folder.

    All processes of `context` must call it. `out` receives the run (see `regen.train.loop.train`), previews/
    with a picture per evaluation (if the embedder is found), and model/ with its card at the end. The same
    call resumes a stopped run; the recipe's `name` is stored with it. Raises ValueError for latents that are
    missing or don't fit the recipe, a missing text encoder, and whatever `train` raises.
    """
    tune_malloc()
    silence_logging()
    dataset, data, loop = LatentDataset(latents), recipe.data, recipe.loop
    text = find_text_encoder(data.text_encoder, data.max_text_tokens) if data.condition == "text" else None
    captions = None if text is None else prepare_captions(dataset, text, context)
    torch.manual_seed(loop.seed)
    model = build_generator(recipe, dataset, text, captions)
    if recipe.init_from is not None:
        load_initial_weights(model, recipe.init_from)
    indices, val_indices = split_samples(dataset, data.num_val_samples)
    by_class = data.condition == "class"
    batches = LatentBatches(dataset, indices, data.stages, loop.steps, loop.seed, captions, by_class)
    dtype = pick_dtype(loop.mixed_precision, context.device)
    val_batches = validation_batches(dataset, val_indices, recipe, captions)
    for each in (batches, val_batches):
        check_batches(each, context.size * loop.gradient_accumulation_steps)
    evaluate = Validation(val_batches, context, dtype, recipe, out / "previews")
    resolved = asdict(replace(recipe, loop=replace(loop, mixed_precision=dtype_name(dtype)))) | {
        "class": "LatentGenerator",
        "latents": {"weights": dataset.manifest.weights, "samples": len(dataset)},
        "text_fingerprint": None if text is None else text.fingerprint,
        **run_identity(name),
    }
    state = train(model, batches, loop, recipe.optimizer, out, context, evaluate, resolved, resume)
    folder = out / "model"
    if not folder.exists():
        weights = full_state_dict(state.ema.model, context)
        if context.is_main:
            finished = build_generator(recipe, dataset, text, captions)
            finished.load_state_dict(weights)
            written = model_card(finished, out, [latents], context, card, finished.latent_spec.embedder)
            save_model(finished.eval(), folder, written)
    return folder


def check_batches(batches: LatentBatches, parts: int) -> None:
    """Raise ValueError for a batch smaller than its number of parts."""
    for stage, bucket in ((stage, bucket) for (stage, _), row in batches.buckets.items() for bucket in row):
        if (count := batches.batch_size(stage, bucket)) < parts:
            raise ValueError(
                f"A batch must have at least {parts} samples (processes x accumulation steps), got {count}; "
                "raise tokens_per_batch, or use fewer processes or accumulation steps."
            )


def prepare_captions(
    dataset: LatentDataset, text: TextEncoderSpec, context: DistributedContext
) -> CaptionStates:
    """The embedded captions; the processes share the shards that are missing."""
    if not any(any(dataset.captions(shard)) for shard in range(len(dataset.manifest.shards))):
        raise ValueError(
            f"The latents in {dataset.folder} have no captions; add NAME.txt beside the videos and export "
            "again, or train with --data.condition class or none."
        )
    with progress_bar("captions") if context.is_main else nullcontext() as on_progress:
        embed_captions(
            dataset, text, context.device, on_progress=on_progress, part=context.rank, parts=context.size
        )
    context.barrier()
    return CaptionStates(dataset, text.fingerprint)


def build_generator(
    recipe: GeneratorRecipe,
    dataset: LatentDataset,
    text: TextEncoderSpec | None,
    captions: CaptionStates | None,
) -> LatentGenerator:
    """A new generator of these latents. Raises ValueError for missing classes."""
    by_class = recipe.data.condition == "class"
    text_encoder: dict[str, Any] | None = None
    if text is not None:
        text_encoder = {"name": text.name, "fingerprint": text.fingerprint, "max_tokens": text.max_tokens}
        shards = range(len(dataset.manifest.shards))
        text_encoder["words"] = caption_words(text for shard in shards for text in dataset.captions(shard))
    return LatentGenerator(
        **asdict(recipe.model),
        latent_spec=asdict(make_latent_spec(dataset, recipe.data.stages, by_class)),
        classes=class_names(dataset) if by_class else None,
        text_width=None if captions is None else captions.width,
        text_encoder=text_encoder,
    )


def load_initial_weights(model: LatentGenerator, name: str) -> None:
    """Load the weights of another generator. Raises ValueError for other names or shapes."""
    weights = load_generator(name, torch.device("cpu"), torch.float32).state_dict()
    shapes, stored = ({key: x.shape for key, x in part.items()} for part in (model.state_dict(), weights))
    wrong = [key for key in sorted({*shapes, *stored}) if shapes.get(key) != stored.get(key)]
    if wrong:
        raise ValueError(
            f"The generator {name} doesn't fit this recipe ({wrong[0]} and {len(wrong) - 1} more weights "
            "differ); give one with the same size, condition and latents."
        )
    model.load_state_dict(weights)


def split_samples(dataset: LatentDataset, num_val_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the samples for training, and of those held out, evenly spaced in the dataset."""
    if num_val_samples >= len(dataset):
        raise ValueError(
            f"num_val_samples must be below the {len(dataset)} samples, got {num_val_samples}; export more, "
            "or lower --data.num-val-samples."
        )
    held_out = np.unique(np.linspace(0, len(dataset) - 1, num_val_samples).round().astype(int))
    return np.setdiff1d(np.arange(len(dataset)), held_out), held_out


def validation_batches(
    dataset: LatentDataset, indices: np.ndarray, recipe: GeneratorRecipe, captions: CaptionStates | None
) -> LatentBatches:
    """Held-out samples as in the last stage, or all samples if none of those fits it."""
    stages, by_class = (replace(recipe.data.stages[-1], until=1.0),), recipe.data.condition == "class"
    options = (stages, 4, recipe.loop.seed, captions, by_class)
    try:
        return LatentBatches(dataset, indices, *options)
    except ValueError:
        warn("no held-out sample fits the last stage: validating on all; raise --data.num-val-samples.")
        return LatentBatches(dataset, np.arange(len(dataset)), *options)


class Validation:
    """The evaluation of a training: the loss on held-out samples, and previews."""

    def __init__(
        self,
        batches: LatentBatches,
        context: DistributedContext,
        dtype: torch.dtype,
        recipe: GeneratorRecipe,
        folder: Path,
    ):
        self.batches, self.context, self.dtype, self.seed = batches, context, dtype, recipe.loop.seed
        self.accumulation = recipe.loop.gradient_accumulation_steps
        self.preview: Preview | None = None
        try:
            if recipe.data.preview_samples:
                self.preview = Preview(batches, recipe.data, folder, context)
        except ValueError as error:
            warn(f"no previews of this training: {error}")

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int, should_stop: ShouldStop) -> dict[str, float] | None:
        """The mean loss over samples; each process computes its parts of the batches, as in training."""
        assert isinstance(model, LatentGenerator)
        context, total = self.context, 0.0
        parts = context.size * self.accumulation
        own = range(context.rank * self.accumulation, (context.rank + 1) * self.accumulation)
        for index, part in product(range(len(self.batches)), own):
            if should_stop():
                return None
            total += self._loss(model, (index, part, parts))
        if self.preview is not None and not should_stop():
            with torch.autocast(context.device.type, self.dtype, enabled=self.dtype != torch.float32):
                self.preview(model, step)
        return context.all_reduce_mean({"validation_loss": context.size * total / len(self.batches)})

    def _loss(self, model: LatentGenerator, key: BatchKey) -> float:
        """The loss of a part of a batch, weighted by its share of the samples."""
        batch, device = self.batches[key], self.context.device
        rows = batch["rows"].tolist()
        noise = [generator_for(self.seed, VALIDATION_STREAM, key[0], row, device=device) for row in rows]
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = float(model.loss(to_device(batch, device), noise)[0])
        return loss * len(rows) / int(batch["batch_size"])


class Preview:
    """A contact sheet of the same held-out samples at each evaluation. Raises ValueError without embedder."""

    def __init__(
        self, batches: LatentBatches, config: LatentDataConfig, folder: Path, context: DistributedContext
    ):
        manifest = batches.dataset.manifest
        batches.dataset.require_model(weights_hash(manifest.model))
        self.embedder = load(manifest.model, context.device, torch.float32)
        self.options = SampleOptions(config.preview_steps, config.preview_guidance_scale)
        self.folder, self.is_main = folder, context.is_main
        stage = batches.stages[-1]
        bucket = batches.buckets[stage, max(stage.chunks) if stage.image_share < 1 else 0][0]
        batch = batches.samples(bucket, 0, range(config.preview_samples))
        self.size = bucket.height, bucket.width
        self.condition = Condition.from_batch(batch).to(context.device)
        self.template = Latents.from_tensors(batch)

    def __call__(self, model: LatentGenerator, step: int) -> None:
        """All processes sample, because a sharded model needs them all; one decodes and writes."""
        count = len(self.template)
        generators = [generator_for(0, number) for number in range(count)]
        latents = sample(model, self.condition, self.template, generators, self.options)
        if not self.is_main:
            return
        videos = [GeneratedLatents([latents[i]], *self.size, model.latent_spec) for i in range(count)]
        self.folder.mkdir(parents=True, exist_ok=True)
        frames = ((torch.stack(list(video.decode(self.embedder))), "") for video in videos)
        write_contact_sheet(self.folder / f"step-{step:08d}.png", frames)
