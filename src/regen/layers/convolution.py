"""Conv3d: the 3D convolution of all networks, with what PyTorch's lacks on CPUs."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

# At most so many values in a column of pixels: PyTorch (2.9 to 2.13) computes a fp32 convolution of one clip
# by im2col, two to three times slower than oneDNN, which it takes for larger ones and for several clips.
SMALL_CLIP = 20480
# Values of a frame up to which the kernel that `Bf16Conv3d` avoids is right; it was wrong from twice as many.
SAFE_FRAME = 1 << 16
HAS_AMX = bool(torch.cpu.get_capabilities().get("amx_bf16", False))  # matrix registers for bf16


class Conv3d(nn.Conv3d):
    """Conv3d that casts fp16 weights to the dtype of its input, and learns right gradients on any CPU.

    The residual stream of convolutional networks exceeds the range of fp16, so they compute in fp32 in a
    model of this precision (see `not_fp16`). For gradients in bf16 see `Bf16Conv3d`.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.dtype == torch.float16:
            weight, bias = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
        if torch.is_grad_enabled() and weight.requires_grad and _is_bf16_on_amx(input, len(weight)):
            with torch.autocast("cpu", enabled=False):
                values = (None if x is None else x.to(torch.bfloat16) for x in (input, weight, bias))
                return Bf16Conv3d.apply(*values, self.stride, self.padding)
        if torch.is_grad_enabled() or self.padding[0] or not _is_small_clip(input) or weight.shape[2] == 1:
            return super()._conv_forward(input, weight, bias)
        frames = input.unfold(2, weight.shape[2], self.stride[0])
        frames = rearrange(frames, "1 c s h w k -> s c k h w")  # what each output frame sees, as clips
        return rearrange(super()._conv_forward(frames, weight, bias), "s d 1 y x -> 1 d s y x")


class Bf16Conv3d(torch.autograd.Function):
    """A 3D convolution in bf16 whose weight gradient is the sum of those of 2D convolutions.

    PyTorch (2.13) computes the one of 3D convolutions on CPUs with AMX by a kernel of oneDNN that, for large
    frames such as 12 channels of 96 x 96 pixels, writes beyond its memory: the process crashes, or gradients
    are wrong by a tenth. The kernel for 2D convolutions is right; each time of the weight is one of them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        return F.conv3d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (gradient,), stride, padding = ctx.saved_tensors, gradients, ctx.stride, ctx.padding
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = _backward(gradient, x, weight, stride, padding, (True, False, False))[0]
        if padding[0]:
            x = F.pad(x, (0, 0, 0, 0, padding[0], padding[0]))
        frames, span = gradient.movedim(2, 1).flatten(0, 1), stride[0] * (gradient.shape[2] - 1) + 1
        parts = []
        for k in range(weight.shape[2]):
            seen = x[:, :, k : k + span : stride[0]].movedim(2, 1).flatten(0, 1)
            mask = False, True, ctx.has_bias and k == 0
            parts.append(_backward(frames, seen, weight[:, :, k], stride[1:], padding[1:], mask))
        weight_gradient = torch.stack([part[1] for part in parts], dim=2)
        return x_gradient, weight_gradient, parts[0][2], None, None


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any, mask: tuple[bool, bool, bool]
) -> tuple[Any, ...]:
    """Gradients of a convolution's input, weight and bias, as far as `mask` asks for them."""
    ones, zeros = (1,) * len(stride), (0,) * len(stride)
    sizes = [len(weight)]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, sizes, stride, padding, ones, False, zeros, 1, mask
    )


def _is_bf16_on_amx(x: Tensor, out_channels: int) -> bool:
    """Whether a convolution of `x` computes in bf16 on a CPU with AMX, and its frames are large."""
    if x.device.type != "cpu" or not HAS_AMX:
        return False
    channels = -(-max(x.shape[1], out_channels) // 16) * 16
    if channels * (x.shape[3] + 2) * (x.shape[4] + 2) <= SAFE_FRAME:
        return False
    return x.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _is_small_clip(x: Tensor) -> bool:
    is_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return is_on_cpu and len(x) == 1 and x[..., 0].numel() <= SMALL_CLIP
