"""Plan of a training: operations, days, and memory of every phase."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from regen.console import OnProgress
from regen.corpus.dataset import LatentDataset
from regen.embedders.regen_decoder import RegenDecoderConfig
from regen.recipes.memory import auxiliary_of, codec_bytes, count, pass_bytes
from regen.recipes.updates import (
    AnyRecipe,
    Update,
    assumptions,
    build_without_content,
    encoder_tflop,
    list_updates,
)
from regen.train.distributed import Trainable
from regen.train.latent_statistics import STATISTICS_BATCH
from regen.train.recipe import Recipe
from regen.train.throughput import PEAK_TFLOPS, ThroughputMeter

FP32, BF16 = 4, 2  # bytes of a number
MOMENTS = 2  # that AdamW keeps of each parameter
DECODED_SIDES = (256, 512)
EXPORT_BATCH = 8  # chunks, the default of `regen latents export`
EMBEDDER_PHASES, DECODER_PHASES, GENERATOR_PHASES = 7, 5, 4


@dataclass(frozen=True)
class Hardware:
    """The GPUs that a training is planned for."""

    gpus: int = 8
    memory: int = 80_000_000_000
    """Bytes of each GPU."""
    gpu: str = "H100"
    utilisation: float = 0.4
    """Model FLOPs utilisation (MFU): share of the GPU's bf16 peak that the model's operations reach."""
    reserve: float = 0.1
    """Share of the memory for CUDA, NCCL, workspace of kernels and fragmentation."""

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.memory <= 0:
            raise ValueError(f"gpus and memory must be positive, got {self.gpus} and {self.memory}.")
        if not 0 < self.utilisation <= 1 or not 0 <= self.reserve < 1:
            raise ValueError(
                f"utilisation must lie in (0, 1] and reserve in [0, 1), got {self.utilisation} and "
                f"{self.reserve}."
            )
        if self.gpu not in PEAK_TFLOPS:
            raise ValueError(f"gpu must be one of {', '.join(PEAK_TFLOPS)}, got {self.gpu}.")


@dataclass(frozen=True)
class Phase:
    """Bytes on each GPU in one phase of a training, and what to change where they are too many."""

    name: str
    work: str
    state: int
    """Weights, gradients, moments and averages that this phase holds."""
    activations: int
    advice: str = ""
    is_tiled: bool = False
    """Whether the work is done in tiles where there is less memory."""

    @property
    def bytes(self) -> int:
        return self.state + self.activations

    def fits(self, hardware: Hardware) -> bool:
        return (self.state if self.is_tiled else self.bytes) <= (1 - hardware.reserve) * hardware.memory

    def verdict(self, hardware: Hardware) -> str:
        if not self.fits(hardware):
            return f"TOO LARGE: {self.advice}"
        return "fits" if replace(self, is_tiled=False).fits(hardware) else "fits in tiles"


@dataclass(frozen=True)
class Plan:
    """What a training costs: means over its updates, and the memory of its phases."""

    parameters: dict[str, int]
    steps: int
    samples: float
    tokens: float
    tflop: float
    """Operations of an update, forward and backward, without what activation checkpointing recomputes."""
    phases: tuple[Phase, ...]
    updates: tuple[Update, ...]
    assumes: str
    encoder_tflop: float = 0.0
    """Operations of a frozen encoder in an update, besides."""

    def days(self, hardware: Hardware) -> float:
        rate = PEAK_TFLOPS[hardware.gpu] * hardware.utilisation * hardware.gpus
        return (self.tflop + self.encoder_tflop) * self.steps / rate / 86_400

    def fits(self, hardware: Hardware) -> bool:
        return all(phase.fits(hardware) for phase in self.phases)


def plan(
    recipe: AnyRecipe,
    hardware: Hardware,
    on_progress: OnProgress = lambda done, total: None,
    exported: LatentDataset | None = None,
    encoder: Any = None,
) -> Plan:
    """The plan of a recipe, of a decoder on `exported` latents or with an `encoder` whose weights it drops.

    Nothing is computed, and no data are read.
    Memory is that of tensors without content (`regen.metrics.memory`), with the types of bf16 autocast on a
    GPU. Raises ValueError when the batch can't be divided among the GPUs.
    """
    updates = list_updates(recipe, exported)
    parts = parts_of(recipe, hardware)
    if (smallest := min(updates, key=lambda update: update.samples)).samples < parts:
        raise ValueError(
            f"The smallest batch ({smallest.work}) must have at least {parts} samples (GPUs x accumulation "
            f"steps), got {smallest.samples}; use fewer of either."
        )
    model = build_without_content(recipe)
    meter = ThroughputMeter(model, torch.device("meta"), processes=1)
    total = len(updates) + count_of_phases(recipe)
    flops: dict[int, float] = {}
    for done, update in enumerate(updates, 1):
        flops[id(update)] = meter.flops(update.example)
        on_progress(done, total)
    found = []
    for done, phase in enumerate(phases(recipe, model, updates, hardware), len(updates) + 1):
        found.append(phase)
        on_progress(done, total)
    return Plan(
        parameters={name: count(part) for name, part in model.named_children() if count(part)},
        steps=recipe.loop.steps,
        samples=sum(update.share * update.samples for update in updates),
        tokens=sum(update.share * update.samples * update.tokens for update in updates),
        tflop=sum(update.share * update.samples * flops[id(update)] for update in updates) / 1e12,
        phases=tuple(found),
        updates=tuple(updates),
        assumes=assumptions(recipe, exported, encoder is not None),
        encoder_tflop=0.0 if encoder is None else encoder_tflop(encoder, updates),
    )


def count_of_phases(recipe: AnyRecipe) -> int:
    if not isinstance(recipe, Recipe):
        return GENERATOR_PHASES
    return DECODER_PHASES if isinstance(recipe.model, RegenDecoderConfig) else EMBEDDER_PHASES


def phases(recipe: AnyRecipe, model: nn.Module, updates: list[Update], hardware: Hardware) -> Iterator[Phase]:
    """Training, evaluation, statistics of the latents, saving, and use of the finished model."""
    training = training_phase(recipe, model, updates, hardware)
    if not training.fits(hardware):
        training = replace(training, advice=find_remedy(recipe, model, updates, hardware))
    yield training
    resting = state_bytes(recipe, model, hardware.gpus, moments=MOMENTS)
    average = state_bytes(recipe, model, hardware.gpus, copies=1)
    if isinstance(recipe, Recipe):
        yield from embedder_phases(recipe, model, resting, average, is_sharded(recipe, hardware.gpus))
    else:
        update = max(updates, key=lambda update: update.samples * update.tokens)
        samples = math.ceil(update.samples / (hardware.gpus * recipe.loop.gradient_accumulation_steps))
        needed = pass_bytes(recipe, update, samples, is_sharded(recipe, hardware.gpus), backward=False)
        yield Phase(
            "evaluation", f"{samples} samples", resting, needed, "use more GPUs or accumulation steps"
        )
        used = pass_bytes(recipe, update, 2, sharded=True, backward=False)
        yield Phase(
            "generating", "a video with guidance, in bf16", BF16 * count(model), used, "use a larger GPU"
        )
    largest = max(parameter.numel() for parameter in model.parameters())
    yield Phase(
        "saving",
        "a whole tensor; the CPU holds all of them",
        average,
        FP32 * largest,
        "use more GPUs, with --loop.fsdp",
    )


def embedder_phases(
    recipe: Recipe, model: nn.Module, resting: int, average: int, sharded: bool
) -> Iterator[Phase]:
    """Evaluation and statistics during training; export of latents and decoding with the finished model.

    A decoder of others' latents has neither statistics nor an export.
    """
    stage, frames, half = recipe.data.stages[-1], cast(Any, model).chunk_frames, BF16 * count(model)
    size = stage.height, stage.width
    finished = replace(recipe, loop=replace(recipe.loop, mixed_precision="bf16"))  # as it is used
    text = f"{frames} frames of {stage.height} x {stage.width}"
    yield Phase(
        "evaluation", text, resting, codec_bytes(recipe, 1, frames, size, sharded, decode=True),
        "use smaller crops in the last stage" + ("" if sharded else ", or --loop.fsdp"),
    )  # fmt: skip
    if not isinstance(recipe.model, RegenDecoderConfig):
        yield Phase(
            "statistics", f"{STATISTICS_BATCH} clips of {text}", average,
            codec_bytes(recipe, STATISTICS_BATCH, frames, size, sharded, decode=False),
            "use smaller crops in the last stage",
        )  # fmt: skip
        yield Phase(
            "export", f"{EXPORT_BATCH} chunks of {text}", half,
            codec_bytes(finished, EXPORT_BATCH, frames, size, sharded=False, decode=False, is_finished=True),
            "use regen latents export --batch 1",
        )  # fmt: skip
    for side in DECODED_SIDES:
        needed = codec_bytes(finished, 1, frames, (side, side), sharded=False, decode=True, is_finished=True)
        yield Phase(
            "decoding", f"{frames} frames of {side} x {side}", half, needed, "use a larger GPU", is_tiled=True
        )


def training_phase(recipe: AnyRecipe, model: nn.Module, updates: list[Update], hardware: Hardware) -> Phase:
    """Forward and backward of the update that needs most: one of the largest for each number of frames."""
    parts, sharded = parts_of(recipe, hardware), is_sharded(recipe, hardware.gpus)
    by_size = sorted(updates, key=lambda update: update.samples * update.tokens)
    largest = {update.frames: update for update in by_size}
    passes = [
        (pass_bytes(recipe, update, math.ceil(update.samples / parts), sharded), update.work)
        for update in largest.values()
    ]
    needed, work = max(passes)
    return Phase(
        "training", work, state_bytes(recipe, model, hardware.gpus, moments=MOMENTS, gradients=True), needed
    )


def find_remedy(recipe: AnyRecipe, model: nn.Module, updates: list[Update], hardware: Hardware) -> str:
    """The options with which training fits: checkpointing, sharding, and as few parts as possible."""
    loop = replace(recipe.loop, activation_checkpointing=True, fsdp=hardware.gpus > 1)
    names = {"activation_checkpointing": "--loop.activation-checkpointing", "fsdp": "--loop.fsdp"}
    options = [name for field, name in names.items() if getattr(loop, field) > getattr(recipe.loop, field)]
    smallest = min(update.samples for update in updates)
    while True:
        changed = replace(recipe, loop=loop)
        if training_phase(changed, model, updates, hardware).fits(hardware):
            more = loop.gradient_accumulation_steps > recipe.loop.gradient_accumulation_steps
            options += [f"--loop.gradient-accumulation-steps {loop.gradient_accumulation_steps}"] * more
            return "use " + " ".join(options)
        loop = replace(loop, gradient_accumulation_steps=2 * loop.gradient_accumulation_steps)
        if hardware.gpus * loop.gradient_accumulation_steps > smallest:
            return "use more GPUs, or smaller crops"


def parts_of(recipe: AnyRecipe, hardware: Hardware) -> int:
    """Into how many parts a batch is divided."""
    return hardware.gpus * recipe.loop.gradient_accumulation_steps


def is_sharded(recipe: AnyRecipe, gpus: int) -> bool:
    return recipe.loop.fsdp and gpus > 1


def state_bytes(
    recipe: AnyRecipe, model: nn.Module, gpus: int, copies: int = 2, moments: int = 0, gradients: bool = False
) -> int:
    """Bytes of the state on each GPU: `copies` of all parameters (model, average), `moments` of the trained
    ones and their `gradients`, in fp32, and what DDP or FSDP2 add.

    DDP: the gradients once more, in buckets. FSDP2: a share of all; two blocks gathered in bf16; the gradient
    of one in bf16 and, to be summed, in fp32. Networks of auxiliary losses are whole in every process.
    """
    own, trained, buckets = count(model), count(model, trained=True), gradients and gpus > 1
    numbers = own * copies + trained * (moments + gradients)
    other = 0
    if isinstance(recipe, Recipe) and (auxiliary := auxiliary_of(recipe)) is not None and copies > 1:
        for network in auxiliary.networks():
            other += FP32 * (count(network) + count(network, trained=True) * (moments + gradients))
    if not is_sharded(recipe, gpus):
        return FP32 * (numbers + trained * buckets) + other
    blocks = [count(block) for block in outermost_blocks(model)]
    rest, largest = own - sum(blocks), max(blocks)
    gathered = BF16 * (rest + 2 * largest) + gradients * (BF16 + FP32) * max(rest, largest)
    return FP32 * numbers // gpus + gathered + other


def outermost_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks that FSDP shards one by one; of a block inside another, as in MMDiT, the outer one."""
    names, inside = cast(Trainable, model)._no_split_modules, set[nn.Module]()
    for module in model.modules():  # outer ones first
        if type(module).__name__ in names and module not in inside:
            inside.update(module.modules())
            yield module
