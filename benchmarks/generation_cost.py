"""What generating a video costs on latents of each ratio: tokens, operations, seconds.

The argument of the paper: an embedder that stands for 33 frames by two latent frames, and not for 5, leaves
its generator about a seventh of the tokens, and of what attention does with them still less. A chunk of 1 + k
frames has 2 latent frames, at every ratio k. Latents and weights are random, which changes no cost.

Operations are those of matrix products and attention, for one video in one evaluation of the network
(regen.metrics.cost), counted on tensors without content. Times are medians over rounds; in each every
case has its turn, so that what else the machine does hits all equally.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import tyro
from report import finish, free_bytes, one_sentence_errors, use_threads
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.generate.generator import LatentGenerator, LatentSpec
from regen.generate.inputs import Condition
from regen.generate.sampling import SampleOptions, sample
from regen.generate.training import GeneratorRecipe
from regen.latents import Latents
from regen.media.pixels import Size, parse_size
from regen.metrics.cost import count_matmuls, total_flops
from regen.recipes import GENERATORS
from regen.runtime import dtype_name, generator_for, pick_device, pick_dtype, tune_malloc
from regen.train.optimizer import build_optimizers

Figures = dict[str, Any]
RATIOS = (4, 8, 16, 32)
PLACE, CHANNELS, CHUNK_LATENTS = 8, 8, 2
TEXT_TOKENS, TEXT_WIDTH = 32, 384  # of a caption, through minilm
CLASSES = 101
BYTES = 16  # of a parameter in training: itself, its gradient, two averages of the optimizer, in fp32


@dataclass(frozen=True)
class Case:
    """A video of so many frames at one size, on latents of one ratio."""

    size: Size
    frames: int
    ratio: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its latents: channels, latent frames, height, width."""
        frames = -(-self.frames // (1 + self.ratio)) * CHUNK_LATENTS
        return CHANNELS, frames, -(-self.size.height // PLACE), -(-self.size.width // PLACE)


@dataclass(frozen=True)
class Setting:
    """How time is measured."""

    steps: int
    batch: int
    repeats: int
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.repeats) < 1:
            raise ValueError("Give 1 or more as --steps, --batch and --repeats.")


def main(
    recipe: str = "t2v-world-cpu",
    ratio: tuple[int, ...] = RATIOS,
    frames: tuple[int, ...] = (33, 132),
    size: tuple[str, ...] = ("96x160", "192x320"),
    count_only: bool = False,
    steps: int = 4,
    batch: int = 1,
    repeats: int = 3,
    threads: int = 0,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Count and measure what a generator costs on latents of each ratio.

    Example: python benchmarks/generation_cost.py --frames 33 132 --size 96x160 192x320

    Args:
        recipe: The generator's, of those for generators that `regen train --help` lists.
        ratio: Frames after the first one that a chunk stands for; the others are compared with the first.
        frames: Frames of the video.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        count_only: Measure no time; for generators that don't fit here, such as t2v-5b.
        steps: Steps of sampling, without guidance; each evaluates the network once.
        batch: Videos that are sampled, or trained on, together.
        repeats: Rounds after the first one, which warms up; the median counts.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
    """
    use_threads(threads)
    tune_malloc()
    if recipe not in GENERATORS:
        raise ValueError(f"Unknown generator recipe {recipe}; use one of {', '.join(GENERATORS)}.")
    target = pick_device(device)
    setting = Setting(steps, batch, repeats, target, pick_dtype(dtype, target))
    cases = [Case(parse_size(text), count, k) for text in size for count in frames for k in ratio]
    if not cases or min(*ratio, *frames) < 1:
        raise ValueError("Give 1 or more as --ratio and --frames, and a --size.")
    results = [counted(GENERATORS[recipe], case) for case in cases]
    if not count_only:
        for result, times in zip(results, measured(GENERATORS[recipe], cases, setting), strict=True):
            result |= times
    compared(results, len(ratio))
    report(recipe, results, setting)


def generator_of(recipe: GeneratorRecipe) -> LatentGenerator:
    """The recipe's generator with random weights, for latents of any ratio."""
    by_class = recipe.data.condition == "class"
    return LatentGenerator(
        **asdict(recipe.model),
        latent_spec=asdict(
            LatentSpec(channels=CHANNELS, chunk_latents=CHUNK_LATENTS, spatial_compression_ratio=PLACE)
        ),
        classes=[str(number) for number in range(CLASSES)] if by_class else None,
        text_width=TEXT_WIDTH if recipe.data.condition == "text" else None,
    )


def make_batch(model: LatentGenerator, case: Case, count: int, device: torch.device) -> dict[str, Tensor]:
    """A training batch of noise."""
    batch = {"latents": torch.randn(count, *case.shape, device=device)}
    if model.config.classes:
        return batch | {"label": torch.zeros(count, dtype=torch.long, device=device)}
    if not model.config.text_width:
        return batch
    keep = torch.ones(count, TEXT_TOKENS, dtype=torch.bool, device=device)
    return batch | {
        "text": torch.randn(count, TEXT_TOKENS, TEXT_WIDTH, device=device),
        "text_mask": keep,
    }


def counted(recipe: GeneratorRecipe, case: Case) -> Figures:
    """Parameters, tokens and operations; nothing is computed. ValueError where patches don't fit places."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = generator_of(recipe)
        grid = model.layout.grid(*case.shape[1:])
        batch = make_batch(model, case, 1, torch.device("cpu"))
        level, condition = torch.ones(1), Condition.from_batch(batch)
        products = count_matmuls(lambda: model.velocity(Latents.of(batch["latents"]), level, condition))
    attention = sum(p.flops * count for p, count in products.items() if p.kind == "attention")
    return {
        "size": str(case.size),
        "frames": case.frames,
        "ratio": case.ratio,
        "latent_frames": case.shape[1],
        "tokens": grid[0] * grid[1] * grid[2],
        "parameters": model.num_parameters(),
        "gflop": total_flops(products) / 1e9,
        "gflop_attention": attention / 1e9,
    }


def measured(recipe: GeneratorRecipe, cases: list[Case], setting: Setting) -> list[Figures]:
    """Median seconds of sampling and of a training update, of a whole batch, for each case."""
    with torch.device("meta"):
        parameters = generator_of(recipe).num_parameters()
    free = free_bytes(setting.device)
    if free is not None and BYTES * parameters > free:
        raise ValueError(
            f"Training {parameters / 1e9:.1f} billion parameters takes {BYTES * parameters / 1e9:.0f} GB, "
            f"and {free / 1e9:.0f} GB are free; count alone, with --count-only."
        )
    model = generator_of(recipe).to(setting.device)
    optimizers = build_optimizers(model, recipe.optimizer)
    work = [
        (sampling(model, case, setting), update(model, optimizers, case, setting), case) for case in cases
    ]
    seconds: list[tuple[list[float], list[float]]] = [([], []) for _ in cases]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("rounds", total=(1 + setting.repeats) * len(cases))
        for _ in range(1 + setting.repeats):
            for (sampled, updated, _), found in zip(work, seconds, strict=True):
                for run, durations in zip((sampled, updated), found, strict=True):
                    durations.append(duration(run, setting.device))
                progress.advance(task)
    return [
        {"sampling_seconds": median(samplings[1:]), "update_seconds": median(updates[1:])}
        for samplings, updates in seconds
    ]


def sampling(model: LatentGenerator, case: Case, setting: Setting) -> Callable[[], object]:
    """All steps of sampling a batch of videos, without guidance."""
    batch = make_batch(model, case, setting.batch, setting.device)
    options = SampleOptions(setting.steps, guidance_scale=1.0)

    def run() -> object:
        with autocast(setting):
            generators = [generator_for(0, number) for number in range(setting.batch)]
            blank = Latents.of(batch["latents"])
            return sample(model.eval(), Condition.from_batch(batch), blank, generators, options)

    return run


def update(
    model: LatentGenerator, optimizers: list[torch.optim.Optimizer], case: Case, setting: Setting
) -> Callable[[], object]:
    """Loss, gradient and step on a batch of videos."""
    batch = make_batch(model, case, setting.batch, setting.device)

    def run() -> object:
        model.train()
        with autocast(setting):
            generators = [generator_for(1, row, device=setting.device) for row in range(setting.batch)]
            loss, _ = model.loss(batch, generators)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss

    return run


def autocast(setting: Setting) -> torch.autocast:
    """Mixed precision, as in training."""
    return torch.autocast(setting.device.type, setting.dtype, enabled=setting.dtype != torch.float32)


def duration(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run."""
    start = perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start


def compared(results: list[Figures], ratios: int) -> None:
    """Add how many times less each case takes than the first ratio of its size and length."""
    for number, result in enumerate(results):
        first = results[number - number % ratios]
        for name in ("tokens", "gflop", "sampling_seconds", "update_seconds"):
            if name in result:
                result[f"{name}_saved"] = first[name] / result[name]


def report(recipe: str, results: list[Figures], setting: Setting) -> None:
    """Table and JSON line."""

    def cell(result: Figures, name: str, form: str) -> str:
        if name not in result:
            return "-"
        return f"{result[name]:{form}} ({result[f'{name}_saved']:.1f}x)"

    parameters = results[0]["parameters"]
    finish(
        f"{recipe}, {parameters / 1e6:.1f} million parameters: operations of one evaluation for a video; "
        f"{setting.steps} steps of sampling and one training update, both of {setting.batch}; in brackets "
        f"how many times less than at {results[0]['ratio']}x",
        ["video", "latents", "tokens", "GFLOP", "sampling (s)", "update (s)"],
        [
            [
                f"{result['frames']} of {result['size']}, {result['ratio']}x",
                str(result["latent_frames"]),
                cell(result, "tokens", ""),
                cell(result, "gflop", ",.1f"),
                cell(result, "sampling_seconds", ".2f"),
                cell(result, "update_seconds", ".2f"),
            ]
            for result in results
        ],
        {
            "benchmark": "generation_cost",
            "recipe": recipe,
            "steps": setting.steps,
            "batch": setting.batch,
            "repeats": setting.repeats,
            "dtype": dtype_name(setting.dtype),
            "cases": results,
        },
        setting.device,
    )


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
