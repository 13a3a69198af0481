"""Optimizer state by parameter names, and modules with an optimizer of their own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

TensorSpec = tuple[torch.Size, torch.dtype]  # shape and dtype of a tensor in a checkpoint


def named_state(optimizers: list[Optimizer], parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The state of all parameters as PARAMETER.QUANTITY; empty before the first step."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    return {
        f"{names[parameter]}.{quantity}": value
        for optimizer in optimizers
        for parameter, values in optimizer.state.items()
        for quantity, value in values.items()
    }


def allocate_state(
    optimizers: list[Optimizer], parameters: dict[str, nn.Parameter], specs: dict[str, TensorSpec]
) -> None:
    """Replace the state by zeros of the shapes and dtypes in `specs`, for a checkpoint to be loaded into."""
    owners = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for optimizer in optimizers:
        optimizer.state.clear()
    for name, (shape, dtype) in specs.items():
        name, _, quantity = name.rpartition(".")
        parameter = parameters[name]
        if parameter.shape == shape:  # sharded like the parameter
            value = torch.zeros_like(parameter.detach(), dtype=dtype)
        else:
            value = torch.zeros(shape, dtype=dtype, device=parameter.device)
        owners[parameter].state[parameter][quantity] = value


def strip_prefix(prefix: str, specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The entries below `prefix`, without `prefix` and the dot."""
    start = f"{prefix}."
    return {name.removeprefix(start): spec for name, spec in specs.items() if name.startswith(start)}


class SelfTrained:
    """A module of a loss that is trained by its own AdamW, once per optimizer step of the model."""

    def __init__(
        self, name: str, module: nn.Module, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.name, self.module = name, module
        self.optimizer = AdamW(module.parameters(), learning_rate, betas, weight_decay=0.0, fused=True)

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        """Take a step with the gradients of all calls since `discard`, after `average` over processes."""
        average([weight.grad for weight in self.module.parameters() if weight.grad is not None])
        self.optimizer.step()

    def discard(self) -> None:
        """Drop the gradients of the calls so far."""
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state for a checkpoint."""
        state = named_state([self.optimizer], dict(self.module.named_parameters()))
        return {
            **{f"{self.name}.{name}": value for name, value in self.module.state_dict().items()},
            **{f"optimizer.{name}": value for name, value in state.items()},
        }

    def prepare(self, specs: dict[str, TensorSpec]) -> None:
        """Allocate the optimizer state of a checkpoint with tensors of these shapes and dtypes."""
        parameters = dict(self.module.named_parameters())
        allocate_state([self.optimizer], parameters, strip_prefix("optimizer", specs))
