"""The processes that train together under torchrun: the only file that says "rank".

One process alone is a world of size 1, for which all of this does nothing.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from regen.runtime import pick_device

TIMEOUT = timedelta(minutes=30)  # how long a process waits for the others before it gives up
LOST_PROCESS = (
    "Another process of this training has ended or can't be reached; see what that one said: the same "
    "command goes on from the last checkpoint."
)

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    size: int = 1
    background: dist.ProcessGroup | None = None
    """A group for the thread that writes checkpoints, so that its messages never mix with others."""

    @property
    def is_main(self) -> bool:
        """Whether it is this process that tells and writes what is told and written once."""
        return self.rank == 0

    def all_reduce_max(self, *values: int) -> list[int]:
        """The largest of each number over all processes: what one of them wants, all do."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return [int(number) for number in numbers.tolist()]

    def broadcast(self, value: Any) -> Any:
        """What the main process gives, in all processes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Until all processes are here."""
        self.all_reduce_max(0)

    def all_reduce_mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of each number over the processes, all of which give the same names."""
        if self.size == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(numbers)
        return dict(zip(values, (numbers / self.size).tolist(), strict=True))

    def average_tensors(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def init_distributed(device: str | None) -> Iterator[DistributedContext]:
    """The world that torchrun has told this process of; leaves it at the end.

    Each process takes the GPU of its number on its machine. Raises ValueError when the device is not here,
    or when another process is lost on the way.
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
    """Whether an error means that another process has ended, or can't be reached."""
    signs = ("gloo", "nccl", "connection", "socket", "timed out")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)


class LossModule(nn.Module):
    """A model whose forward is its loss: what DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return cast(Any, self.model).loss(*arguments)


class Splittable(Protocol):
    """A model that names the classes of its blocks, which are sharded one by one, and the methods through
    which it is used."""

    _no_split_modules: tuple[str, ...]
    _forward_methods: tuple[str, ...]


@dataclass(frozen=True)
class Parallel:
    """How the loss of a model is computed so that gradients are those of the whole batch."""

    loss: Loss
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext
    """Opened around all passes of an update but the last: gradients are not yet exchanged."""


def parallelize(
    model: nn.Module, average: nn.Module, world: DistributedContext, fsdp: bool, dtype: torch.dtype
) -> Parallel:
    """Prepare `model` and its moving average in place for the processes of `world`.

    By default each process has all of both (DDP). With `fsdp` each holds a share of every parameter, of its
    gradient and of all that the optimizer keeps; blocks are put together in `dtype` when they are needed, and
    gradients are summed in fp32 (FSDP2).
    """
    loss: Loss = cast(Any, model).loss
    if world.size == 1:
        return Parallel(loss)
    if fsdp:
        for one in (model, average):
            shard(one, world, dtype)
        return Parallel(cast(Any, model).loss)
    # Still images leave what makes motion without a gradient, in all processes alike.
    parallel = DistributedDataParallel(
        LossModule(model),
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=True,
    )
    return Parallel(parallel, parallel.no_sync)


def shard(model: nn.Module, world: DistributedContext, dtype: torch.dtype) -> None:
    """FSDP2 on each block of `model` and on the rest."""
    mesh = init_device_mesh(world.device.type, (world.size,))
    # torch warns of blocks that return views, in case they are changed in place: here nothing is.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    names = cast(Splittable, model)._no_split_modules
    for module in list(model.modules()):
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for method in cast(Splittable, model)._forward_methods:
        register_fsdp_forward_method(model, method)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor of which each process holds a share, put together; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model, each put together; all processes have to call it."""
    return {name: full_tensor(tensor) for name, tensor in model.state_dict().items()}
