"""Device, precision and seeds: values that are passed on as arguments, never globals."""

import ctypes
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def pick_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the best one here (CUDA, then MPS, then the CPU).

    Raises ValueError when the name is unknown or the device is not available.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"There is no device called {name!r}; use cpu, cuda, cuda:1 or mps.") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ValueError(f"Device {name!r} is not available on this machine; leave --device away or use cpu.")
    return device


DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """The precision called `name` (bf16, fp16, fp32); by default bf16 where the hardware has it."""
    if name is not None:
        if name not in DTYPES:
            raise ValueError(f"There is no dtype called {name!r}; use one of {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.float32


def name_of(dtype: torch.dtype) -> str:
    """The short name of a precision: bf16, fp16 or fp32."""
    return next(name for name, value in DTYPES.items() if value == dtype)


def fold_seed(seed: int, *indices: int) -> int:
    """A 63-bit seed that depends on `seed` and on all `indices` (step, sample, chunk), in their order."""
    text = ",".join(str(int(value)) for value in (seed, *indices))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_for(seed: int, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for `fold_seed(seed, *indices)`; by default the CPU's, whose numbers suit every device."""
    return torch.Generator(device).manual_seed(fold_seed(seed, *indices))


@contextmanager
def one_thread() -> Iterator[None]:
    """In the block PyTorch computes on one thread of the CPU: sums over several differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks instead of returning them to the kernel after every tensor.

    Without it each activation on the CPU is mapped, zeroed and unmapped anew. Does nothing elsewhere.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library: nothing to set
        return
    m_trim_threshold, m_mmap_threshold, limit = -1, -3, 1 << 30
    libc.mallopt(m_mmap_threshold, limit)
    libc.mallopt(m_trim_threshold, limit)
