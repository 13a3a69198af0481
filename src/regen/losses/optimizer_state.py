"""Optimizer state under the names of the parameters, for checkpoints."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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
    optimizers: list[Optimizer],
    parameters: dict[str, nn.Parameter],
    specs: dict[str, TensorSpec],
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
