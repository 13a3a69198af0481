"""Seconds, peak memory and floating-point operations of a run.

Operations are those of matrix products, at two per multiply-add. Convolutions count as the product of their
unfolded input and their weights, attention as its two products over all visible pairs of tokens. Softmax,
norms and other elementwise work are left out, as is usual for figures such as MFU.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# None on Windows, where psutil knows the peak.
resource: Any = import_module("resource") if find_spec("resource") else None
Kind = Literal["linear", "convolution", "attention"]
aten = torch.ops.aten


class Stopwatch:
    """Adds up the seconds inside `with stopwatch:`. On a GPU the block must end with a copy to the CPU."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds += time.perf_counter() - self._start


class PeakMemory:
    """Peak memory: of tensors since construction on a GPU, of the process since its start elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def megabytes(self) -> float:
        """In units of 10^6 bytes."""
        return peak_memory(self.device) / 1e6


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: by tensors on a GPU, by this process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class MatMul:
    """`batch` products of a matrix of `rows` x `inner` with one of `inner` x `columns`."""

    kind: Kind
    dtype: torch.dtype
    batch: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns


MatMuls = Counter[MatMul]


def count_matmuls(run: Callable[[], object]) -> MatMuls:
    """Matrix products that `run` computes, each with its number of occurrences.

    Gradients are off; for a backward pass, `run` turns them on. In fake mode
    (`torch._subclasses.FakeTensorMode`) nothing is computed. Operators inside compiled modules are not seen.
    """
    with torch.inference_mode(False), torch.no_grad(), _MatMulCounter() as counter:
        run()
    return counter.matmuls


def total_flops(matmuls: MatMuls) -> int:
    """Operations of all the products together."""
    return sum(matmul.flops * count for matmul, count in matmuls.items())


class _MatMulCounter(TorchDispatchMode):
    """Sees every operator after composite ones are decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.matmuls: MatMuls = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        reader = READERS.get(func.overloadpacket)
        if reader is not None:
            self.matmuls.update(reader(out, *args))
        return out


def _matmul(out: Tensor, a: Tensor, b: Tensor) -> list[MatMul]:
    rows, columns = out.shape[-2:]
    batch = out.shape[0] if out.ndim == 3 else 1
    return [MatMul("linear", a.dtype, batch, rows, a.shape[-1], columns)]


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *args: Any) -> list[MatMul]:
    transposed, groups = args[4], args[6]
    if transposed:  # every input value is multiplied by its part of the kernel
        rows, inner = x.numel() // x.shape[1], x.shape[1] // groups
        return [MatMul("convolution", x.dtype, groups, rows, inner, weight[0].numel())]
    rows = out.numel() // out.shape[1]
    inner, columns = weight[0].numel(), out.shape[1] // groups
    return [MatMul("convolution", x.dtype, groups, rows, inner, columns)]


def _convolution_backward(out: Any, grad: Tensor, x: Tensor, weight: Tensor, *args: Any) -> list[MatMul]:
    """Gradients of input and weights, where required, each as large as the forward product."""
    needs_grad = args[-1]
    return _convolution(grad, x, weight, *args) * sum(needs_grad[:2])


def _attention(out: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any) -> list[MatMul]:
    batch, queries, keys = q.shape[0] * q.shape[1], q.shape[2], k.shape[2]
    scores = MatMul("attention", q.dtype, batch, queries, q.shape[3], keys)
    return [scores, MatMul("attention", v.dtype, batch, queries, keys, v.shape[3])]


READERS: dict[Any, Callable[..., list[MatMul]]] = {
    aten.mm: _matmul,
    aten.bmm: _matmul,
    aten.addmm: lambda out, bias, a, b: _matmul(out, a, b),
    aten.baddbmm: lambda out, bias, a, b: _matmul(out, a, b),
    aten.convolution: _convolution,
    aten.convolution_backward: _convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
}
