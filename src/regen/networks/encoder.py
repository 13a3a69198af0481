"""CausalEncoder: a pyramid of causal 3D convolutions (spec A2; REGEN, Sec. 3)."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from regen.layers.causal import CausalConv3d, CausalResBlock, ChannelNorm, Triple

# Stride (t, h, w) of the down-sampling convolution that ends each stage. Eight-fold in space in every row;
# each higher ratio switches on the temporal stride of one more stage, until at 32 all five carry one.
STRIDES: dict[int, tuple[Triple, ...]] = {
    4: ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    8: ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 1, 1), (1, 1, 1)),
    16: ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 1, 1), (2, 1, 1)),
    32: ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 1, 1), (2, 1, 1)),
}


def stride_plan(ratio: int, patch_size: int) -> tuple[Triple, ...]:
    """The strides of all stages when a space-to-depth front has done the first `patch_size`-fold in space."""
    if ratio not in STRIDES:
        raise ValueError(f"The temporal compression ratio is 4, 8, 16 or 32, not {ratio}.")
    if patch_size not in (1, 2, 4, 8):
        raise ValueError(f"The encoder's patch size is 1, 2, 4 or 8, not {patch_size}.")
    plan: list[Triple] = []
    for t, h, w in STRIDES[ratio]:
        done = patch_size > 1 and h == 2
        patch_size = patch_size // 2 if done else patch_size
        plan.append((t, 1, 1) if done else (t, h, w))
    return tuple(plan)


class Stage(nn.Module):
    """Residual blocks, then a causal convolution that carries the stage's stride."""

    def __init__(self, channels: int, out_channels: int, blocks: int, stride: Triple):
        super().__init__()
        widths = [channels] + [out_channels] * blocks
        self.blocks = nn.Sequential(*(CausalResBlock(a, b) for a, b in pairwise(widths)))
        self.down = CausalConv3d(out_channels, out_channels, stride=stride)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d s y x"]:
        return self.down(self.blocks(x))


class CausalEncoder(nn.Module):
    """Frames to features: 1 + k frames to 2 latent frames, 1 frame to 1, space eight-fold smaller.

    `patch_size` > 1 replaces the first spatial halvings by a space-to-depth front, which saves most of the
    cost of a small encoder; 1 is the paper's. `shortcut` adds a linear map of the cube of pixels that each
    output stands for, while the pyramid starts at zero and learns what the linear map misses; a small
    encoder trains several times faster with it; the paper has none. Output frame 0 is a function of input
    frame 0 alone.
    """

    _gradient_checkpointing_func: Callable = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(
        self,
        out_channels: int,
        widths: tuple[int, ...],
        strides: tuple[Triple, ...],
        blocks: int,
        patch_size: int,
        shortcut: bool,
    ):
        super().__init__()
        assert len(widths) == len(strides), (widths, strides)
        self.patch_size = patch_size
        self.gradient_checkpointing = False
        self.conv_in = CausalConv3d(3 * patch_size**2, widths[0])
        inputs = (widths[0], *widths[:-1])
        plan = zip(inputs, widths, strides, strict=True)
        self.stages = nn.ModuleList(Stage(a, b, blocks, stride) for a, b, stride in plan)
        self.mid = nn.Sequential(*(CausalResBlock(widths[-1], widths[-1]) for _ in range(blocks)))
        self.norm_out = ChannelNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, kernel=(1, 1, 1))
        self.shortcut = self._cube_map(out_channels, strides) if shortcut else None

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c n y x"]:
        p = self.patch_size
        x = rearrange(video, "b c t (h p) (w q) -> b (c p q) t h w", p=p, q=p)
        x = self.conv_in(x)
        for stage in self.stages:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(stage, x)
            else:
                x = stage(x)
        x = self.mid(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x if self.shortcut is None else x + self.shortcut(video)

    def _cube_map(self, out_channels: int, strides: tuple[Triple, ...]) -> CausalConv3d:
        """One linear map of 1 + k frames by 8 x 8 pixels; for the first output all are copies of frame 0."""
        nn.init.zeros_(self.conv_out.conv.weight)
        ratio = math.prod(stride[0] for stride in strides)
        side = self.patch_size * math.prod(stride[1] for stride in strides)
        return CausalConv3d(3, out_channels, kernel=(ratio + 1, side, side), stride=(ratio, side, side))
