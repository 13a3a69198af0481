"""Layers of the networks, and the gradient checkpointing of their blocks."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointedModule(nn.Module):
    """A network whose blocks are recomputed in the backward pass after `enable_gradient_checkpointing()`."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable = staticmethod(partial(checkpoint, use_reentrant=False))

    def call_block(self, block: nn.Module, *arguments: Any) -> Any:
        """Apply a block, checkpointed in training if that is enabled."""
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(block, *arguments)
        return block(*arguments)
