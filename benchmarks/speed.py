"""How fast models encode and decode, the operations that takes, and how near that is to the machine's limit.

Timed is the model alone, on noise: no session, no 8-bit frames, no video file. Operations are those of
matrix products, convolutions and attention (regen.metrics.cost). The peak is the rate of the best square
matrix product in the same precision, measured before and after. A model can't reach it where its own products
are small or narrow, so these are timed, too, one by one as plain matrix products. "of products" is the time
that they take alone over the time of the model, which is also the model's share of the peak over theirs:
100 % is a model that does nothing but its products, each as fast as the machine can.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import torch
import tyro
from report import finish, free_bytes, one_sentence_errors, show_table, use_threads
from timing import best_rate, products_seconds, seconds, times_by_kind
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.embedders.regen import AutoencoderRegen
from regen.media.pixels import Size, parse_size
from regen.metrics.cost import MatMuls, count_matmuls, total_flops
from regen.pretrained.listing import DEFAULT_MODEL
from regen.pretrained.models import Autoencoder, load
from regen.recipes import RECIPES
from regen.runtime import dtype_name, generator_for, pick_device, pick_dtype, tune_malloc

Names = tyro.conf.UseAppendAction[tuple[str, ...]]
Figures = dict[str, Any]
PATCH = 8  # pixels; sides are rounded up to multiples, as sessions do


@dataclass(frozen=True)
class Setting:
    """What is done, and where."""

    size: Size
    steps: int
    batch: int
    repeats: int
    compile: bool
    profile: bool
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if min(self.repeats, self.batch, self.steps) < 1:
            raise ValueError("Give 1 or more as --repeats, --batch and --steps.")

    def __str__(self) -> str:
        steps = f"{self.steps} step{'s' * (self.steps > 1)}"
        together = f", {self.batch} chunks at once" * (self.batch > 1) + ", compiled" * self.compile
        return f"{self.size}, {steps}, {dtype_name(self.dtype)}{together}"


def main(
    model: Names = (),
    preset: Names = (),
    size: str = "256",
    steps: int = 1,
    batch: int = 1,
    repeats: int = 12,
    compile: bool = False,
    profile: bool = False,
    count: bool = False,
    threads: int = 2,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure encoding and decoding speed; nothing else should run on the machine.

    Example: python benchmarks/speed.py --model linear-4x --model regen-small-4x --threads 2

    Args:
        model: A name from `regen models` or a folder; repeat it to compare models.
        preset: A recipe that `regen train --help` lists, with random weights; repeat it to compare.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        steps: Denoising steps of the decoder.
        batch: Chunks that go through the model together.
        repeats: Looks at the clock after the warm-up; the median counts.
        compile: Compile the parts of each model first, which takes minutes.
        profile: Tell which kinds of operators the time goes to.
        count: Only count operations: nothing is computed, so any preset and size fits into any memory.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
    """
    use_threads(threads)
    tune_malloc()
    target = pick_device(device)
    setting = Setting(
        parse_size(size), steps, batch, repeats, compile, profile, target, pick_dtype(dtype, target)
    )
    unknown = next((name for name in preset if name not in RECIPES), None)
    if unknown is not None:
        raise ValueError(f"Unknown recipe {unknown}; use one of {', '.join(RECIPES)}.")
    models: dict[str, Callable[[], Autoencoder]] = {
        name: partial(load, name, target, setting.dtype)
        for name in (model or (() if preset else (DEFAULT_MODEL,)))
    }
    fake = FakeTensorMode(allow_non_fake_inputs=True) if count else None
    models |= {f"{name} (random)": partial(random_model, name, setting, fake) for name in preset}
    if fake is not None:
        report_operations(models, setting, fake)
    else:
        report_speed(models, setting)


def random_model(preset: str, setting: Setting, fake: FakeTensorMode | None) -> AutoencoderRegen:
    """The model of a recipe with small random weights; ValueError when there is not memory enough for it.

    In a `fake` mode its weights are shapes and take no memory.
    """
    config = asdict(RECIPES[preset].model)
    if fake is not None:
        with fake:
            return AutoencoderRegen(**config).eval()
    with torch.device("meta"):
        model = nn.Module.to(AutoencoderRegen(**config), setting.dtype).eval()
    weights = sum(parameter.numel() for parameter in model.parameters()) * setting.dtype.itemsize
    frames = setting.batch * model.chunk_frames
    needed = weights + 2 * model.activation_bytes(frames, setting.size.height, setting.size.width)
    free = free_bytes(setting.device)
    if free is not None and needed > free:
        raise ValueError(
            f"{preset} needs about {needed / 1e9:.1f} GB here and {free / 1e9:.1f} GB are free; "
            "choose a smaller --size or --batch, or only --count."
        )
    model.to_empty(device=setting.device)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    return model


