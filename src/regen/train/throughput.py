"""Throughput of a run, its metrics, and the log that they go to.

FLOPs are those of the model's matrix products, convolutions and attention, forward and backward, without the
gradients of frozen weights. Recomputed activations and auxiliary losses are not counted. Model FLOPs
utilisation (MFU) is their share of the GPU's peak (PaLM, arXiv 2204.02311, appendix B).
"""

import copy
import json
import os
import re
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from regen.console import progress_bar
from regen.io import parse_json, write_text
from regen.metrics.cost import count_matmuls, peak_memory, total_flops
from regen.tiling import LATENT_STRIDE
from regen.train.tracking import TrackerName, open_tracker

# Dense bf16 TFLOP/s with fp32 accumulation, from the data sheets; longer names first.
PEAK_TFLOPS = {
    "GB200": 2500.0, "B200": 2250.0,
    "GH200": 989.5, "H200 NVL": 835.5, "H200": 989.5,
    "H100 PCIe": 756.0, "H100 NVL": 835.5, "H100": 989.5, "H800": 989.5,
    "A100": 312.0, "A800": 312.0, "A40": 149.7, "A30": 165.0, "A10": 125.0,
    "L40S": 362.0, "L40": 181.0, "L4": 121.0,
    "RTX A6000": 154.8, "RTX 6000 Ada": 364.2,
    "RTX 5090": 209.5, "RTX 4090": 165.2, "RTX 3090 Ti": 80.0, "RTX 3090": 71.0,
    "MI300X": 1307.4, "MI250X": 383.0,
}  # fmt: skip
# Variants with less power and partitions, which the data sheets do not cover.
OTHER_CHIPS = re.compile(r"Laptop|Max-Q|MIG|RTX \d+ D\b")

# Tensors with one entry per sample.
SAMPLE_KEYS = ("clip", "target", "latents", "sequence", "lengths", "label", "text", "text_mask")
SEQUENCE_MULTIPLE = 64  # to which the number of 1D latents is rounded up, since it differs in every batch
Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]  # of one sample

PLAIN_SECONDS = 30.0  # between plain log lines where there is no terminal


class ThroughputMeter:
    """Throughput of `processes` between two reports, from the batches of one; `model` is not yet wrapped."""

    def __init__(self, model: nn.Module, device: torch.device, processes: int) -> None:
        self.device, self.processes = device, processes
        self.peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.fake_mode = FakeTensorMode()
        with self.fake_mode:
            weights: dict[int, Tensor] = {
                id(weight): nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), weight.requires_grad)
                for weight in model.parameters()
            }
            buffers = {id(value): torch.empty(value.shape, dtype=value.dtype) for value in model.buffers()}
        self.fake = copy.deepcopy(model, weights | buffers)
        self.fake.eval()  # without activation checkpointing
        self.flops_per_sample: dict[Shapes, int] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Start anew, so that saving and evaluating do not count as training."""
        self.samples: Counter[Shapes] = Counter()
        self.tokens = self.clips = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    def add(self, batch: dict[str, Tensor], waited_seconds: float) -> None:
        target, side = batch.get("target", batch.get("clip")), LATENT_STRIDE
        if target is None:
            target, side = batch["latents"], 1
        clips, _, frames, height, width = target.shape
        self.clips += clips
        self.tokens += clips * frames * (height // side) * (width // side)
        self.samples[_sample_shapes(batch)] += clips
        self.waited += waited_seconds

    def report(self) -> dict[str, float]:
        """Throughput of all processes since the last report; call it when the device has caught up.

        tokens_per_second (8 x 8 pixels of a decoded frame, or latent positions), clips_per_second (including
        images), tflops_per_second, mfu (of the bf16 peak, where that is known); of this process alone:
        memory_gb (peak so far), data_wait_fraction (share of the time spent waiting for data).
        """
        seconds = time.perf_counter() - self.started
        flops = sum(self._count(shapes) * count for shapes, count in self.samples.items()) / seconds
        values = {
            "tokens_per_second": self.processes * self.tokens / seconds,
            "clips_per_second": self.processes * self.clips / seconds,
            "tflops_per_second": self.processes * flops / 1e12,
        }
        if self.peak is not None:
            values["mfu"] = flops / self.peak
        values |= {"memory_gb": peak_memory(self.device) / 1e9, "data_wait_fraction": self.waited / seconds}
        self.restart_clock()
        return values

    def flops(self, batch: dict[str, Tensor]) -> int:
        """FLOPs of one sample of a batch, forward and backward, counted on tensors without data."""
        return self._count(_sample_shapes(batch))

    def _count(self, shapes: Shapes) -> int:
        if shapes not in self.flops_per_sample:

            @torch.enable_grad()
            def forward_and_backward() -> None:
                batch = {name: torch.empty(shape, dtype=dtype) for name, shape, dtype in shapes}
                loss, _ = cast(Any, self.fake).loss(batch, [torch.Generator()])
                loss.backward()

            # Fused attention has no counted backward pass; its plain form has the same products.
            with self.fake_mode, sdpa_kernel(SDPBackend.MATH):
                self.flops_per_sample[shapes] = total_flops(count_matmuls(forward_and_backward))
                self.fake.zero_grad(set_to_none=True)
        return self.flops_per_sample[shapes]


def peak_flops(name: str) -> float | None:
    """Peak of the GPU with this name in dense bf16 FLOP/s; None where it is not known."""
    if OTHER_CHIPS.search(name):
        return None
    known = (peak for chip, peak in PEAK_TFLOPS.items() if re.search(rf"\b{chip}\b", name))
    return next((peak * 1e12 for peak in known), None)


def _sample_shapes(batch: dict[str, Tensor]) -> Shapes:
    """Shapes of a batch with one sample."""
    sizes = {name: torch.Size((1, *batch[name].shape[1:])) for name in SAMPLE_KEYS if name in batch}
    if "sequence" in sizes:
        *others, length = sizes["sequence"]
        sizes["sequence"] = torch.Size((*others, -(-length // SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE))
    if "times" in batch:
        sizes["times"] = batch["times"].shape
    return tuple((name, size, batch[name].dtype) for name, size in sizes.items())


class MetricAverager:
    """Means since the last report, summed on the device so that no step waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the metrics of a micro-batch: detached scalar tensors."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value.float() if name in self.sums else value.float()
        self.counts.update(values.keys())

    def means(self) -> dict[str, float]:
        """Mean of every metric; synchronizes with the device once."""
        totals = torch.stack(list(self.sums.values())).tolist()
        return {name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)}


