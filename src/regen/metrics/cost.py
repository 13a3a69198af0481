"""Seconds and peak memory of a run."""

import resource
import sys
import time

import torch


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
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
