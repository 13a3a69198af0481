"""What one decode costs at the paper's size: parameters, operations and time of REGEN and MAGVIT-v2.

This is Table 4 of the paper as far as it can be had without its GPU. Operations are those of matrix products,
convolutions and attention (regen.metrics.cost); they are counted on tensors without content, so that no
memory and no time is needed. Beside them stand the published milliseconds (one A100, 256x256, one step), and
the rate at which the operations would have to go for that. The memory is that of the weights and of all
tensors that are alive at once. With --time the decoders really run, with random weights, each in a process of
its own that nothing else has filled before.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import tyro
from report import finish, free_bytes, one_sentence_errors, show_table, use_threads
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.regen import AutoencoderRegen
from regen.media.pixels import Size, parse_size
from regen.metrics.cost import MatMuls, PeakMemory, count_matmuls, total_flops
from regen.metrics.memory import peak_bytes
from regen.recipes import RECIPES
from regen.runtime import dtype_name, pick_device, pick_dtype
from regen.train.recipe import build_model

Ratios = tyro.conf.UseAppendAction[tuple[int, ...]]
Figures = dict[str, Any]
Model = AutoencoderRegen | AutoencoderMagvit2

FAMILIES = ("magvit2", "regen")
RATIOS = (4, 8, 16, 32)
KINDS = ("linear", "convolution", "attention")
PAPER_SIZE = Size(256, 256)
PAPER_MS = {
    "magvit2-4x": 88, "magvit2-8x": 317, "magvit2-16x": 343, "magvit2-32x": 153,
    "regen-4x": 89, "regen-8x": 159, "regen-16x": 295, "regen-32x": 548,
}  # fmt: skip
A100_PEAK = 312.0  # TFLOP/s of dense bf16 products, by its data sheet


@dataclass(frozen=True)
class Setting:
    """What is decoded, and where."""

    size: Size
    steps: int
    repeats: int
    threads: int
    device: torch.device
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if min(self.steps, self.repeats) < 1 or self.size.height % 8 or self.size.width % 8:
            raise ValueError("Give a --size in multiples of 8, and 1 or more as --steps and --repeats.")


def main(
    ratio: Ratios = (),
    family: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    size: str = "256",
    steps: int = 1,
    time: bool = False,
    repeats: int = 3,
    threads: int = 0,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str, tyro.conf.arg(metavar="NAME")] = "bf16",
) -> None:
    """Count (and with --time measure) what decoding one chunk costs in the models of the paper.

    Example: python benchmarks/decoder_cost.py --ratio 4 --ratio 8

    Args:
        ratio: 4, 8, 16 or 32; repeat it for several. By default all.
        family: regen or magvit2; repeat it for both, which is the default.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        steps: Denoising steps of REGEN.
        time: Run the decoders, too; a REGEN of the paper's size takes 5 GB and minutes on a CPU.
        repeats: Decodes after the first one, which warms up; the median counts.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps, for --time; by default the best one here.
        dtype: bf16, fp16 or fp32.
    """
    use_threads(threads)
    target = pick_device(device)
    setting = Setting(parse_size(size), steps, repeats, threads, target, pick_dtype(dtype, target))
    names = [f"{kind}-{k}x" for k in ratio or RATIOS for kind in family or FAMILIES]
    unknown = next((name for name in names if name not in PAPER_MS), None)
    if unknown is not None:
        raise ValueError(f"The paper has no {unknown}; give regen or magvit2 at ratio 4, 8, 16 or 32.")
    results = {name: counted(name, setting) for name in names}
    if setting.size == PAPER_SIZE and steps == 1:
        compare_with_paper(results)
    if time:
        for name, figures in results.items():
            figures |= timed_apart(name, setting, figures["tflop"])
        show_times(results, setting)
    report(results, setting)


def decoder_of(name: str) -> Model:
    """The model of a recipe without its encoder, which decoding does not need."""
    model = build_model(RECIPES[name].model).eval()
    model.encoder = nn.Identity()
    return model


def empty_decoder(name: str, dtype: torch.dtype) -> Model:
    """The same, with weights that take no memory yet."""
    with torch.device("meta"):
        return nn.Module.to(decoder_of(name), dtype)


def decode_with(model: Model, setting: Setting) -> Callable[[], Tensor]:
    """One decode of the latents of a chunk; they are noise."""
    frames = model.latent_frames if isinstance(model, AutoencoderMagvit2) else 2
    shape = 1, model.latent_channels, frames, setting.size.height // 8, setting.size.width // 8
    latents = torch.randn(shape, device=model.device)
    return lambda: model.decode(latents, steps=setting.steps).sample


def counted(name: str, setting: Setting) -> Figures:
    """Parameters, operations, the peak of memory and the model's estimate of it; nothing is computed."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        products = count_matmuls(decode_with(decoder_of(name), setting))
        before = torch.get_default_dtype()
        torch.set_default_dtype(setting.dtype)
        try:
            model = decoder_of(name)
        finally:
            torch.set_default_dtype(before)
        peak = peak_bytes(decode_with(model, setting))
    parts = {kind: MatMuls({p: n for p, n in products.items() if p.kind == kind}) for kind in KINDS}
    model = empty_decoder(name, setting.dtype)
    frames, height, width = model.chunk_frames, setting.size.height, setting.size.width
    return {
        "frames": frames,
        "parameters": model.num_parameters(),
        "tflop": total_flops(products) / 1e12,
        "tflop_by_kind": {kind: total_flops(part) / 1e12 for kind, part in parts.items()},
        "activation_gb": model.activation_bytes(frames, height, width) / 1e9,
        "memory_gb": (peak + model.num_parameters() * setting.dtype.itemsize) / 1e9,
    }


