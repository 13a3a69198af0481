"""The kinds of updates of a training: batches without content, and their shares of the run."""

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from regen.corpus.dataset import LatentDataset
from regen.data.batches import TASK_STREAM
from regen.data.tasks import draw_task
from regen.embedders.frozen_encoder import FrozenEncoder, networks_of
from regen.embedders.regen_decoder import RegenDecoder, RegenDecoderConfig
from regen.generate.generator import LatentGenerator, LatentSpec
from regen.generate.training import GeneratorRecipe
from regen.metrics.cost import count_matmuls, total_flops
from regen.runtime import generator_for
from regen.tiling import LATENT_STRIDE
from regen.train.finetune import freeze_parts
from regen.train.latent_source import spans
from regen.train.recipe import Recipe, build_model, group_of
from regen.train.throughput import SAMPLE_KEYS

AnyRecipe = Recipe | GeneratorRecipe

DRAWS = 2000  # updates of a run whose tasks are drawn, at equal distances
# What a generator's recipe leaves open: latents of REGEN at 32× or, without patches, of One-DVA; conditions.
REGEN_LATENTS = LatentSpec(channels=8, chunk_frames=33, chunk_latents=2, spatial_compression_ratio=8)
ONE_DVA_LATENTS = LatentSpec(
    channels=32, chunk_frames=17, chunk_latents=5, spatial_compression_ratio=16, has_sequence=True,
    num_queries=5 * 16 * 29,
)  # fmt: skip
VIDEO_SIZE = (192, 320)
TEXT_TOKENS, TEXT_WIDTH, NUM_CLASSES = 128, 4096, 101


@dataclass(frozen=True)
class Update:
    """A kind of update: the tensors of one sample, the samples of all processes, its share of the run."""

    work: str
    samples: int
    share: float
    tokens: int
    example: dict[str, Tensor]

    @property
    def frames(self) -> int:
        """Frames, or latent frames, of one sample that the model reads."""
        clip_or_latents = next(iter(self.example.values()))
        return clip_or_latents.shape[2]

    def batch(self, samples: int) -> dict[str, Tensor]:
        """A batch without content, inside of fake mode."""
        return {
            name: torch.zeros((samples, *x.shape[1:]) if name in SAMPLE_KEYS else x.shape, dtype=x.dtype)
            for name, x in self.example.items()
        }


def build(recipe: AnyRecipe) -> nn.Module:
    """The model of a recipe; a generator for the latents of `latents_of`."""
    if isinstance(recipe, Recipe):
        model = build_model(recipe.model)
        if isinstance(model, RegenDecoder):
            model.attach_encoder(FrozenEncoder(None, "planned", model.space))
        freeze_parts(model, recipe.init.freeze)
        return model
    condition = recipe.data.condition
    return LatentGenerator(
        **asdict(recipe.model),
        latent_spec=asdict(latents_of(recipe)),
        classes=[str(i) for i in range(NUM_CLASSES)] if condition == "class" else None,
        text_width=TEXT_WIDTH if condition == "text" else None,
    )


def latents_of(recipe: GeneratorRecipe) -> LatentSpec:
    """The latents that a generator's training is planned for."""
    return ONE_DVA_LATENTS if recipe.model.patch_size == 1 else REGEN_LATENTS


def assumptions(recipe: AnyRecipe, exported: LatentDataset | None = None, encodes: bool = False) -> str:
    """What is assumed of what a recipe leaves open; "" for most embedders."""
    model = recipe.model
    if isinstance(model, RegenDecoderConfig):
        latents = f"latents of {model.latent_channels} channels at 1/{model.spatial_compression_ratio}"
        if exported is not None:
            return f"{latents} from {exported.folder}; no encoder runs"
        if encodes:
            return f"{latents} of {model.encoder}, whose memory is not counted"
        return f"{latents}; the work and memory of their encoder are not counted"
    if isinstance(recipe, Recipe):
        return ""
    spec, sizes = latents_of(recipe), {size for stage in recipe.data.stages for size in stage.sizes}
    name = "One-DVA, with all 1D latents" if spec.has_sequence else "REGEN at 32x"
    size = "" if sizes else f" of {VIDEO_SIZE[0]} x {VIDEO_SIZE[1]} pixels"
    conditions = {"text": f", texts of width {TEXT_WIDTH}", "class": f", {NUM_CLASSES} classes"}
    return (
        f"latents of {name}, {spec.channels} channels{size}{conditions.get(recipe.data.condition or '', '')}"
    )


def build_without_content(recipe: AnyRecipe) -> nn.Module:
    """The model of a recipe without content."""
    with torch.device("meta"):
        return build(recipe)


def list_updates(recipe: AnyRecipe, exported: LatentDataset | None = None) -> list[Update]:
    """The kinds of updates of a training; of a decoder perhaps on latents that were exported."""
    return embedder_updates(recipe, exported) if isinstance(recipe, Recipe) else generator_updates(recipe)


