"""PatchDiscriminator: real or decoded, for each patch of a clip."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers.convolution import Conv3d


class BlurPool(nn.Module):
    """Downsampling by 2 in t, y, x: [1 2 1]³ / 64 (Zhang 2019, arXiv 1904.11486); one frame stays one."""

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c s y x"]:
        x = F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate")
        for dim in (2, 3, 4):
            first, middle, last = x.unfold(dim, 3, 2).unbind(-1)
            x = (first + 2 * middle + last) / 4
        return x


class DiscriminatorBlock(nn.Module):
    """Residual block: 3³ convolution, BlurPool, 3³ convolution; the shortcut is blurred and projected."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv1 = Conv3d(channels, channels, 3, padding=1)
        self.conv2 = Conv3d(channels, out_channels, 3, padding=1)
        self.shortcut = Conv3d(channels, out_channels, 1, bias=False)
        self.down = BlurPool()

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d s y x"]:
        h = F.leaky_relu(self.conv1(x), 0.2)
        h = F.leaky_relu(self.conv2(self.down(h)), 0.2)
        return (h + self.shortcut(self.down(x))) * 0.5**0.5


class PatchDiscriminator(nn.Module):
    """Clips or images to one logit for each patch of `2 ** len(multipliers)` frames and pixels a side.

    It has no normalisation: R1 and LeCAM bound its gradients.
    """

    def __init__(self, width: int, multipliers: tuple[int, ...]):
        super().__init__()
        widths = [width, *(width * factor for factor in multipliers)]
        self.conv_in = Conv3d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(DiscriminatorBlock(a, b) for a, b in pairwise(widths)))
        self.conv_out = Conv3d(widths[-1], widths[-1], 3, padding=1)
        self.logits = Conv3d(widths[-1], 1, 1)

    def forward(self, clip: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b s y x"]:
        x = clip.to(memory_format=torch.channels_last_3d)
        x = self.blocks(F.leaky_relu(self.conv_in(x), 0.2))
        return self.logits(F.leaky_relu(self.conv_out(x), 0.2))[:, 0]
