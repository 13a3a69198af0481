"""Memory of tensors, counted with or without running the computation."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """The most bytes of tensors that exist at once among those created in its context: `peak`.

    In fake mode (`torch._subclasses.FakeTensorMode`) nothing is computed and no memory is needed. The
    workspace inside kernels and what an allocator can't use are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = [value.untyped_storage() for value in tree_leaves((args, kwargs)) if _is_tensor(value)]
        out = func(*args, **(kwargs or {}))
        known = {storage._cdata for storage in inputs}
        for value in filter(_is_tensor, tree_leaves(out)):
            storage = value.untyped_storage()
            if storage._cdata not in known and storage not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, size: int) -> None:
        self.now -= size


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak of the bytes that `run` holds at once, besides the tensors that exist already."""
    with PeakBytes() as counter:
        run()
    return counter.peak


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


@contextmanager
def gpu_norms() -> Iterator[None]:
    """In the context norms compute in fp32 under torch.autocast on the CPU, as they do on a GPU."""

    def layer_norm(
        x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return plain_layer_norm(x.float(), shape, _float(weight), _float(bias), eps)

    def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return plain_rms_norm(x.float(), shape, _float(weight), eps)

    plain_layer_norm, plain_rms_norm = F.layer_norm, F.rms_norm
    with patch.object(F, "layer_norm", layer_norm), patch.object(F, "rms_norm", rms_norm):
        yield


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()
