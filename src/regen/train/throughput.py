"""How fast a run goes: tokens, operations, memory, and the time for which it waits for data.

Operations are those of the model: matrix products, convolutions and attention, forward and backward, as they
stand in the formulas, without the gradients of frozen weights. Not counted: what activation checkpointing
computes a second time, and losses besides the model's own. Their share of what the GPU can do by its data
sheet is the model FLOPs utilisation (MFU; PaLM, arXiv 2204.02311, appendix B).
"""

import copy
import re
import time
from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from regen.metrics.cost import peak_memory
from regen.metrics.flops import count_matmuls, total_flops
from regen.tiling import PLACE

# Dense bf16 products with fp32 sums in TFLOP/s, by the makers' data sheets; a longer name stands first.
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
# The same chip with less power, or a part of it: no data sheet says what it can do.
OTHER_CHIPS = re.compile(r"Laptop|Max-Q|MIG|RTX \d+ D\b")

# What has one entry for each sample; `times` are those of all.
SAMPLES = ("clip", "target", "latents", "sequence", "lengths", "label", "text", "text_mask")
SEQUENCE_STEP = 64  # 1D latents up to whose next multiple is counted, because every batch has another number
Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]  # of one sample


class ThroughputMeter:
    """Counts the passes of one process from one report to the next.

    `model` is taken as it is to be trained, with its frozen part, before it is wrapped or sharded; only the
    shapes of a copy are kept. `processes` train together, each on its part of the same size.
    """

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
        self.fake.eval()  # where activations are not computed twice
        self.counted: dict[Shapes, int] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begin anew, so that saving and evaluating don't count as training."""
        self.passes: Counter[Shapes] = Counter()
        self.tokens = self.clips = 0
        self.waited = 0.0
        self.started = time.perf_counter()

    def add(self, batch: dict[str, Tensor], waited_seconds: float) -> None:
        """Count one forward and backward pass, for whose batch this process has waited."""
        target, side = batch.get("target", batch.get("clip")), PLACE
        if target is None:
            target, side = batch["latents"], 1
        clips, _, frames, height, width = target.shape
        self.clips += clips
        self.tokens += clips * frames * (height // side) * (width // side)
        self.passes[_shapes(batch)] += clips
        self.waited += waited_seconds

    def report(self) -> dict[str, float]:
        """All processes together since the last report, for the log; call it when the device has caught up.

        tokens_per_second (8 x 8 pixels of a frame that is decoded, or places of latents that are generated),
        clips_per_second (images count as clips),
        tflops_per_second, mfu (of the peak in bf16, whatever the precision; only where that is known),
        memory_gb (the largest so far, of this process alone: on a GPU what tensors take),
        data_wait_fraction (of the time; of this process alone).
        """
        seconds = time.perf_counter() - self.started
        flops = sum(self._flops(shapes) * count for shapes, count in self.passes.items()) / seconds
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

    def _flops(self, shapes: Shapes) -> int:
        """Operations of one sample, forward and backward; counted on tensors without content."""
        if shapes not in self.counted:

            @torch.enable_grad()
            def forward_and_backward() -> None:
                batch = {name: torch.empty(shape, dtype=dtype) for name, shape, dtype in shapes}
                loss, _ = cast(Any, self.fake).loss(batch, [torch.Generator()])
                loss.backward()

            # Fused attention has no counted backward pass; its plain form has the same products.
            with self.fake_mode, sdpa_kernel(SDPBackend.MATH):
                self.counted[shapes] = total_flops(count_matmuls(forward_and_backward))
                self.fake.zero_grad(set_to_none=True)
        return self.counted[shapes]


def peak_flops(name: str) -> float | None:
    """What the GPU with this name can do in dense bf16 products, in FLOP/s; None where it is not known."""
    if OTHER_CHIPS.search(name):
        return None
    known = (peak for part, peak in PEAK_TFLOPS.items() if re.search(rf"\b{part}\b", name))
    return next((peak * 1e12 for peak in known), None)


def _shapes(batch: dict[str, Tensor]) -> Shapes:
    """The shapes of a batch of one of its samples."""
    sizes = {name: torch.Size((1, *batch[name].shape[1:])) for name in SAMPLES if name in batch}
    if "sequence" in sizes:
        *others, length = sizes["sequence"]
        sizes["sequence"] = torch.Size((*others, -(-length // SEQUENCE_STEP) * SEQUENCE_STEP))
    if "times" in batch:
        sizes["times"] = batch["times"].shape
    return tuple((name, size, batch[name].dtype) for name, size in sizes.items())
