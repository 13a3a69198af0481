"""Convolutions that never look into the future, and a norm that mixes neither frames nor places."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Triple = tuple[int, int, int]


class CausalConv3d(nn.Module):
    """3D convolution over `b c t h w` that is causal in time (REGEN, Sec. 3; spec A2).

    Frame i of the output depends on frames up to i · stride of the input: `kernel - 1` copies of the first
    frame are put before it, so nothing that was never filmed (black frames) enters. A stride s maps T frames
    to floor((T - 1) / s) + 1, hence 1 frame to 1 frame. In space odd kernels are centred and see zeros beyond
    the border; even ones, which tile the picture, are not padded.
    """

    def __init__(
        self, channels: int, out_channels: int, kernel: Triple = (3, 3, 3), stride: Triple = (1, 1, 1)
    ):
        super().__init__()
        sides = [side // 2 if side % 2 else 0 for side in kernel[1:]]
        self.conv = nn.Conv3d(channels, out_channels, kernel, stride, padding=(0, sides[0], sides[1]))
        self.history = kernel[0] - 1

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d s y x"]:
        if self.history:
            first = x[:, :, :1].expand(-1, -1, self.history, -1, -1)
            x = torch.cat([first, x], dim=2)
        return self.conv(x)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each place and frame apart (spec A2).

    No statistic carries later frames into earlier ones, and none depends on the size of the picture: a
    GroupNorm over whole frames would take out their mean colours, which the latents have to tell.
    """

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        x = rearrange(x, "b c t h w -> b t h w c")
        x = F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return rearrange(x, "b t h w c -> b c t h w")


class CausalResBlock(nn.Module):
    """norm, SiLU, 3³ convolution, twice, beside a shortcut (1³ convolution where the width changes)."""

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
