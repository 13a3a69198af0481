"""Device, precision, seeds and allocator."""

import ctypes
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn
from torch.backends import mkldnn
from torch.backends.cpu import get_cpu_capability

CPU_NAME_KEYS = ("model name", "Hardware", "Model")


def pick_device(name: str | None = None) -> torch.device:
    """The device, by default CUDA, then MPS, then the CPU. Raises ValueError when unknown or unavailable."""
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be cpu, cuda, cuda:N or mps, got {name!r}.") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ValueError(f"Device {name!r} is not available on this machine; omit --device or use cpu.")
    return device


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    entries = (line.partition(":") for line in lines)
    names = [value.strip() for key, _, value in entries if key.strip() in CPU_NAME_KEYS]
    return names[0] if names else platform.processor() or platform.machine()


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes: that of its weights, or where accelerate's or diffusers' hooks bring them."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if (device := getattr(one, "execution_device", None)) is not None:
                return torch.device(device)
        if hasattr(part, "_diffusers_hook"):
            from diffusers.models.modeling_utils import get_parameter_device  # slow, as are the hooks

            return get_parameter_device(module)
    return next(module.parameters()).device


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The dtype `name` (bf16, fp16 or fp32), by default bf16 where the hardware supports it."""
    if name is not None:
        if name not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}.")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and _cpu_supports_bf16() else torch.float32


def _cpu_supports_bf16() -> bool:
    """Whether oneDNN and torch's own kernels do; those of attention need AVX-512 on x86."""
    is_narrow = platform.machine() in ("x86_64", "AMD64") and "AVX512" not in get_cpu_capability()
    return mkldnn.is_available() and not is_narrow and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype: bf16, fp16 or fp32."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def fold_seed(seed: int, *indices: int) -> int:
    """A 63-bit seed derived from `seed` and all `indices` (step, sample, chunk) in order."""
    text = ",".join(str(int(value)) for value in (seed, *indices))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_for(seed: int, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded with `fold_seed(seed, *indices)`, on the CPU for the same numbers anywhere."""
    return torch.Generator(device).manual_seed(fold_seed(seed, *indices))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block on one CPU thread, because sums over several threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def interruptible(model: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each module of the model computes; what it raises ends the computation."""
    hooks = [module.register_forward_pre_hook(lambda *_: check()) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def set_threads(count: int | None) -> None:
    """Limit PyTorch to `count` threads of the CPU, here and in new processes; None keeps its default."""
    if count is None:
        return
    if count < 1:
        raise ValueError(f"--threads must be >= 1, got {count}.")
    torch.set_num_threads(count)
    os.environ["OMP_NUM_THREADS"] = str(count)


def tune_malloc() -> None:
    """Let glibc keep large freed blocks, so that CPU activations are not mapped and zeroed each time."""
    if sys.platform != "linux":
        return
    with suppress(OSError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold, limit = -1, -3, 1 << 30
        libc.mallopt(m_mmap_threshold, limit)
        libc.mallopt(m_trim_threshold, limit)


def release_memory() -> None:
    """Give freed memory back to the system, of torch's caches and of glibc (see `tune_malloc`)."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
