"""DiT: a pixel-space diffusion transformer on patches of a noisy clip."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers import CheckpointedModule
from regen.layers.attention import Attention, Grid, Window
from regen.layers.causal import DetailHead
from regen.layers.positions import Rope, TimestepEmbedding

TimestepConditioning = Literal["add", "adaln_single", "adaln_zero"]


@dataclass(frozen=True)
class Patches:
    """Patches of `frames` frames and `side` x `side` pixels (docs/method.md, 14)."""

    frames: int = 4
    side: int = 16

    @property
    def pixels(self) -> int:
        """Number of positions of a patch in time and space."""
        return self.frames * self.side**2

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """Patches of a clip along t, y and x: 1 + ⌈(T - 1) / P_t⌉, ⌈H / P_s⌉, ⌈W / P_s⌉."""
        return 1 - (1 - frames) // self.frames, -(-height // self.side), -(-width // self.side)

    def pad(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c T H W"]:
        """Replicate the first frame to fill a patch, the last one to fill its group, and the right and lower
        border; `crop` is the inverse."""
        t, h, w = clip.shape[2:]
        (n, y, x), front = self.grid(t, h, w), self.frames - 1
        sides = (0, x * self.side - w, 0, y * self.side - h, front, n * self.frames - front - t)
        return F.pad(clip, sides, mode="replicate")

    def crop(
        self, padded: Float[Tensor, "b c T H W"], frames: int, height: int, width: int
    ) -> Float[Tensor, "b c t h w"]:
        """Remove the padding of a clip of the given size."""
        front = self.frames - 1
        return padded[:, :, front : front + frames, :height, :width]

    def patchify(self, padded: Float[Tensor, "b c T H W"]) -> Float[Tensor, "b n e"]:
        """Turn each patch of a padded clip into one token, t slowest."""
        sizes = {"p": self.frames, "q": self.side, "r": self.side}
        return rearrange(padded, "b c (t p) (y q) (x r) -> b (t y x) (p q r c)", **sizes)

    def unpatchify(self, tokens: Float[Tensor, "b n e"], grid: Grid) -> Float[Tensor, "b c T H W"]:
        """Inverse of `patchify` for e / (P_t P_s²) channels: 3-D pixel shuffle.

        Channels are last in memory, as in the tokens: convolutions of few channels are several times faster.
        """
        sizes = dict(zip("tyxpqr", (*grid, self.frames, self.side, self.side), strict=True))
        pixels = rearrange(tokens, "b (t y x) (p q r c) -> b (t p) (y q) (x r) c", **sizes)
        return pixels.movedim(-1, 1)


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "#b 1 d"], scale: Float[Tensor, "#b 1 d"]
) -> Float[Tensor, "b n d"]:
    """Adaptive layer norm: LayerNorm without parameters, scaled by 1 + `scale` and shifted."""
    if len(shift) == 1:  # the same for all clips: one pass over x
        return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0], eps=1e-6)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Feedforward(nn.Module):
    """Linear, GELU, linear; the hidden layer is four times wider.

    Exact GELU: in bf16 on a CPU it is four times faster than the tanh approximation, and they differ by less
    than the resolution of bf16.
    """

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.project(F.gelu(self.expand(x)))


class AdaLN(nn.Module):
    """Map the conditioning vector to `parts` modulation vectors, plus a learned table of offsets.

    `own_projection`: whether the layer has a projection of its own, or uses a shared one (adaLN-single). The
    projection starts at zero (adaLN-zero), so the network is initially independent of the noise level.
    """

    def __init__(self, width: int, parts: int, own_projection: bool):
        super().__init__()
        self.parts = parts
        self.table = nn.Parameter(torch.zeros(parts, width))
        self.project = zero_linear(width, parts * width, bias=False) if own_projection else None

    def forward(
        self, cond: Float[Tensor, "b d"], shared: Float[Tensor, "b p d"] | None
    ) -> list[Float[Tensor, "b 1 d"]]:
        rows = self.table.to(cond.dtype).expand(cond.shape[0], -1, -1)
        if self.project is not None:
            rows = rows + rearrange(self.project(F.silu(cond)), "b (p d) -> b p d", p=self.parts)
        if shared is not None:
            rows = rows + shared
        return list(rows.split(1, dim=1))


def zero_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer initialised to zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def shared_modulation(layer: nn.Linear | None, cond: Float[Tensor, "b d"]) -> Float[Tensor, "b 6 d"] | None:
    """The modulation that all blocks share (adaLN-single); None where each block has its own projection."""
    return None if layer is None else rearrange(layer(F.silu(cond)), "b (p d) -> b p d", p=6)


class Block(nn.Module):
    """adaLN-zero transformer block (DiT, arXiv 2212.09748); with "add" the learned table alone modulates."""

    def __init__(self, width: int, heads: int, timestep: TimestepConditioning):
        super().__init__()
        self.attention = Attention(width, heads)
        self.feedforward = Feedforward(width)
        self.adaln = AdaLN(width, 6, own_projection=timestep == "adaln_zero")

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        cond: Float[Tensor, "#b d"],
        shared: Float[Tensor, "#b 6 d"] | None,
        grid: Grid | None = None,
        window: Window | None = None,
        rope: Rope | None = None,
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        shift, scale, *rest = self.adaln(cond, shared)
        return self.update(x, self.attention(modulate(x, shift, scale), grid, window, rope, mask), *rest)

    def update(
        self, x: Tensor, attended: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, last_gate: Tensor
    ) -> Float[Tensor, "b n d"]:
        """Add the output of the attention and of the feed-forward to the tokens."""
        x = torch.addcmul(x, gate, attended)
        return torch.addcmul(x, last_gate, self.feedforward(modulate(x, shift, scale)))


class DiT(CheckpointedModule):
    """Diffusion transformer without positional parameters, for any resolution and length (docs/method.md, 5).

    The output has the shape of the noisy clip and is zero at initialisation, because the output layer is.
    `window`: side of the attention windows in tokens, shifted by half in every second block; None (the
    paper): full attention. `detail_channels`: channels of a `DetailHead` over the whole picture; 0: none.
    `linear_input`: a second clip enters by its patches, the linear reconstruction.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        timestep: TimestepConditioning,
        window: int | None = None,
        detail_channels: int = 0,
        linear_input: bool = False,
    ):
        super().__init__()
        self.patches = Patches(1, patch_size)
        self.windows = [window and Window(window, offset) for offset in (0, (window or 0) // 2)]
        self.embed = nn.Linear(3 * patch_size**2, width)
        self.embed_linear = nn.Linear(3 * patch_size**2, width) if linear_input else None
        self.timestep_embedding = TimestepEmbedding(width)
        self.shared = zero_linear(width, 6 * width) if timestep == "adaln_single" else None
        self.blocks = nn.ModuleList(Block(width, heads, timestep) for _ in range(depth))
        self.final = AdaLN(width, 2, own_projection=timestep != "add")
        self.out = zero_linear(width, 3 * patch_size**2)
        self.detail: DetailHead | None = None
        if detail_channels:
            self.detail_features = nn.Linear(width, detail_channels * patch_size**2)
            self.detail = DetailHead(detail_channels)

    def forward(
        self,
        noisy: Float[Tensor, "b 3 t h w"],
        positions: Float[Tensor, "#b t y x d"],
        t: Float[Tensor, " #b"],
        context: Float[Tensor, "b n y x d"] | None = None,
        linear: Float[Tensor, "b 3 t h w"] | None = None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """`context`: tokens that take part in attention and are dropped at the output (the ablation).
        `linear`: the linear reconstruction, where the network takes one."""
        assert context is None or self.windows[0] is None, "context tokens require full attention"
        grid = positions.shape[1], positions.shape[2], positions.shape[3]
        x = self.embed(self.patches.patchify(noisy))
        cond = self.timestep_embedding(t, x.dtype)
        if self.embed_linear is not None and linear is not None:
            x = x + self.embed_linear(self.patches.patchify(linear))
        x = x + rearrange(positions, "b t y x d -> b (t y x) d")
        if context is not None:
            x = torch.cat([x, rearrange(context, "b n y x d -> b (n y x) d")], dim=1)
        x = x + cond[:, None]
        shared = shared_modulation(self.shared, cond)
        for index, block in enumerate(self.blocks):
            x = self.call_block(block, x, cond, shared, grid, self.windows[index % 2])
        shift, scale = self.final(cond, None)
        x = modulate(x[:, : prod(grid)], shift, scale)
        pixels = self.patches.unpatchify(self.out(x), grid)
        if self.detail is None:
            return pixels
        return pixels + self.detail(self.patches.unpatchify(self.detail_features(x), grid))


def matrix_parameters(blocks: nn.ModuleList) -> list[nn.Parameter]:
    """The 2-D weights of attention and feed-forward layers, for optimizers of matrices (Muon)."""
    parts = [part for part in blocks.modules() if isinstance(part, Attention | Feedforward)]
    return [parameter for part in parts for parameter in part.parameters() if parameter.ndim == 2]
