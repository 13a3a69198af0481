"""CausalDecoder: the convolutional decoder of MAGVIT-v2."""

import math
from itertools import pairwise

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers import CheckpointedModule
from regen.layers.causal import CausalConv3d, CausalResBlock, ChannelNorm, DetailHead, Triple
from regen.layers.precision import not_fp16


def pixel_shuffle_3d(x: Float[Tensor, "b e t h w"], factor: Triple) -> Float[Tensor, "b c T H W"]:
    """Causal 3-D pixel shuffle: t × h × w to (s (t - 1) + 1) × p h × q w for the factor (s, p, q).

    Of the s frames of the first latent frame only the last one is kept, because the first frame of a causal
    sequence stands for one frame. For s = 2: 2 → 3 → 5 → 9 → 17 → 33 frames.
    """
    s, p, q = factor
    x = rearrange(x, "b (c s p q) t h w -> b c (t s) (h p) (w q)", s=s, p=p, q=q)
    return x[:, :, s - 1 :]


class Upsampler(nn.Module):
    """Causal convolution and 3-D pixel shuffle by `factor` (t, h, w)."""

    def __init__(self, channels: int, out_channels: int, factor: Triple, kernel: Triple = (3, 3, 3)):
        super().__init__()
        self.factor = factor
        self.conv = CausalConv3d(channels, out_channels * math.prod(factor), kernel)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d T H W"]:
        return pixel_shuffle_3d(self.conv(x), self.factor)


class CausalDecoder(CheckpointedModule):
    """Latents to frames, the mirror of `CausalEncoder`: n latent frames to k (n - 1) + 1, one to one.

    `widths` and `strides` are those of the encoder's stages, in the encoder's order. Frame 0 depends on
    latent frame 0 only. `late_upsampling` moves all up-samplers behind the last stage, which bounds the
    memory of the residual blocks (paper: at 32×). `patch_size` > 1 leaves the last spatial doublings to the
    output layer. `linear_skip` adds a linear map from two neighbouring latents to the cube of pixels of the
    later one, while the pyramid starts at zero. `detail_channels`: channels of a `DetailHead` over the
    pixels; 0: none.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        strides: tuple[Triple, ...],
        blocks: int,
        patch_size: int,
        late_upsampling: bool,
        linear_skip: bool,
        detail_channels: int = 0,
    ):
        super().__init__()
        assert len(widths) == len(strides), (widths, strides)
        widths, strides = widths[::-1], strides[::-1]
        self.conv_in = CausalConv3d(channels, widths[0])
        self.mid = nn.Sequential(*(CausalResBlock(widths[0], widths[0]) for _ in range(blocks)))
        stages: list[nn.Sequential] = []
        for width, out_width, stride in zip((widths[0], *widths), widths, strides, strict=False):
            parts: list[nn.Module] = [
                CausalResBlock(a, b) for a, b in pairwise([width] + [out_width] * blocks)
            ]
            if not late_upsampling:
                parts.append(Upsampler(out_width, out_width, stride))
            stages.append(nn.Sequential(*parts))
        if late_upsampling:
            stages += [nn.Sequential(Upsampler(widths[-1], widths[-1], stride)) for stride in strides]
        self.stages = nn.ModuleList(stages)
        self.norm_out = ChannelNorm(widths[-1])
        self.out = Upsampler(widths[-1], 3, (1, patch_size, patch_size))
        self.detail: DetailHead | None = None
        if detail_channels:
            factor = (1, patch_size, patch_size)
            self.detail_features = Upsampler(widths[-1], detail_channels, factor, kernel=(1, 1, 1))
            self.detail = DetailHead(detail_channels)
        self.linear_skip: Upsampler | None = None
        if linear_skip:
            nn.init.zeros_(self.out.conv.conv.weight)
            k, side = (math.prod(stride[axis] for stride in strides) for axis in (0, 1))
            side *= patch_size
            self.linear_skip = Upsampler(channels, 3, (k, side, side), kernel=(2, 1, 1))

    def forward(self, latents: Float[Tensor, "b c n y x"]) -> Float[Tensor, "b 3 t h w"]:
        dtype, latents = latents.dtype, not_fp16(latents)
        x = self.mid(self.conv_in(latents))
        for stage in self.stages:
            x = self.call_block(stage, x)
        x = F.silu(self.norm_out(x))
        pixels = self.out(x)
        if self.detail is not None:
            pixels = pixels + self.detail(self.detail_features(x))
        pixels = pixels if self.linear_skip is None else pixels + self.linear_skip(latents)
        return pixels.to(dtype)
