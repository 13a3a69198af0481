"""DiT: a transformer on patches of a noisy clip, told what is where by its positions (spec A5)."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from regen.layers.attention import Attention, Grid, Window
from regen.layers.positions import NoiseLevelEmbedding, Rotation

Timestep = Literal["add", "adaln_single", "adaln_zero"]


class Modulation(NamedTuple):
    """What the noise level does to one residual branch; each `b 1 d`."""

    shift: Float[Tensor, "#b 1 d"]
    scale: Float[Tensor, "#b 1 d"]
    gate: Float[Tensor, "#b 1 d"]


def patchify(video: Float[Tensor, "b c t h w"], patch: int) -> Float[Tensor, "b n e"]:
    """Each 1 × patch × patch block of pixels becomes one token."""
    return rearrange(video, "b c t (y p) (x q) -> b (t y x) (p q c)", p=patch, q=patch)


def unpatchify(
    tokens: Float[Tensor, "b n e"], grid: tuple[int, int, int], patch: int
) -> Float[Tensor, "b c t h w"]:
    """Inverse of `patchify` for a grid of t × y × x tokens."""
    t, y, x = grid
    sizes = {"t": t, "y": y, "x": x, "p": patch, "q": patch}
    return rearrange(tokens, "b (t y x) (p q c) -> b c t (y p) (x q)", **sizes)


def normalise(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "#b 1 d"], scale: Float[Tensor, "#b 1 d"]
) -> Float[Tensor, "b n d"]:
    """LayerNorm without parameters of its own, then the scale and shift that the noise level asks for."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Feedforward(nn.Module):
    """Two linear layers with a GELU between, four-fold wider inside.

    Exact GELU: in bf16 on a CPU it takes a quarter of the time of its tanh form, and they differ by less
    than bf16 resolves.
    """

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.project(F.gelu(self.expand(x)))


class Modulator(nn.Module):
    """The noise level's embedding to `parts` vectors of width d, beside a table that learns their offsets.

    The projection starts at zero (adaLN-zero): the network begins as if there were no noise level.
    """

    def __init__(self, width: int, parts: int, own_projection: bool):
        super().__init__()
        self.parts = parts
        self.table = nn.Parameter(torch.zeros(parts, width))
        self.project = zero_linear(width, parts * width, bias=False) if own_projection else None

    def forward(
        self, level: Float[Tensor, "b d"], shared: Float[Tensor, "b p d"] | None
    ) -> list[Float[Tensor, "b 1 d"]]:
        rows = self.table.to(level.dtype).expand(level.shape[0], -1, -1)
        if self.project is not None:
            rows = rows + rearrange(self.project(F.silu(level)), "b (p d) -> b p d", p=self.parts)
        if shared is not None:
            rows = rows + shared
        return list(rows.split(1, dim=1))


def zero_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A linear layer that starts by answering zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.zeros_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """adaLN-zero transformer block: attention and feed-forward, each shifted, scaled and gated.

    Where the noise level does not modulate (`"add"`), the learned table alone does.
    """

    def __init__(self, width: int, heads: int, timestep: Timestep):
        super().__init__()
        self.attention = Attention(width, heads)
        self.feedforward = Feedforward(width)
        self.modulator = Modulator(width, 6, own_projection=timestep == "adaln_zero")

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        level: Float[Tensor, "#b d"],
        shared: Float[Tensor, "#b 6 d"] | None,
        grid: Grid | None = None,
        window: Window | None = None,
        turn: Rotation | None = None,
        keep: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        rows = self.modulator(level, shared)
        first, second = Modulation(*rows[:3]), Modulation(*rows[3:])
        y = normalise(x, first.shift, first.scale)
        x = torch.addcmul(x, first.gate, self.attention(y, grid, window, turn, keep))
        return torch.addcmul(x, second.gate, self.feedforward(normalise(x, second.shift, second.scale)))


class DiT(nn.Module):
    """Pixel-space diffusion transformer without positional parameters, for any resolution and length.

    The answer has the shape of the noisy clip. It is zero at initialisation: the output layer starts at zero.
    `window`: side of the attention windows in tokens, shifted by half in every second block; None (the
    paper's): every token sees every other one.
    """

    _gradient_checkpointing_func: Callable = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        timestep: Timestep,
        window: int | None = None,
    ):
        super().__init__()
        self.patch_size = patch_size
        self.windows = [window and Window(window, offset) for offset in (0, (window or 0) // 2)]
        self.gradient_checkpointing = False
        self.embed = nn.Linear(3 * patch_size**2, width)
        self.noise_level = NoiseLevelEmbedding(width)
        self.shared = zero_linear(width, 6 * width) if timestep == "adaln_single" else None
        self.blocks = nn.ModuleList(Block(width, heads, timestep) for _ in range(depth))
        self.final = Modulator(width, 2, own_projection=timestep != "add")
        self.out = zero_linear(width, 3 * patch_size**2)

    def forward(
        self,
        noisy: Float[Tensor, "b 3 t h w"],
        positions: Float[Tensor, "#b t y x d"],
        t: Float[Tensor, " #b"],
        context: Float[Tensor, "b n y x d"] | None = None,
    ) -> Float[Tensor, "b 3 t h w"]:
        """`context`: tokens that take part beside those of the clip and are dropped at the end (spec A14)."""
        assert context is None or self.windows[0] is None, "tokens of context lie in no window"
        grid = positions.shape[1], positions.shape[2], positions.shape[3]
        level = self.noise_level(t)
        x = self.embed(patchify(noisy, self.patch_size))
        x = x + rearrange(positions, "b t y x d -> b (t y x) d")
        if context is not None:
            x = torch.cat([x, rearrange(context, "b n y x d -> b (n y x) d")], dim=1)
        x = x + level[:, None]
        shared = None
        if self.shared is not None:
            shared = rearrange(self.shared(F.silu(level)), "b (p d) -> b p d", p=6)
        for index, block in enumerate(self.blocks):
            arguments = (x, level, shared, grid, self.windows[index % 2])
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
        shift, scale = self.final(level, None)
        x = self.out(normalise(x[:, : prod(grid)], shift, scale))
        return unpatchify(x, grid, self.patch_size)

    def trunk_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks."""
        return matrices_of(self.blocks)


def matrices_of(blocks: nn.ModuleList) -> list[nn.Parameter]:
    """The 2-D weights of attention and feed-forward layers."""
    parts = [
        part for block in blocks for part in block.modules() if isinstance(part, Attention | Feedforward)
    ]
    return [parameter for part in parts for parameter in part.parameters() if parameter.ndim == 2]
