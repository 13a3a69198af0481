"""What a training keeps on each GPU: of every parameter, and while one pass goes forward and backward.

A pass is counted on tensors without content: all that are alive at once besides weights and their gradients,
with torch.autocast in bf16 as on NVIDIA's GPUs, where norms compute in fp32 (ATen/autocast_mode.h), and
attention by a kernel that keeps no scores.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regen.tiling import LATENT_STRIDE
from regen.train.distributed import Trainable
from regen.train.trainer import ModelConfig, build_model

FP32, BF16 = 4, 2  # bytes
MOMENTS = 2  # that AdamW keeps of each parameter


class Work(NamedTuple):
    """A batch of `samples`, of which `inputs` frames are encoded and `targets` frames decoded."""

    samples: int
    inputs: int
    targets: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.samples * self.targets * (self.height // LATENT_STRIDE) * (self.width // LATENT_STRIDE)

    def part(self, parts: int) -> "Work":
        """The largest of the parts that processes and passes work on."""
        return self._replace(samples=-(-self.samples // parts))

    def shapes(self) -> dict[str, torch.Size]:
        sizes = self.height, self.width
        return {
            "clip": torch.Size((self.samples, 3, self.inputs, *sizes)),
            "target": torch.Size((self.samples, 3, self.targets, *sizes)),
            "times": torch.Size((self.targets,)),
        }


class Alive(TorchDispatchMode):
    """Bytes of the tensors that come into being under it and are still there, and the `peak` of that."""

    def __init__(self, known: Iterator[Tensor]) -> None:
        super().__init__()
        self.seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        for value in tree_leaves(answer):
            if isinstance(value, Tensor) and value.untyped_storage() not in self.seen:
                storage = value.untyped_storage()
                self.seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return answer

    def _forget(self, size: int) -> None:
        self.now -= size


def pass_bytes(config: ModelConfig, work: Work, checkpointing: bool, weights: torch.dtype) -> int:
    """The peak of one pass of the training's loss over a batch, in bytes.

    `weights`: fp32 as DDP has them, of which autocast makes copies in bf16 that count; or bf16 as FSDP2 puts
    them together, which count elsewhere.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), norms_in_fp32():
        with of_type(weights):
            model = build_model(config).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(drop_gradient)
        batch = {name: torch.empty(shape) for name, shape in work.shapes().items()}
        generators = [torch.Generator() for _ in range(work.samples)]
        with Alive(model.parameters()) as alive:
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = model.loss(batch, generators)
            loss.backward()
    return alive.peak


def drop_gradient(parameter: Tensor) -> None:
    """The gradient of a parameter counts elsewhere, for as long as it is kept."""
    parameter.grad = None


@contextmanager
def of_type(dtype: torch.dtype) -> Iterator[None]:
    """In the block new parameters are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def norms_in_fp32() -> Iterator[None]:
    """In the block autocast treats norms on the CPU as it does on a GPU."""

    plain_layer_norm, plain_rms_norm = F.layer_norm, F.rms_norm

    def layer_norm(
        x: Tensor,
        shape: list[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return plain_layer_norm(x.float(), shape, as_fp32(weight), as_fp32(bias), eps)

    def rms_norm(
        x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return plain_rms_norm(x.float(), shape, as_fp32(weight), eps)

    with patch.object(F, "layer_norm", layer_norm), patch.object(F, "rms_norm", rms_norm):
        yield


def as_fp32(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


def state_bytes(model: nn.Module, gpus: tuple[int, ...]) -> dict[str, float]:
    """What each GPU keeps of the model, its gradient, its moving average and AdamW's moments.

    "ddp": all in fp32, and the gradient once more, in the buckets in which it is sent. "fsdp-N": a share of
    all in fp32; two blocks put together in bf16; the gradient of one in bf16 and, to be summed, in fp32.
    """
    parameters = parameters_of(model)
    kept = FP32 * (3 + MOMENTS) * parameters
    names = cast(Trainable, model)._no_split_modules
    blocks = [parameters_of(module) for module in model.modules() if type(module).__name__ in names]
    rest = parameters - sum(blocks)
    together = BF16 * (rest + 2 * max(blocks)) + (BF16 + FP32) * max(rest, *blocks)
    shared = {f"fsdp-{count}": kept / count + together for count in gpus}
    return {"ddp": kept + FP32 * parameters, **shared}


def parameters_of(module: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(parameter.numel() for parameter in module.parameters())
