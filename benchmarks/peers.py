"""Speed, memory, operations and compression of other video autoencoders and ours at their real size.

All have random weights: what is measured does not depend on them. Measured is the model alone, on noise, on
one window of frames: a peer's is the longest that its class can take up to --window, a chunk for our own. The
peak is that of the process (on a GPU, of what it holds there), weights and libraries included, and each model
has a process to itself. Operations are counted without computing anything (regen.metrics.cost); --count
does only that and takes no memory, so any size can be counted anywhere. What can't be measured says why.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Annotated, Any

import torch
import tyro
from published import PUBLISHED
from report import finish, free_bytes, one_sentence_errors, use_threads
from timing import seconds
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from regen.codec.report import model_compression
from regen.embedders.diffusers_adapter import DiffusersAdapter
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.regen import AutoencoderRegen
from regen.media.pixels import Size, parse_size
from regen.metrics.cost import PeakMemory, count_matmuls, total_flops
from regen.recipes import RECIPES
from regen.runtime import dtype_name, generator_for, pick_device, pick_dtype, tune_malloc
from regen.train.recipe import build_model

Names = tyro.conf.UseAppendAction[tuple[str, ...]]
Figures = dict[str, Any]
Model = DiffusersAdapter | AutoencoderRegen | AutoencoderMagvit2
PRESETS = ("regen-4x", "regen-8x", "regen-16x", "regen-32x")
COLUMNS = (  # heading, figure, factor, digits
    ("million", "parameters", 1e-6, 0),
    ("ratio", "ratio", 1, 0),
    ("frames", "frames", 1, 0),
    ("/latent", "frames_per_latent", 1, 2),
    ("values", "compression_factor", 1, 1),
    ("enc GFLOP", "encode_gflop_per_frame", 1, 1),
    ("dec GFLOP", "decode_gflop_per_frame", 1, 1),
    ("enc ms", "encode_seconds_per_frame", 1e3, 1),
    ("dec ms", "decode_seconds_per_frame", 1e3, 1),
    ("peak GB", "peak_memory_mb", 1e-3, 2),
)


@dataclass(frozen=True)
class Setting:
    """What is done, and where."""

    size: Size
    window: int
    repeats: int
    threads: int
    device: torch.device
    dtype: torch.dtype


def main(
    peer: Names = (),
    preset: Names = (),
    size: str = "256",
    window: int = 33,
    count: bool = False,
    repeats: int = 3,
    threads: int = 2,
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    dtype: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
) -> None:
    """Measure encoding and decoding of one window of frames by each model, one after the other.

    Example: python benchmarks/peers.py --peer wan-2.1 --peer mochi --preset regen-4x --size 256

    Args:
        peer: A published configuration (published.py); repeat it to choose some. By default all.
        preset: A recipe that `regen train --help` lists; repeat it. By default REGEN's of the paper.
        size: N (N x N) or HEIGHTxWIDTH, in pixels.
        window: A peer is given at most this many frames at once.
        count: Only count operations, parameters and compression: nothing is computed.
        repeats: Looks at the clock after the warm-up; the median counts.
        threads: Threads of PyTorch; 0 is one per core.
        device: cpu, cuda or mps; by default the best one here.
        dtype: bf16, fp16 or fp32; by default bf16 where the hardware has it.
    """
    target = pick_device(device)
    setting = Setting(parse_size(size), window, repeats, threads, target, pick_dtype(dtype, target))
    if repeats < 1:
        raise ValueError(f"{repeats} looks at the clock are too few; give --repeats 1 or more.")
    names = (*(peer or (() if preset else PUBLISHED)), *(preset or (() if peer else PRESETS)))
    unknown = next((name for name in names if name not in PUBLISHED and name not in RECIPES), None)
    if unknown is not None:
        raise ValueError(f"Unknown model {unknown}; use one of {', '.join([*PUBLISHED, *RECIPES])}.")
    use_threads(threads)
    results = {name: counted(name, setting) for name in names}
    if not count:
        results = {name: figures | in_own_process(timed, name, setting) for name, figures in results.items()}
    show(results, setting)


def build(name: str, setting: Setting) -> Model:
    """A published configuration, or a recipe's model, with random weights."""
    if name in PUBLISHED:
        return PUBLISHED[name](setting.window)
    return build_model(RECIPES[name].model).eval()


