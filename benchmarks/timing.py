"""How long work takes: of a model, of the matrix products in it, and of each kind of operator."""

import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch exports it without saying so
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from regen.metrics.cost import MatMul, MatMuls

SHORTEST = 2e-3  # seconds: shorter work is repeated between two looks at the clock
LARGEST_MATRIX = 1 << 27  # numbers; of larger products a part is timed
SQUARES = {"cpu": (512, 1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}

ELEMENTWISE = "add|sub|mul|div|addcmul|lerp|gelu|silu|sin|cos|exp|abs|where|clamp|pow|rsqrt|neg|lt|mean|sum"
KINDS = {
    "attention": r"_?scaled_dot_product_.*",
    "norms": r".*(layer|rms)_norm",
    "matrix products": r"linear|matmul|b?mm|add(b?mm|bmm)|baddbmm|conv3d|.*_?convolution",
    "copies": r"copy_|clone|contiguous|reshape|cat|stack|to|_to_copy|constant_pad_nd|index|fill_|zero_",
    "random numbers": r"randn?|normal_|random_",
    "value by value": rf"({ELEMENTWISE})_?",
}
FUSED, OTHER = "fused by the compiler", "other"


def seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Median duration of `work` in `repeats` looks at the clock, after two runs for warm-up."""
    work()
    once = _seconds(work, 1, device)
    calls = max(1, int(SHORTEST / once))
    return median(_seconds(work, calls, device) for _ in range(repeats))


def _seconds(work: Callable[[], object], calls: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    _wait(device)
    return (time.perf_counter() - start) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_rate(dtype: torch.dtype, device: torch.device, sides: tuple[int, ...] = ()) -> float:
    """Operations per second of the square matrix product, of several sizes, that is fastest here."""
    sides = sides or SQUARES.get(device.type, SQUARES["cpu"])
    squares = [MatMul("linear", dtype, 1, side, side, side) for side in sides]
    return max(square.flops / seconds_alone(square, device) for square in squares)


def products_seconds(products: MatMuls, device: torch.device) -> float:
    """Time of all the products as plain matrix products, each measured alone."""
    return sum(seconds_alone(product, device) * count for product, count in products.items())


def seconds_alone(product: MatMul, device: torch.device) -> float:
    """Time of one product with plain matrices; the second lies as it is or transposed, whichever is faster.

    Of a product whose matrices exceed `LARGEST_MATRIX` numbers a part is timed: fewer products of a batch,
    then fewer rows.
    """
    widest = max(product.inner, product.columns)
    rows = min(product.rows, max(1, LARGEST_MATRIX // widest))
    batch = min(product.batch, max(1, LARGEST_MATRIX // (rows * widest)))
    a = torch.randn(batch, rows, product.inner, device=device, dtype=product.dtype)
    straight = torch.randn(batch, product.inner, product.columns, device=device, dtype=product.dtype)
    turned = straight.mT.contiguous().mT
    if batch == 1:
        a, straight, turned = a[0], straight[0], turned[0]
    fastest = min(seconds(partial(torch.matmul, a, b), 5, device) for b in (straight, turned))
    return fastest * product.flops / (2 * batch * rows * product.inner * product.columns)


def times_by_kind(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of one run of `work` in each kind of operator, the longest first."""
    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        work()
        _wait(device)
    times: Counter[str] = Counter()
    for event in profiler.events():
        if event.device_type == DeviceType.CPU:
            own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            times[kind_of(event)] += own / 1e6
    return dict(times.most_common())


def kind_of(event: FunctionEvent | None) -> str:
    """The kind of the outermost operator around an event that has one: a norm made of powers is a norm."""
    kind = OTHER
    while event is not None:
        name = event.name.removeprefix("aten::")
        known = next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name)), None)
        if known is not None:
            kind = known
        elif kind == OTHER and "Compiled" in name:
            kind = FUSED
        event = event.cpu_parent
    return kind