def parts_of(model: Autoencoder, setting: Setting) -> dict[str, Callable[[], Tensor]]:
    """Encoding and decoding of `setting.batch` chunks of noise."""
    height, width = (-(-side // PATCH) * PATCH for side in (setting.size.height, setting.size.width))
    shape = (setting.batch, 3, model.chunk_frames, height, width)
    clip = torch.rand(shape, device=setting.device, dtype=setting.dtype) * 2 - 1

    def encode() -> Tensor:
        return model.encode(clip).latent_dist.mode()

    latents = encode()

    def decode() -> Tensor:
        noise = [generator_for(0, index) for index in range(setting.batch)]
        return model.decode(latents, steps=setting.steps, generator=noise).sample

    return {"encode": encode, "decode": decode}


def report_operations(
    models: dict[str, Callable[[], Autoencoder]], setting: Setting, fake: FakeTensorMode
) -> None:
    """Table and JSON line of the operations alone; nothing is computed."""
    results: dict[str, Figures] = {}
    for label, build in models.items():
        model = build()
        with fake, torch.no_grad():
            parts = parts_of(model, setting)
            counts = {name: count_matmuls(part) for name, part in parts.items()}
        frames = setting.batch * model.chunk_frames
        results[label] = {
            "parameters": model.num_parameters(),
            **{name: operations_of(products, frames) for name, products in counts.items()},
        }
    finish(
        f"Operations at {setting}",
        ["model", "million parameters", *(f"{name} (GFLOP per frame)" for name in ("encode", "decode"))],
        [
            [
                label,
                f"{figures['parameters'] / 1e6:.1f}",
                *(f"{figures[name]['gflop_per_frame']:.2f}" for name in ("encode", "decode")),
            ]
            for label, figures in results.items()
        ],
        {"benchmark": "operations", **described(setting), "models": results},
        setting.device,
    )


def report_speed(models: dict[str, Callable[[], Autoencoder]], setting: Setting) -> None:
    """Tables and JSON line of time, operations and their share of the machine's peak."""
    before = best_rate(setting.dtype, setting.device)
    results = {label: measure(build(), setting) for label, build in models.items()}
    peak = max(before, best_rate(setting.dtype, setting.device))
    for figures in results.values():
        for part in figures.values():
            part["share_of_peak"] = part["gflop_per_second"] * 1e9 / peak
            part["products_share_of_peak"] = part["share_of_peak"] / part["share_of_products"]
    parts = [(label, name, part) for label, figures in results.items() for name, part in figures.items()]
    for label, name, part in parts if setting.profile else ():
        rows = [[kind, f"{100 * share:.1f} %"] for kind, share in part["share_of_time"].items()]
        show_table(f"Where the time of {label} goes: {name}", ["kind of operator", "share"], rows)
    finish(
        f"{setting}; peak {peak / 1e9:.0f} GFLOP/s",
        ["model", "part", "ms/frame", "frames/s", "GFLOP/frame", "GFLOP/s", "of peak", "of products"],
        [[label, name, *table_row(part)] for label, name, part in parts],
        {
            "benchmark": "speed",
            **described(setting),
            "compiled": setting.compile,
            "peak_gflop_per_second": peak / 1e9,
            "models": results,
        },
        setting.device,
    )


def described(setting: Setting) -> dict[str, Any]:
    """What the JSON tells of the setting."""
    facts = {"size": str(setting.size), "steps": setting.steps, "batch": setting.batch}
    return facts | {"dtype": dtype_name(setting.dtype)}


def measure(model: Autoencoder, setting: Setting) -> dict[str, Figures]:
    """The figures of encoding and of decoding."""
    with torch.inference_mode():
        parts = parts_of(model, setting)
        counts = {name: count_matmuls(part) for name, part in parts.items()}
        if setting.compile:
            for child in model.children():
                child.compile(fullgraph=True)
        frames = setting.batch * model.chunk_frames
        return {name: figures_of(part, counts[name], frames, setting) for name, part in parts.items()}


def figures_of(part: Callable[[], Tensor], products: MatMuls, frames: int, setting: Setting) -> Figures:
    """Time and operations of one part, and how much of the time its products need alone."""
    duration = seconds(part, setting.repeats, setting.device)
    figures = {
        "ms_per_frame": 1e3 * duration / frames,
        "frames_per_second": frames / duration,
        **operations_of(products, frames),
        "gflop_per_second": total_flops(products) / duration / 1e9,
        "share_of_products": products_seconds(products, setting.device) / duration,
    }
    if setting.profile:
        times = times_by_kind(part, setting.device)
        figures["share_of_time"] = {kind: time / sum(times.values()) for kind, time in times.items()}
    return figures


def operations_of(products: MatMuls, frames: int) -> Figures:
    """Operations per frame, in 10^9, in all and by kind."""
    kinds = sorted({product.kind for product in products})
    parts = {kind: MatMuls({p: n for p, n in products.items() if p.kind == kind}) for kind in kinds}
    return {
        "gflop_per_frame": total_flops(products) / frames / 1e9,
        "gflop_per_frame_by_kind": {kind: total_flops(part) / frames / 1e9 for kind, part in parts.items()},
    }


def table_row(figures: Figures) -> list[str]:
    """One part for people."""
    return [
        f"{figures['ms_per_frame']:.2f}",
        f"{figures['frames_per_second']:.1f}",
        f"{figures['gflop_per_frame']:.2f}",
        f"{figures['gflop_per_second']:.0f}",
        f"{100 * figures['share_of_peak']:.1f} % ({100 * figures['products_share_of_peak']:.1f} %)",
        f"{100 * figures['share_of_products']:.1f} %",
    ]


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
