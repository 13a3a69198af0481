"""The sections of gpu.py: each is a generator of named figures and runs in a process of its own.

Each imports what it alone needs; all of it takes seconds.

    python benchmarks/gpu_sections.py SECTION --out RESULTS --scratch FOLDER --seconds 120

The figures found so far lie in FOLDER/SECTION.json: a section that is stopped loses only its last one.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import torch
import tyro
from report import one_sentence_errors
from timing import best_rate, products_seconds, times_by_kind

from regen.io import write_json
from regen.media.pixels import Size
from regen.metrics.cost import PeakMemory, count_matmuls, total_flops
from regen.runtime import pick_device, pick_dtype, tune_malloc

if TYPE_CHECKING:
    import decoder_cost

Figures = dict[str, Any]
ROOT = Path(__file__).parents[1]
# Of the embedders one, and for compilation the smallest, which is traced much sooner.
DRY_TESTS = "(regen and not compiled) or (linear and compiled) or batches or resumes or tiles"
PEERS = ("wan-2.1", "ltx-0.9", "hunyuan-video", "cogvideox-5b", "regen-4x", "magvit2-4x", "wan-2.2", "ltx-2")
SIZES = (256, 512)
REPEATS = 5


@dataclass(frozen=True)
class Section:
    """Where a section writes, what it may use, and when it must be done."""

    out: Path
    scratch: Path
    data: Path
    recipe: str
    device: torch.device
    is_dry: bool
    deadline: float

    @property
    def left(self) -> float:
        """Seconds until the section must be done."""
        return self.deadline - time.monotonic()


def tests(section: Section) -> Iterator[tuple[str, Figures]]:
    """The tests marked gpu: how many passed, and the first line of each failure."""
    report = section.scratch / "tests.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist",
        "-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default",
        f"--junitxml={report}", "tests/gpu", "tests/compiled",
    ]  # fmt: skip
    command += ["-k", DRY_TESTS] if section.is_dry else []
    subprocess.run(
        command, cwd=ROOT, env=os.environ | {"REGEN_TEST_DEVICE": section.device.type}, check=False
    )
    suite = ElementTree.parse(report).getroot()
    cases = list(suite.iter("testcase"))
    problems = [(case, part) for case in cases for part in case if part.tag in ("failure", "error")]
    yield (
        "tests",
        {
            "tests": len(cases),
            "failed": len(problems),
            "skipped": sum(part.tag == "skipped" for case in cases for part in case),
            "failures": {case.get("name", ""): part.get("message", "")[:300] for case, part in problems},
            "seconds": {case.get("name", ""): float(case.get("time", 0)) for case in cases},
        },
    )


def decoders(section: Section) -> Iterator[tuple[str, Figures]]:
    """Latency, memory and share of the peak of decoding one chunk, and what the time goes to."""
    import decoder_cost

    dtype = pick_dtype("bf16", section.device)
    peak = best_rate(dtype, section.device, (128,) if section.is_dry else ())
    yield "peak", {"tflop_per_second": peak / 1e12}
    names = [f"{family}-{ratio}x" for ratio in decoder_cost.RATIOS for family in ("regen", "magvit2")]
    sizes: tuple[int, ...] = SIZES
    if section.is_dry:
        names, sizes = ["toy", "toy-magvit2"], (32,)
    expected: dict[str, float] = {}
    for side in sizes:
        for name in names:
            if section.left < 5 * expected.get(name, 1.0):
                yield f"{name} at {side}", {"skipped": f"about {expected[name]:.0f} s each, no time left"}
                continue
            setting = decoder_cost.Setting(Size(side, side), 1, REPEATS, 0, section.device, dtype)
            figures = or_out_of_memory(partial(decoder, name, setting, peak, section))
            expected[name] = 16 * figures.get("seconds", 1.0)  # at twice the side: attention, at most
            yield f"{name} at {side}", figures


def decoder(name: str, setting: "decoder_cost.Setting", peak: float, section: Section) -> Figures:
    """The figures of one decoder with random weights; compiled, too, where there is time for it."""
    import decoder_cost

    model = decoder_cost.empty_decoder(name, setting.dtype)
    model.to_empty(device=setting.device)
    memory = PeakMemory(setting.device)
    with torch.inference_mode():
        for weight in (*model.parameters(), *model.buffers()):
            weight.uniform_(-0.02, 0.02)
        decode = decoder_cost.decode_with(model, setting)
        products = count_matmuls(decode)
        duration = median_seconds(decode, setting.device, REPEATS)
        figures: Figures = {
            "frames": model.chunk_frames,
            "seconds": duration,
            "ms_per_frame": 1e3 * duration / model.chunk_frames,
            "peak_memory_gb": memory.megabytes() / 1e3,
            "tflop": total_flops(products) / 1e12,
            "share_of_peak": total_flops(products) / duration / peak,
        }
        times = times_by_kind(decode, setting.device)
        figures["share_of_time"] = {kind: part / sum(times.values()) for kind, part in times.items()}
        if section.left > 30 * duration + 5 or section.is_dry:
            figures["share_of_products"] = products_seconds(products, setting.device) / duration
        if name in ("regen-4x", "toy") and "compiled_seconds" not in figures and section.left > 50:
            blocks = [part for part in model.modules() if type(part).__name__ in model._no_split_modules]
            for block in blocks:
                block.compile(backend="eager" if section.is_dry else "inductor")
            figures["compiled_seconds"] = median_seconds(decode, setting.device, REPEATS)
    return figures


def peer_models(section: Section) -> Iterator[tuple[str, Figures]]:
    """Autoencoders of diffusers and ours with random weights, one window of frames at 256 x 256."""
    import peers

    dtype = pick_dtype("bf16", section.device)
    side, window, names = (32, 5, ("wan-2.1", "toy")) if section.is_dry else (256, 33, PEERS)
    setting = peers.Setting(Size(side, side), window, 3, 0, section.device, dtype)
    for name in names:
        yield name, or_out_of_memory(partial(peers.timed, name, setting))


def training(section: Section) -> Iterator[tuple[str, Figures]]:
    """A training step of regen-4x with the share of one of 32 GPUs, and what `regen plan` says of it."""
    import gpu_training

    recipe = gpu_training.one_device_share("toy" if section.is_dry else "regen-4x", section.is_dry)
    torch.compiler.set_stance("force_eager" if section.is_dry else "default")
    # A copy of this process is there at once, but may not use a GPU.
    context = get_context("fork" if section.is_dry else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        planned = pool.submit(gpu_training.planned_memory, recipe)
        for name, changes in gpu_training.WAYS.items():
            if section.left < 15 and not section.is_dry:
                break
            changed = replace(recipe, loop=replace(recipe.loop, **changes))
            folder = section.scratch / f"training-{name}"
            yield name, or_out_of_memory(partial(gpu_training.measure, changed, folder, section.device))
        yield "regen plan", result_within(planned, section.left - 5)
        if not planned.done():  # its process would outlive the section
            for process in list(pool._processes.values()):
                process.kill()


def machine(section: Section) -> Iterator[tuple[str, Figures]]:
    """NCCL (gloo on a CPU) with one process, FSDP2, DDP, and the seconds that checkpoints take."""
    import gpu_training

    yield from gpu_training.collectives(section.scratch, section.device)
    recipe = gpu_training.one_device_share("toy" if section.is_dry else "regen-4x", section.is_dry, depth=2)
    yield (
        "checkpoints",
        gpu_training.seconds_stolen(recipe, section.scratch, section.device, 1 if section.is_dry else 12),
    )


def ladder(section: Section) -> Iterator[tuple[str, Figures]]:
    """A training for the time that is left; the same command goes on with it."""
    import gpu_training

    yield from gpu_training.train_until(
        section.recipe, section.data, section.scratch / f"run-{section.recipe}", section.out / "model",
        section.device, section.left, section.is_dry,
    )  # fmt: skip


SECTIONS: dict[str, Callable[[Section], Iterator[tuple[str, Figures]]]] = {
    "tests": tests,
    "decoders": decoders,
    "training": training,
    "peers": peer_models,
    "machine": machine,
    "ladder": ladder,
}


def or_out_of_memory(work: Callable[[], Figures]) -> Figures:
    """The figures, or that there was not memory enough; the device is empty afterwards."""
    try:
        return work()
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median duration after one run, by events of a GPU and the clock elsewhere."""
    work()
    durations = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            torch.cuda.synchronize(device)
            durations.append(start.elapsed_time(end) / 1e3)
        else:
            before = time.perf_counter()
            work()
            durations.append(time.perf_counter() - before)
    return sorted(durations)[repeats // 2]


def result_within(future: "Future[Figures]", seconds: float) -> Figures:
    """The result, or that it took too long."""
    with suppress(TimeoutError):
        return future.result(max(1.0, seconds))
    return {"skipped": "no time left"}


def main(
    name: tyro.conf.Positional[str],
    out: Path,
    scratch: Path,
    seconds: float,
    data: Path = ROOT / "examples",
    recipe: str = "regen-small-4x",
    dry_run: bool = False,
) -> None:
    """Run one section."""
    tune_malloc()
    scratch.mkdir(parents=True, exist_ok=True)
    if dry_run:
        torch.set_num_threads(1)
    device = torch.device("cpu") if dry_run else pick_device()
    section = Section(out, scratch, data, recipe, device, dry_run, time.monotonic() + seconds)
    found: Figures = {}
    for key, figures in SECTIONS[name](section):
        found[key] = figures
        write_json(scratch / f"{name}.json", found)
        print(f"{name}: {key}: {figures}", flush=True)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
