"""CausalEncoder: a pyramid of causal 3D convolutions."""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers import CheckpointedModule
from regen.layers.causal import CausalConv3d, CausalResBlock, ChannelNorm, Triple
from regen.layers.precision import not_fp16

# Stride (t, h, w) of the convolution that ends each stage: eight-fold in space at every ratio; each higher
# ratio adds the temporal stride of one more stage.
STRIDES: dict[int, tuple[Triple, ...]] = {
    4: ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    8: ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 1, 1), (1, 1, 1)),
    16: ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 1, 1), (2, 1, 1)),
    32: ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 1, 1), (2, 1, 1)),
}


def stride_plan(ratio: int, patch_size: int) -> tuple[Triple, ...]:
    """Strides of all stages after a space-to-depth stem of `patch_size`."""
    if ratio not in STRIDES:
        raise ValueError(f"temporal_compression_ratio must be 4, 8, 16 or 32, got {ratio}.")
    if patch_size not in (1, 2, 4, 8):
        raise ValueError(f"encoder_patch_size must be 1, 2, 4 or 8, got {patch_size}.")
    plan: list[Triple] = []
    for t, h, w in STRIDES[ratio]:
        done = patch_size > 1 and h == 2
        patch_size = patch_size // 2 if done else patch_size
        plan.append((t, 1, 1) if done else (t, h, w))
    return tuple(plan)


class Stage(nn.Module):
    """Residual blocks, then a causal convolution with the stage's stride."""

    def __init__(self, channels: int, out_channels: int, blocks: int, stride: Triple):
        super().__init__()
        widths = (out_channels if index else channels for index in range(blocks))
        self.blocks = nn.Sequential(*(CausalResBlock(width, out_channels) for width in widths))
        self.down = CausalConv3d(out_channels, out_channels, stride=stride)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d s y x"]:
        return self.down(self.blocks(x))


class CausalEncoder(CheckpointedModule):
    """Frames to latents: 1 + k frames to 2 latent frames, 1 to 1, space eight-fold smaller (REGEN, Sec. 3).

    Latent frame 0 depends on frame 0 only. `patch_size` > 1 replaces the first spatial halvings by a
    space-to-depth stem, which saves most of the cost of a small encoder (paper: 1). `linear_skip` adds a
    linear map from each cube of pixels to its latent, while the pyramid starts at zero and learns the
    residual; small encoders then train several times faster (paper: none).
    """

    def __init__(
        self,
        out_channels: int,
        widths: tuple[int, ...],
        strides: tuple[Triple, ...],
        blocks: int,
        patch_size: int,
        linear_skip: bool,
    ):
        super().__init__()
        self.patch_size = patch_size
        self.conv_in = CausalConv3d(3 * patch_size**2, widths[0])
        inputs = (widths[0], *widths[:-1])
        plan = zip(inputs, widths, strides, strict=True)
        self.stages = nn.ModuleList(Stage(a, b, blocks, stride) for a, b, stride in plan)
        self.mid = nn.Sequential(*(CausalResBlock(widths[-1], widths[-1]) for _ in range(blocks)))
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, kernel=(1, 1, 1))
        self.linear_skip: CausalConv3d | None = None
        if linear_skip:
            nn.init.zeros_(self.conv_out.conv.weight)
            k, side = (math.prod(stride[axis] for stride in strides) for axis in (0, 1))
            side *= patch_size
            self.linear_skip = CausalConv3d(3, out_channels, (k + 1, side, side), (k, side, side))

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c n y x"]:
        p, dtype, video = self.patch_size, video.dtype, not_fp16(video)
        x = rearrange(video, "b c t (h p) (w q) -> b t h w (c p q)", p=p, q=p)
        x = self.conv_in(rearrange(x, "b t h w c -> b c t h w"))  # channels last, which convolutions keep
        for stage in self.stages:
            x = self.call_block(stage, x)
        x = self.mid(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        x = x if self.linear_skip is None else x + self.linear_skip(video)
        return x.to(dtype)
