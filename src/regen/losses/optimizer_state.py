"""What optimizers keep of each parameter, under the parameter's name, for checkpoints."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Size = tuple[torch.Size, torch.dtype]  # of a tensor in a checkpoint


def moments(optimizers: list[Optimizer], parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """What the optimizers keep of each parameter, as PARAMETER.QUANTITY; nothing before its first update."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    kept: dict[str, Tensor] = {}
    for optimizer in optimizers:
        for parameter, values in optimizer.state.items():
            kept |= {f"{names[parameter]}.{quantity}": value for quantity, value in values.items()}
    return kept


def make_moments(
    optimizers: list[Optimizer],
    parameters: dict[str, nn.Parameter],
    sizes: dict[str, Size],
) -> None:
    """Make what `moments` would name, for a checkpoint to be read into; forgets what is there."""
    owners = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for optimizer in optimizers:
        optimizer.state.clear()
    for name, (shape, dtype) in sizes.items():
        name, _, quantity = name.rpartition(".")
        parameter = parameters[name]
        if parameter.shape == shape:  # like the parameter, which may lie in parts in several processes
            value = torch.zeros_like(parameter.detach(), dtype=dtype)
        else:
            value = torch.zeros(shape, dtype=dtype, device=parameter.device)
        owners[parameter].state[parameter][quantity] = value


def below(part: str, sizes: dict[str, Size]) -> dict[str, Size]:
    """The entries whose names begin with `part` and a dot, without that."""
    start = f"{part}."
    return {name.removeprefix(start): size for name, size in sizes.items() if name.startswith(start)}
