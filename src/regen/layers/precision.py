"""Precision: parts of networks that stay in fp32, and LayerNorm with weights of another dtype."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def not_fp16(x: Tensor) -> Tensor:
    """`x` in fp32 where it is fp16, for networks whose values exceed the range of fp16."""
    return x.float() if x.dtype == torch.float16 else x


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the dtype of its input; layerwise casting (diffusers) leaves its weights alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
