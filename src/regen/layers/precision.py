"""Fp32Module: a part of a network that stays in fp32 in a model of any precision."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Fp32Module(nn.Module):
    """A module whose parameters are fp32 however the model around it is cast, loaded or sharded.

    `.to`, `.bfloat16` and `.half` change its device alone, and FSDP gathers it in fp32
    (`train/distributed.py`). A diffusers model lists its attribute in `_keep_in_fp32_modules`, which
    `from_pretrained` reads. `forward` has to leave autocast.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep_fp32(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            is_fp32 = result.dtype == torch.float32 or not result.is_floating_point()
            return result if is_fp32 else tensor.to(result.device, torch.float32)

        return super()._apply(keep_fp32, recurse)