def _learned(recipe: Recipe, inputs: int, decoded: int) -> int:
    """Frames of a clip that an update decodes: those of some groups of a decoder, or all `decoded` ones."""
    if inputs == 1 or not isinstance(recipe.model, RegenDecoderConfig):
        return decoded
    return recipe.model.groups_per_clip * recipe.model.temporal_compression_ratio


def _encoded(
    recipe: Recipe, frames: int, height: int, width: int, exported: LatentDataset | None
) -> dict[str, Tensor]:
    """A clip to encode, or its exported latents."""
    if exported is None or not isinstance(recipe.model, RegenDecoderConfig):
        return {"clip": torch.empty(1, 3, frames, height, width, device="meta")}
    side, ratio = recipe.model.spatial_compression_ratio, recipe.model.temporal_compression_ratio
    shape = recipe.model.latent_channels, 1 + (frames - 1) // ratio, height // side, width // side
    return {"latents": torch.empty(1, *shape, device="meta")}


def embedder_updates(recipe: Recipe, exported: LatentDataset | None = None) -> list[Update]:
    """The kinds of updates of an embedder's training, from tasks drawn as the run draws them."""
    span, _ = spans(recipe, cast(Any, build_without_content(recipe)).chunk_frames, exported)
    steps = recipe.loop.steps
    shares: defaultdict[tuple[int, int, int, int, int], float] = defaultdict(float)
    draws = range(0, steps, max(1, steps // DRAWS))
    for step in draws:
        generator = generator_for(recipe.loop.seed, TASK_STREAM, step)
        task = draw_task(span, step / steps, recipe.tasks, generator, group=group_of(recipe))
        decoded = min(len(task.targets), recipe.tasks.decoded_frames or len(task.targets))
        stage = next(stage for stage in recipe.data.stages if step / steps < stage.until)
        for size in stage.sizes(task):  # as if media of all aspect ratios were equally frequent
            key = stage.batch_size(task, span), len(task.inputs), decoded, *size
            shares[key] += 1 / len(draws) / len(stage.sizes(task))
    return [
        Update(
            f"{samples} clips of {inputs} frames, {decoded} decoded, {height} x {width}" if inputs > 1
            else f"{samples} images of {height} x {width}",
            samples,
            share,
            _learned(recipe, inputs, decoded) * (height // LATENT_STRIDE) * (width // LATENT_STRIDE),
            _encoded(recipe, inputs, height, width, exported) | {
                "target": torch.empty(1, 3, decoded, height, width, device="meta"),
                "times": torch.empty(decoded, device="meta"),
            },
        )
        for (samples, inputs, decoded, height, width), share in shares.items()
    ]  # fmt: skip


def encoder_tflop(encoder: Any, updates: list[Update]) -> float:
    """Operations, in TFLOP, of a frozen encoder in a mean update; its weights lose their content."""
    for network in networks_of(encoder):
        network.to("meta")
    total = 0.0
    for update in updates:
        clip = update.example["clip"].to(encoder.dtype)
        flops = total_flops(count_matmuls(partial(encoder.encode, clip)))
        total += update.share * update.samples * flops
    return total / 1e12


def generator_updates(recipe: GeneratorRecipe) -> list[Update]:
    """The kinds of updates of a generator's training, on the latents of `latents_of`."""
    spec = latents_of(recipe)
    condition: dict[str, Tensor] = {}
    if recipe.data.condition == "class":
        condition = {"label": torch.empty(1, dtype=torch.long, device="meta")}
    elif recipe.data.condition == "text":
        length = recipe.data.max_text_tokens or TEXT_TOKENS
        condition = {
            "text": torch.empty(1, length, TEXT_WIDTH, device="meta"),
            "text_mask": torch.empty(1, length, dtype=torch.bool, device="meta"),
        }
    updates, begin = [], 0.0
    for stage in recipe.data.stages:
        sizes, videos = stage.sizes or (VIDEO_SIZE,), spec.chunk_latents
        kinds = [(1, stage.image_share)]
        kinds += [(videos * number, (1 - stage.image_share) / len(stage.chunks)) for number in stage.chunks]
        for frames, share in kinds:
            for height, width in sizes:
                grid = [-(-side // spec.spatial_compression_ratio) for side in (height, width)]
                positions = frames * math.prod(grid)
                samples = max(1, round(stage.tokens_per_batch / positions))
                what = "images" if frames == 1 else f"videos of {frames} latent frames"
                example = {
                    "latents": torch.empty(1, spec.channels, frames, *grid, device="meta"),
                    **condition,
                }
                if spec.has_sequence:
                    example["sequence"] = torch.empty(1, spec.channels, positions, device="meta")
                    example["lengths"] = torch.full((1, -(-frames // videos)), positions, device="meta")
                tokens = positions * (1 + spec.has_sequence)
                work = f"{samples} {what}, {height} x {width}"
                share_of_size = share * (stage.until - begin) / len(sizes)
                updates.append(Update(work, samples, share_of_size, tokens, example))
        begin = stage.until
    return [update for update in updates if update.share > 0]