def compare_with_paper(results: dict[str, Figures]) -> None:
    """Add to the results what the published times imply, and show it.

    "without attention" leaves out what grows with the square of the frames: if only that is a rate that the
    machine has, the time is not one of a network in which all tokens see each other.
    """
    for name, figures in results.items():
        seconds = PAPER_MS[name] / 1e3
        rest = figures["tflop"] - figures["tflop_by_kind"]["attention"]
        figures["paper_ms"] = PAPER_MS[name]
        figures["paper_tflop_per_second"] = figures["tflop"] / seconds
        figures["paper_tflop_per_second_without_attention"] = rest / seconds
    show_table(
        f"The paper's times on one A100, and what they imply; its peak is {A100_PEAK:.0f} TFLOP/s",
        ["decoder", "paper (ms)", "ms/frame", "TFLOP/s", "of peak", "TFLOP/s without attention"],
        [
            [
                name,
                str(figures["paper_ms"]),
                f"{figures['paper_ms'] / figures['frames']:.1f}",
                f"{figures['paper_tflop_per_second']:.0f}",
                f"{100 * figures['paper_tflop_per_second'] / A100_PEAK:.0f} %",
                f"{figures['paper_tflop_per_second_without_attention']:.0f}",
            ]
            for name, figures in results.items()
        ],
    )


def timed_apart(name: str, setting: Setting, tflop: float) -> Figures:
    """Time and peak memory of a decode in a process of its own; ValueError when there is no room for it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            figures = pool.submit(timed, name, setting).result()
        except BrokenProcessPool as error:
            raise ValueError(f"Out of memory while decoding with {name}; use a smaller --size.") from error
    return figures | {"tflop_per_second": tflop / figures["seconds"]}


def timed(name: str, setting: Setting) -> Figures:
    """Median duration of a decode with random weights, and the peak of memory, the weights' included."""
    use_threads(setting.threads)
    model = empty_decoder(name, setting.dtype)
    weights = model.num_parameters() * setting.dtype.itemsize
    free = free_bytes(setting.device)
    if free is not None and weights > free:
        raise ValueError(f"{name} needs {weights / 1e9:.1f} GB and {free / 1e9:.1f} GB are free.")
    model.to_empty(device=setting.device)
    memory, durations = PeakMemory(setting.device), []
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
        decode = decode_with(model, setting)
        for _ in range(1 + setting.repeats):
            start = perf_counter()
            decode().cpu()  # which waits for the device
            durations.append(perf_counter() - start)
    return {"seconds": median(durations[1:]), "peak_memory_mb": memory.megabytes()}


def show_times(results: dict[str, Figures], setting: Setting) -> None:
    """What was measured here."""
    show_table(
        f"Measured: one decode at {setting.size}, median of {setting.repeats}",
        ["decoder", "seconds", "ms/frame", "TFLOP/s", "peak memory (GB)"],
        [
            [
                name,
                f"{figures['seconds']:.3f}",
                f"{1e3 * figures['seconds'] / figures['frames']:.1f}",
                f"{figures['tflop_per_second']:.3f}",
                f"{figures['peak_memory_mb'] / 1e3:.2f}",
            ]
            for name, figures in results.items()
        ],
    )


def report(results: dict[str, Figures], setting: Setting) -> None:
    """Table and JSON line of what was counted."""
    finish(
        f"One decode at {setting.size}, {setting.steps} step{'s' * (setting.steps > 1)}: operations in TFLOP",
        ["decoder", "frames", "million parameters", *KINDS, "all", "per frame", "memory (GB)"],
        [
            [
                name,
                str(figures["frames"]),
                f"{figures['parameters'] / 1e6:.0f}",
                *(f"{figures['tflop_by_kind'][kind]:.3f}" for kind in KINDS),
                f"{figures['tflop']:.3f}",
                f"{figures['tflop'] / figures['frames']:.3f}",
                f"{figures['memory_gb']:.2f}",
            ]
            for name, figures in results.items()
        ],
        {
            "benchmark": "decoder-cost",
            "size": str(setting.size),
            "steps": setting.steps,
            "dtype": dtype_name(setting.dtype),
            "models": results,
        },
        setting.device,
    )


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