class RunLog:
    """Log of the run in folder `out`, from update `step` to `steps`: progress, log.jsonl, and a tracker.

    A context manager. Only the main process shows and writes anything. An evaluation is tracked with its
    picture `out`/previews/step-STEP.png, if there is one.
    `has_evaluation`: whether update `step` has been evaluated.
    """

    def __init__(
        self, out: Path, step: int, steps: int, is_main: bool = True, track: TrackerName | None = None
    ) -> None:
        self.out, self.first_step, self.steps, self.silent = out, step, steps, not is_main
        self.stack = ExitStack()
        self.started, self.last_plain = time.perf_counter(), float("-inf")
        path = Path(os.devnull) if self.silent else out / "log.jsonl"
        rows = [] if self.silent else drop_rows_after(path, step)
        self.has_evaluation = any(row["step"] == step and "evaluation/psnr" in row for row in rows)
        self.seconds_before = max((row.get("seconds", 0.0) for row in rows), default=0.0)
        self.file = self.stack.enter_context(path.open("a"))
        self.tracker = None if self.silent else open_tracker(track, out, step)
        if self.tracker is not None:
            self.stack.callback(self.tracker.close)

    def __enter__(self) -> "RunLog":
        self.bar = None if self.silent else self.stack.enter_context(progress_bar("training"))
        self.advance(self.first_step)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def advance(self, step: int, description: str | None = None) -> None:
        if self.bar is not None:
            self.bar(step, self.steps, description)

    def log_training(self, step: int, values: dict[str, float]) -> None:
        """Log the means over the last steps: loss, clips_per_second and what else there is."""
        self.write(step, values)
        psnr = f" · PSNR {values['psnr']:.2f} dB" if "psnr" in values else ""
        report = f"loss {values['loss']:.4f}{psnr} · {values['clips_per_second']:.1f} clips/s"
        self.advance(step, report)
        now = time.perf_counter()
        is_due = now - self.last_plain >= PLAIN_SECONDS or step == self.steps
        if is_due and not Console(stderr=True).is_terminal:
            self.last_plain = now
            seconds_per_step = (now - self.started) / max(1, step - self.first_step)
            time_left = timedelta(seconds=round(seconds_per_step * (self.steps - step)))
            self.print(f"step {step}/{self.steps} · {report} · {time_left} left")

    def log_evaluation(self, step: int, values: dict[str, float]) -> None:
        """Log an evaluation; its names get the prefix `evaluation/`."""
        self.write(step, {f"evaluation/{name}": value for name, value in values.items()})
        picture = self.out / "previews" / f"step-{step:08d}.png"
        if self.tracker is not None and picture.is_file():
            self.tracker.log_picture(step, picture)
        metrics = " · ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.print(f"evaluation after step {step}: {metrics}")

    def print(self, text: str) -> None:
        """One line on stderr, above the bar."""
        if not self.silent:
            print(text, file=sys.stderr)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log `values` and the seconds of the whole run up to now, without the updates that a stop undid."""
        values = values | {"seconds": round(self.seconds_before + time.perf_counter() - self.started, 3)}
        print(json.dumps({"step": step, **values}), file=self.file, flush=True)
        if self.tracker is not None:
            self.tracker.log(step, values)


def drop_rows_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove the rows after `step` and an incomplete last one from a resumed log; return the rest."""
    if not path.exists():
        return []
    rows = [
        row
        for row in map(parse_row, path.read_text("utf-8", errors="replace").splitlines())
        if row.get("step", step + 1) <= step
    ]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def parse_row(line: str) -> dict[str, Any]:
    """A JSON object; an empty one for anything else, such as an incomplete line."""
    try:
        value = parse_json(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
