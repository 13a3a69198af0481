"""One update: the gradient of a whole batch from the parts that processes and passes work on."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from regen.runtime import generator_for
from regen.train.distributed import DistributedContext, Loss, Parallel, full_tensor
from regen.train.state import Stateful, TrainState

Batch = dict[str, Tensor]

# No sample has a negative index, so the noise of the loss never repeats the numbers that drew the data.
LOSS_STREAM = -1
# What the loop itself reads of a batch, and numbers that act as such on any device.
ON_THE_CPU = frozenset({"rows", "batch_size", "replaced", "progress"})


@runtime_checkable
class AuxiliaryLoss(Stateful, Protocol):
    """(target, reconstruction) -> a loss besides the model's own, and what to log of it.

    `update` lets it learn from the calls since the last one, with a function that replaces tensors by their
    mean over all processes; `discard` forgets those calls.
    """

    def __call__(self, target: Tensor, reconstruction: Tensor, /) -> tuple[Tensor, dict[str, Tensor]]: ...

    def update(self, average: Callable[[list[Tensor]], None]) -> None: ...

    def discard(self) -> None: ...


class Gradient:
    """Sums the gradient of an update over passes, and applies or discards it."""

    def __init__(
        self,
        parallel: Parallel,
        state: TrainState,
        world: DistributedContext,
        dtype: torch.dtype,
        seed: int,
        clip_norm: float,
        further: AuxiliaryLoss | None,
    ) -> None:
        self.parallel, self.state, self.world = parallel, state, world
        self.dtype, self.seed, self.clip_norm, self.further = dtype, seed, clip_norm, further
        self.passes: list[Batch] = []
        self.loss = torch.zeros((), device=world.device)

    def add(self, batch: Batch, is_last: bool) -> dict[str, Tensor]:
        """Add the gradient of this process's next part of the batch; returns what to log of it.

        The noise of a sample follows from (seed, step, its row in the whole batch). Parts count by their
        numbers of samples, so the sum over all of them is the gradient of the mean over the whole batch.
        """
        self.passes.append(batch)
        device, rows = self.world.device, batch["rows"].tolist()
        generators = [
            generator_for(self.seed, LOSS_STREAM, self.state.step, row, device=device) for row in rows
        ]
        there = {
            name: value if name in ON_THE_CPU else value.to(device, non_blocking=True)
            for name, value in batch.items()
        }
        # Processes average their gradients: what all of them have counts `size` times.
        weight = self.world.size * len(rows) / int(batch["batch_size"])
        loss_of: Loss = self.parallel.loss
        with nullcontext() if is_last else self.parallel.no_sync():
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss, logs = (
                    loss_of(there, generators)
                    if self.further is None
                    else loss_of(there, generators, self.further)
                )
            (loss * weight).backward()
        self.loss += loss.detach().float()
        return {**logs, "loss": loss.detach()}

    def finish(self) -> tuple[Tensor, bool]:
        """The norm of the whole gradient, which is then clipped, and whether it and the loss are numbers.

        Waits for the device: what is not finite must not reach a weight.
        """
        norm = full_tensor(clip_grad_norm_(self.state.model.parameters(), self.clip_norm, foreach=True))
        return norm, bool(torch.isfinite(self.loss) & torch.isfinite(norm))

    def apply(self) -> None:
        """Update weights, what learns beside them, and the moving average; count the step."""
        for optimizer in self.state.optimizers:
            optimizer.step()
        if self.further is not None:
            self.further.update(self.world.average_tensors)
        self.state.step += 1
        self.state.ema.update(self.state.step)
        self.discard()

    def discard(self) -> None:
        """Forget the gradient."""
        for optimizer in self.state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.further is not None:
            self.further.discard()
        self.passes.clear()
        self.loss.zero_()

    def keep(self, folder: Path) -> Path:
        """Save this process's parts of the batch, for inspection; returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self.state.step + 1:08d}-{self.world.rank}.pt"
        content: dict[str, Any] = {"step": self.state.step, "seed": self.seed, "batches": self.passes}
        torch.save(content, path)
        return path
