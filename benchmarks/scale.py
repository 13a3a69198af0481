"""What a training costs, by its recipe: operations, memory of each GPU, days, data read; nothing is run.

Operations are counted as the training log counts them (regen.train.throughput), on tensors without content.
Memory is what the code keeps of each parameter, and the peak of one pass (training_memory.py). Time
follows from the operations and an assumed model FLOPs utilisation (MFU); the peak of a GPU is that of its
data sheet.

Not counted: perceptual and adversarial losses, except the discriminator's own state; the memory of CUDA
itself, of NCCL and of work space in kernels, and what the allocator can't use; evaluations and checkpoints.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
import tyro
from report import finish, one_sentence_errors, show_table
from training_memory import FP32, MOMENTS, Work, parameters_of, pass_bytes, state_bytes

from regen.data.tasks import TASK_STREAM, draw_task
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.regen import AutoencoderRegen
from regen.networks.discriminator import PatchDiscriminator
from regen.recipes import RECIPES
from regen.runtime import generator_for
from regen.train.throughput import PEAK_TFLOPS, ThroughputMeter
from regen.train.trainer import Recipe, build_model

Names = tyro.conf.UseAppendAction[tuple[str, ...]]
Numbers = tyro.conf.UseAppendAction[tuple[int, ...]]
Figures = dict[str, Any]
Model = AutoencoderRegen | AutoencoderMagvit2

PAPER = tuple(f"{family}-{ratio}x" for family in ("regen", "magvit2") for ratio in (4, 8, 16, 32))
CHIPS = {"A100": 80, "H100": 80, "H200": 141}  # GB of memory by the data sheet
SHOWN = ("A100", "H100")  # an H200 has the peak of an H100
KINDS = ("plain", "checkpointed")  # how a pass treats activations
DRAWS = 2000  # updates of a run whose tasks are drawn, at equal distances


@dataclass(frozen=True)
class Setting:
    """What is assumed of machines and data."""

    gpus: tuple[int, ...]
    parts: int
    mfu: float
    clip_seconds: float
    megabits: float
    image_kilobytes: float

    def __post_init__(self) -> None:
        if min(self.gpus) < 1 or self.parts < 1 or not 0 < self.mfu <= 1:
            raise ValueError("Give 1 or more as --gpus and --parts, and an --mfu above 0 and up to 1.")


def main(
    recipe: Names = (),
    gpus: Numbers = (),
    parts: int = 32,
    mfu: float = 0.4,
    clip_seconds: float = 10.0,
    megabits: float = 4.0,
    image_kilobytes: float = 200.0,
) -> None:
    """Count what the trainings of the paper cost.

    Example: python benchmarks/scale.py --recipe regen-4x --gpus 8 --gpus 64

    Args:
        recipe: A name that `regen train --help` lists; repeat it for several. By default the paper's.
        gpus: How many train together; repeat it for several. By default 8 and 32.
        parts: Into how many parts a batch is divided: GPUs times --loop.gradient-accumulation-steps. The
            paper's 32 GPUs had one each.
        mfu: Share of the peak that the model's operations reach; what activation checkpointing computes again
            comes on top.
        clip_seconds: Mean length of the videos in the shards; each is read whole for a clip.
        megabits: Their mean rate, in Mbit/s.
        image_kilobytes: Mean size of the images.
    """
    setting = Setting(gpus or (8, 32), parts, mfu, clip_seconds, megabits, image_kilobytes)
    unknown = next((name for name in recipe if name not in RECIPES), None)
    if unknown is not None:
        raise ValueError(f"Unknown recipe {unknown}; use one of {', '.join(RECIPES)}.")
    report({name: counted(RECIPES[name], setting) for name in recipe or PAPER}, setting)


def counted(recipe: Recipe, setting: Setting) -> Figures:
    """All figures of one recipe."""
    with torch.device("meta"):
        model = build_model(recipe.model)
    shares = drawn(recipe, model.chunk_frames - 1)
    smallest = min(work.samples for work in shares)
    if smallest < setting.parts:
        raise ValueError(f"A batch of {smallest} can't be divided into {setting.parts}; give fewer --parts.")
    figures = operations(model, recipe, shares, setting) | memory(model, recipe, shares, setting)
    return figures | times(recipe, shares, setting, figures["tflop"])


def drawn(recipe: Recipe, span: int) -> dict[Work, float]:
    """The kinds of updates with their shares of the run, from updates as the run draws them."""
    steps = recipe.loop.steps
    chosen = range(0, steps, max(1, steps // DRAWS))
    counts: Counter[Work] = Counter()
    for step in chosen:
        progress = step / steps
        generator = generator_for(recipe.loop.seed, TASK_STREAM, step)
        task = draw_task(span, progress, recipe.tasks, generator)
        stage = next(stage for stage in recipe.data.stages if progress < stage.until)
        frames = len(task.inputs), len(task.targets)
        counts[Work(stage.batch_size(task, span), *frames, *stage.crop_size(task))] += 1
    return {work: count / len(chosen) for work, count in counts.items()}


def operations(model: Model, recipe: Recipe, shares: dict[Work, float], setting: Setting) -> Figures:
    """Tokens and TFLOP of an update, mean over the run, and of the whole run."""
    meter = ThroughputMeter(model, torch.device("meta"), processes=1)
    tflop = mean_over(shares, {work: tflop_of(meter, work) for work in shares})
    tokens = mean_over(shares, {work: work.tokens for work in shares})
    return {
        "steps": recipe.loop.steps,
        "clips": max((work.samples for work in shares if work.inputs > 1), default=0),
        "images": max((work.samples for work in shares if work.inputs == 1), default=0),
        "tokens": tokens,
        "tokens_per_part": tokens / setting.parts,
        "tflop": tflop,
        "tflop_per_part": tflop / setting.parts,
        "exaflop": tflop * recipe.loop.steps / 1e6,
    }


def tflop_of(meter: ThroughputMeter, work: Work) -> float:
    """Of one update, forward and backward."""
    meter.restart_clock()
    batch = {name: torch.empty(shape, device="meta") for name, shape in work.shapes().items()}
    meter.add(batch, waited_seconds=0.0)
    rates = meter.report()
    return work.tokens * rates["tflops_per_second"] / rates["tokens_per_second"]


def mean_over(shares: dict[Work, float], values: dict[Work, float]) -> float:
    """The mean over the updates of a run of what each kind of update has."""
    return sum(share * values[work] for work, share in shares.items())


def memory(model: Model, recipe: Recipe, shares: dict[Work, float], setting: Setting) -> Figures:
    """Parameters, and GB of a GPU: its state, the peak of a pass over one part of a batch, and both."""
    parameters, other = parameters_of(model), discriminator_parameters(recipe)
    own = FP32 * (2 + MOMENTS) * other  # the discriminator's gradient, too; it is whole in every process
    state = {variant: size + own for variant, size in state_bytes(model, setting.gpus).items()}
    passes: dict[str, float] = {
        f"{variant}-{kind}": max(
            pass_bytes(recipe.model, work.part(setting.parts), kind == "checkpointed", dtype)
            for work in shares
        )
        for variant, dtype in (("ddp", torch.float32), ("fsdp", torch.bfloat16))
        for kind in KINDS
    }
    both = {
        f"{variant}-{kind}": size + passes[f"{variant.partition('-')[0]}-{kind}"]
        for variant, size in state.items()
        for kind in KINDS
    }
    everything = {"state_gb": state, "pass_gb": passes, "needed_gb": both}
    return {
        "encoder_parameters": parameters_of(model.encoder),
        "decoder_parameters": parameters - parameters_of(model.encoder),
        "discriminator_parameters": other,
        "checkpoint_gb": FP32 * ((2 + MOMENTS) * parameters + (1 + MOMENTS) * other) / 1e9,
        **{name: {key: size / 1e9 for key, size in part.items()} for name, part in everything.items()},
    }


def discriminator_parameters(recipe: Recipe) -> int:
    """Those of the adversarial loss, where there is one."""
    config = recipe.losses.adversarial
    if config.weight == 0:
        return 0
    with torch.device("meta"):
        return parameters_of(PatchDiscriminator(config.width, config.multipliers))


def times(recipe: Recipe, shares: dict[Work, float], setting: Setting, tflop: float) -> Figures:
    """GPU hours and days for all updates, and what is read in a second, for each kind of GPU."""
    clips = mean_over(shares, {work: work.samples * (work.inputs > 1) for work in shares})
    images = mean_over(shares, {work: work.samples * (work.inputs == 1) for work in shares})
    megabytes = clips * setting.clip_seconds * setting.megabits / 8 + images * setting.image_kilobytes / 1e3
    hours, figures = {}, {}
    for chip in CHIPS:
        seconds = tflop / (PEAK_TFLOPS[chip] * setting.mfu)  # of one GPU for an update
        hours[chip] = seconds * recipe.loop.steps / 3600
        figures[chip] = {
            str(count): {
                "seconds_per_update": seconds / count,
                "days": hours[chip] / count / 24,
                "samples_per_second": (clips + images) * count / seconds,
                "megabytes_per_second": megabytes * count / seconds,
            }
            for count in setting.gpus
        }
    return {"gpu_hours": hours, "times": figures}


def show_updates(results: dict[str, Figures], setting: Setting) -> None:
    """Parameters and operations."""
    show_table(
        f"One update, mean over the run, and all updates; a part is 1 / {setting.parts} of a batch",
        [
            *("recipe", "parameters (M)", "clips", "images", "tokens", "TFLOP"),
            *("of a part: tokens", "TFLOP", "updates", "EFLOP in all"),
        ],
        [
            [
                name,
                f"{one['encoder_parameters'] / 1e6:.0f} + {one['decoder_parameters'] / 1e6:.0f}",
                str(one["clips"]),
                str(one["images"]),
                f"{one['tokens']:,.0f}",
                f"{one['tflop']:,.0f}",
                f"{one['tokens_per_part']:,.0f}",
                f"{one['tflop_per_part']:,.1f}",
                f"{one['steps']:,}",
                f"{one['exaflop']:,.0f}",
            ]
            for name, one in results.items()
        ],
    )


def show_memory(results: dict[str, Figures], setting: Setting) -> None:
    """What lies on each GPU, with the GPUs that have room for it."""
    variants = ["ddp", *(f"fsdp-{count}" for count in setting.gpus)]
    rows = []
    for name, one in results.items():
        for kind in KINDS:
            row = [name, kind, f"{one['pass_gb'][f'fsdp-{kind}']:.1f}"]
            row += [f"{one['state_gb'][variant]:.1f}" for variant in variants]
            row += [room(one["needed_gb"][f"{variant}-{kind}"]) for variant in variants]
            rows.append([*row, f"{one['checkpoint_gb']:.1f}"])
    show_table(
        "GB on a GPU: activations of a pass, state, and both (with the smallest memory that they fit into)",
        ["recipe", "activations", "a pass", *variants, *(f"all: {one}" for one in variants), "checkpoint"],
        rows,
    )


def room(needed: float) -> str:
    """The GB that are needed, and the memory of the smallest GPU that has them."""
    sizes = sorted({size for size in CHIPS.values() if size >= needed})
    return f"{needed:.0f} ({sizes[0] if sizes else 'none'})"


def report(results: dict[str, Figures], setting: Setting) -> None:
    """Tables for people and the JSON line."""
    show_updates(results, setting)
    show_memory(results, setting)
    columns = [(chip, str(count)) for chip in SHOWN for count in setting.gpus]
    chip, count = columns[-1]
    finish(
        f"Time at an MFU of {100 * setting.mfu:.0f} %, and data that {count} {chip} then read",
        [
            *("recipe", *(f"{chip}-hours" for chip in SHOWN)),
            *(f"days on {count} {chip}" for chip, count in columns),
            *("samples/s", "MB/s"),
        ],
        [
            [
                name,
                *(f"{one['gpu_hours'][chip]:,.0f}" for chip in SHOWN),
                *(f"{one['times'][chip][count]['days']:.1f}" for chip, count in columns),
                f"{one['times'][chip][count]['samples_per_second']:,.0f}",
                f"{one['times'][chip][count]['megabytes_per_second']:,.0f}",
            ]
            for name, one in results.items()
        ],
        {"benchmark": "scale", "setting": asdict(setting), "recipes": results},
        torch.device("cpu"),
    )


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
