"""Processes that train together under torchrun: DDP, FSDP2 and collectives.

A single process has a context of size 1, for which the collectives do nothing.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from regen.layers.precision import Fp32Module
from regen.runtime import pick_device

TIMEOUT = timedelta(minutes=30)  # of collectives
LOST_PROCESS = (
    "Another process of this training has ended or can't be reached, see its error; the same command resumes "
    "from the last checkpoint."
)

LossFunction = Callable[..., tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class DistributedContext:
    """Device and rank of this process, and the collectives of all processes that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1
    background: dist.ProcessGroup | None = None
    """Separate group for the thread that writes checkpoints, so that its messages never mix with others."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes what exists once."""
        return self.rank == 0

    def all_reduce_max(self, *values: int) -> list[int]:
        """Largest of each number over the processes."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return [int(number) for number in numbers.tolist()]

    def all_reduce_mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each number over the processes, which all give the same names."""
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        self.average_tensors([numbers])
        return dict(zip(values, numbers.tolist(), strict=True))

    def average_tensors(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def broadcast(self, value: Any) -> Any:
        """The main process's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        self.all_reduce_max(0)


@contextmanager
def init_distributed(device: str | None) -> Iterator[DistributedContext]:
    """Context of this process from torchrun's environment; leaves the process group at the end.

    Each process takes the GPU of its local rank. Raises ValueError when the device is not available, or when
    another process is lost.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    target = pick_device(device)
    if size == 1:
        yield DistributedContext(target)
        return
    if target.type == "cuda":
        target = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(target)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if target.type == "cuda" else "gloo", timeout=TIMEOUT)
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        yield DistributedContext(target, dist.get_rank(), size, group)
        dist.destroy_process_group()
    except RuntimeError as error:
        if is_connection_error(error):
            raise ValueError(LOST_PROCESS) from None
        raise


def is_connection_error(error: BaseException) -> bool:
    """Whether an error means that another process has ended or can't be reached."""
    signs = ("gloo", "nccl", "connection", "socket", "timed out")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


class Trainable(Protocol):
    """What training uses of a model besides `nn.Module`."""

    _no_split_modules: tuple[str, ...]  # classes of the blocks that FSDP shards one by one
    _forward_methods: tuple[str, ...]  # entry points

    def loss(self, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]: ...

    def muon_parameters(self) -> list[nn.Parameter]: ...

    def enable_gradient_checkpointing(self) -> None: ...


class LossModule(nn.Module):
    """A model whose forward is its loss, for DistributedDataParallel to wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return cast(Trainable, self.model).loss(*arguments)


def parallelize(
    model: nn.Module, average: nn.Module, context: DistributedContext, fsdp: bool, dtype: torch.dtype
) -> tuple[LossFunction, Callable[[], AbstractContextManager[None]]]:
    """Prepare `model` and its EMA copy `average` in place for the processes of `context`.

    Returns the loss function, whose gradients are averaged over the processes, and a context without that
    exchange, for all micro-batches of an update but the last. By default every process holds all weights
    (DDP). With `fsdp` parameters, gradients and optimizer state are sharded; blocks are gathered in `dtype`,
    parts that stay in fp32 in that, and gradients are reduced in fp32 (FSDP2).
    """
    if fsdp and context.size > 1:
        for module in (model, average):
            shard(module, context, dtype)
    if fsdp or context.size == 1:
        return cast(Trainable, model).loss, nullcontext
    parallel = DistributedDataParallel(
        LossModule(model),
        device_ids=[context.device] if context.device.type == "cuda" else None,
        find_unused_parameters=True,  # images leave the motion parameters without a gradient
    )
    return parallel, parallel.no_sync


def shard(model: nn.Module, context: DistributedContext, dtype: torch.dtype) -> None:
    """Apply FSDP2 to each block of `model`, to each part that stays in fp32, and to the rest."""
    mesh = init_device_mesh(context.device.type, (context.size,))
    # torch warns about blocks that return views, in case they are modified in place; none is here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    names = cast(Trainable, model)._no_split_modules
    for module in reversed(list(model.modules())):  # parts before what contains them
        if isinstance(module, Fp32Module):
            fully_shard(module, mesh=mesh, mp_policy=replace(policy, param_dtype=torch.float32))
        elif type(module).__name__ in names:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for method in cast(Trainable, model)._forward_methods:
        register_fsdp_forward_method(model, method)


def compile_blocks(model: nn.Module) -> None:
    """Compile the forward of each block, in place; call it before the model is sharded."""
    # Batches of images and of each task have numbers of tokens of their own.
    torch._dynamo.config.recompile_limit = 64
    names = cast(Trainable, model)._no_split_modules
    for module in model.modules():
        if type(module).__name__ in names:
            module.compile()


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(model: nn.Module, context: DistributedContext) -> dict[str, Tensor]:
    """A model's state dict with whole tensors, on the CPU of the main process; empty elsewhere.

    One tensor at a time is whole on the devices. Collective.
    """
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        whole = full_tensor(tensor)
        if context.is_main:
            weights[name] = whole.cpu()
    return weights
