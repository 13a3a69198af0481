"""Optimizers and learning rate schedule."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from regen.embedders.pyramid import LINEAR_PATH
from regen.runtime import pick_dtype
from regen.train.distributed import Trainable


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for all parameters, or Muon for the transformer's matrices and AdamW for the rest."""

    learning_rate: float = 1e-4
    muon_learning_rate: float | None = None
    """Learning rate of Muon for the transformer's 2-D matrices; None leaves them to AdamW."""
    linear_learning_rate: float | None = None
    """Learning rate of the linear path of a model with linear_skip overlapping, which starts near its
    optimum; None: that of the others."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """Decoupled weight decay; not applied to norms, biases and other one-dimensional parameters."""
    warmup_steps: int = 2000
    decay_fraction: float = 0.0
    """Last fraction of the run, over which the learning rate decays linearly to 0."""
    max_grad_norm: float = 1.0
    """Gradient clipping: maximum norm of the gradient of all parameters."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction must be in [0, 1], got {self.decay_fraction}.")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0, got {self.warmup_steps}.")


class Muon(torch.optim.Muon):
    """torch.optim.Muon with its adjust_lr_fn match_rms_adamw; in fp32 on a CPU without bf16.

    There the bf16 of its Newton-Schulz iteration is emulated, which takes 60 times as long as fp32.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of the parameters that have a gradient; the value of `closure`, where there is one."""
        device = self.param_groups[0]["params"][0].device
        if device.type != "cpu" or pick_dtype(None, device) == torch.bfloat16:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: list[Tensor] = []
            gradients: list[Tensor] = []
            averages: list[Tensor] = []
            self._init_group(group, matrices, gradients, averages)
            for matrix, gradient, average in zip(matrices, gradients, averages, strict=True):
                average.lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(average, group["momentum"])  # Nesterov
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)
        return loss


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The matrix with its singular values near 1, by `steps` iterations of Newton-Schulz, in its own dtype.

    X <- a X + (b A + c A^2) X with A = X X^T and (a, b, c) = `coefficients`.
    """
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if is_tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Optimizers of all trainable parameters. Raises ValueError for Muon without trainable matrices."""
    matrices: list[nn.Parameter] = []
    optimizers: list[Optimizer] = []
    if config.muon_learning_rate is not None:
        matrices = [matrix for matrix in cast(Trainable, model).muon_parameters() if matrix.requires_grad]
        if not matrices:
            raise ValueError(
                "Muon needs trainable matrices, but the transformer is frozen; use "
                "--optimizer.muon-learning-rate None."
            )
        group = {"params": matrices, "initial_lr": config.muon_learning_rate}
        optimizers = [Muon([group], config.muon_learning_rate, config.weight_decay)]
    excluded = {id(matrix) for matrix in matrices}
    linear_rate = config.linear_learning_rate
    grouped: dict[tuple[float, float], list[nn.Parameter]] = {}  # by learning rate and weight decay
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in excluded:
            rate = config.learning_rate
            if linear_rate is not None and name.startswith(LINEAR_PATH):
                rate = linear_rate
            is_plain = parameter.ndim <= 1 or name.endswith("bias")
            grouped.setdefault((rate, 0.0 if is_plain else config.weight_decay), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "initial_lr": rate}
        for (rate, decay), parameters in grouped.items()
    ]
    return [AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True), *optimizers]


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Fraction of the full learning rate at update `step` (from 0) of `steps`.

    Linear warm-up from 1 / warmup_steps, constant, and linear decay that reaches 0 one update after the last.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    decay_steps = config.decay_fraction * steps
    decay = min(1.0, (steps - step) / decay_steps) if decay_steps else 1.0
    return min(warmup, decay)


def set_learning_rate(optimizers: list[Optimizer], factor: float) -> None:
    """Set every group's learning rate to `factor` times its initial one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
