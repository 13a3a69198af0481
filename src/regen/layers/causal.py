"""Causal 3D convolution, channel normalisation and residual block."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers.convolution import Conv3d

Triple = tuple[int, int, int]


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
