"""Causal 3D convolution, channel normalisation and residual block."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Triple = tuple[int, int, int]


# At most so many values in a column of pixels: PyTorch (2.9 to 2.13) computes a fp32 convolution of one clip
# by im2col, two to three times slower than oneDNN, which it takes for larger ones and for several clips.
SMALL_CLIP = 20480


class Conv3d(nn.Conv3d):
    """Conv3d without padding in time that casts fp16 weights to the dtype of its input.

    The residual stream of convolutional networks exceeds the range of fp16, so they compute in fp32 in a
    model of this precision (see `not_fp16`).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.dtype == torch.float16:
            weight, bias = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
        if torch.is_grad_enabled() or not _is_small_clip(input) or weight.shape[2] == 1:
            return super()._conv_forward(input, weight, bias)
        frames = input.unfold(2, weight.shape[2], self.stride[0])
        frames = rearrange(frames, "1 c s h w k -> s c k h w")  # what each output frame sees, as clips
        return rearrange(super()._conv_forward(frames, weight, bias), "s d 1 y x -> 1 d s y x")


def _is_small_clip(x: Tensor) -> bool:
    is_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return is_on_cpu and len(x) == 1 and x[..., 0].numel() <= SMALL_CLIP


class CausalConv3d(nn.Module):
    """3D convolution over `b c t h w` that is causal in time (REGEN, Sec. 3).

    Output frame i depends on input frames up to i · stride. The input is padded in front with `kernel - 1`
    copies of its first frame (black frames would leave the data distribution), so T frames become floor((T -
    1) / stride) + 1, and one frame stays one. In space, odd kernels are zero-padded to keep the size; even
    kernels, which tile the picture, are not padded.
    """

    def __init__(
        self, channels: int, out_channels: int, kernel: Triple = (3, 3, 3), stride: Triple = (1, 1, 1)
    ):
        super().__init__()
        sides = [side // 2 if side % 2 else 0 for side in kernel[1:]]
        self.conv = Conv3d(channels, out_channels, kernel, stride, padding=(0, sides[0], sides[1]))
        self.time_pad = kernel[0] - 1

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d s y x"]:
        if self.time_pad:
            x = torch.cat(
                [x[:, :, :1]] * self.time_pad + [x], dim=2
            )  # keeps channels last, as expand does not
        return self.conv(x)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position and frame (docs/method.md, 2).

    Statistics over time would break causality; a GroupNorm over whole frames would depend on the size of the
    picture and remove the mean colour, which the latents have to carry.
    """

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        x = rearrange(x, "b c t h w -> b t h w c")
        x = F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return rearrange(x, "b t h w c -> b c t h w")


class CausalResBlock(nn.Module):
    """Residual block: twice norm, SiLU and 3³ convolution; a 1³ convolution as shortcut if widths differ."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.conv1 = CausalConv3d(channels, out_channels)
        self.norm2 = ChannelNorm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else CausalConv3d(channels, out_channels, kernel=(1, 1, 1))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


class DetailHead(nn.Module):
    """Features of pixels to a correction of them: two 3 x 3 convolutions of each frame apart.

    It sees across the borders of patches, whose pixels come from one token each. It starts at zero, so that
    the patches are learned first.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.conv2 = Conv3d(channels, 3, (1, 3, 3), padding=(0, 1, 1))
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 t h w"]:
        return self.conv2(F.silu(self.conv1(features)))