def place(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """The model on a device, in a precision."""
    for network in model.networks if isinstance(model, DiffusersAdapter) else [model]:
        nn.Module.to(network, device, dtype)
    return model


def counted(name: str, setting: Setting) -> Figures:
    """Parameters, compression and operations; nothing is computed."""
    meta = torch.device("meta")
    with meta:
        model = build(name, setting)
    shapes = model_compression(place(model, meta, torch.float32), setting.size.height, setting.size.width)
    figures: Figures = {"parameters": model.num_parameters(), "frames": model.chunk_frames, **asdict(shapes)}
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        parts = parts_of(build(name, setting), setting)
        for part, work in parts.items():
            figure = f"{part}_gflop_per_frame"
            try:
                figures[figure] = total_flops(count_matmuls(work)) / model.chunk_frames / 1e9
            except ValueError as error:
                figures.setdefault("absent", {})[figure] = str(error)
            except (AssertionError, RuntimeError):
                figures.setdefault("absent", {})[figure] = "an operator in it can't be counted"
    return figures


def parts_of(model: Model, setting: Setting) -> dict[str, Callable[[], Tensor]]:
    """Encoding and decoding of one window of noise."""
    side, frames = model.spatial_compression_ratio, model.chunk_frames
    height, width = (-(-length // side) * side for length in (setting.size.height, setting.size.width))
    clip = torch.rand(1, 3, frames, height, width, device=model.device, dtype=model.dtype) * 2 - 1

    def encode() -> Tensor:
        return model.encode(clip).latent_dist.mode()

    latents = encode()

    def decode() -> Tensor:
        return model.decode(latents, steps=1, generator=[generator_for(0)]).sample

    return {"encode": encode, "decode": decode}


def in_own_process(work: Callable[[str, Setting], Figures], name: str, setting: Setting) -> Figures:
    """What `work` answers; where the system ends its process, the reason."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, name, setting).result()
        except BrokenProcessPool:
            return {"not_timed": "the system ended the process, most likely for lack of memory"}


@torch.inference_mode()
def timed(name: str, setting: Setting) -> Figures:
    """Seconds and peak memory, or why there are none."""
    use_threads(setting.threads)
    tune_malloc()
    model = place(build(name, setting), setting.device, setting.dtype)
    needed = model.activation_bytes(model.chunk_frames, setting.size.height, setting.size.width)
    free = free_bytes(setting.device)
    if free is not None and needed > free:
        return {"not_timed": f"it takes about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"}
    peak = PeakMemory(setting.device)
    try:
        figures: Figures = {
            f"{part}_seconds_per_frame": seconds(work, setting.repeats, setting.device) / model.chunk_frames
            for part, work in parts_of(model, setting).items()
        }
    except ValueError as error:
        return {"not_timed": str(error)}
    return figures | {"peak_memory_mb": peak.megabytes()}


def show(results: dict[str, Figures], setting: Setting) -> None:
    """Table and JSON line."""
    for name, figures in results.items():
        if "not_timed" in figures:
            print(f"{name}: not timed, {figures['not_timed']}")
        for figure, reason in figures.get("absent", {}).items():
            print(f"{name}: no {figure}, {reason}")
    finish(
        f"One window at {setting.size}, {dtype_name(setting.dtype)}; GFLOP and ms are for each frame",
        ["model", *(heading for heading, *_ in COLUMNS)],
        [[name, *row(figures)] for name, figures in results.items()],
        {
            "benchmark": "peers",
            "size": str(setting.size),
            "window": setting.window,
            "dtype": dtype_name(setting.dtype),
            "models": results,
        },
        setting.device,
    )


def row(figures: Figures) -> list[str]:
    """One model for people; a dash for a missing figure."""
    return [
        f"{figures[name] * factor:.{digits}f}" if name in figures else "-"
        for _, name, factor, digits in COLUMNS
    ]


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
