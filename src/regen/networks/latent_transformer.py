"""Diffusion transformers on tokens of latents: LatentTransformer (with text), FactorisedTransformer."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers import CheckpointedModule
from regen.layers.attention import Grid, RMSNorm
from regen.layers.positions import Rope, compute_rope, grid_positions, sinusoidal_embedding
from regen.networks.dit import (
    AdaLN,
    Block,
    matrix_parameters,
    modulate,
    shared_modulation,
    zero_linear,
)

AdaLNType = Literal["adaln_single", "adaln_zero"]


class JointBlock(nn.Module):
    """MMDiT block (arXiv 2403.03206): separate weights for latents and text, one attention over both."""

    def __init__(self, width: int, heads: int, timestep: AdaLNType):
        super().__init__()
        self.latents = Block(width, heads, timestep)
        self.text = Block(width, heads, timestep)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        text: Float[Tensor, "b m d"],
        cond: Float[Tensor, "b d"],
        shared: Float[Tensor, "b 6 d"] | None,
        rope: Rope,
        mask: Bool[Tensor, "b n+m"],
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"]]:
        rows = [stream.adaln(cond, shared) for stream in (self.latents, self.text)]
        groups = (
            self.latents.attention.project_qkv(modulate(x, *rows[0][:2]), rope),
            self.text.attention.project_qkv(modulate(text, *rows[1][:2])),
        )
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*groups, strict=True))
        attended = self.latents.attention.processor(q, k, v, mask)
        own, other = attended.split([x.shape[1], text.shape[1]], dim=1)
        x = self.latents.update(x, self.latents.attention.out(own), *rows[0][2:])
        return x, self.text.update(text, self.text.attention.out(other), *rows[1][2:])


class LastJointBlock(nn.Module):
    """The last joint block of a network: text, which is dropped afterwards, has keys and values only."""

    def __init__(self, width: int, heads: int, timestep: AdaLNType):
        super().__init__()
        self.heads = heads
        self.latents = Block(width, heads, timestep)
        self.kv = nn.Linear(width, 2 * width)
        self.norm_k = RMSNorm(width // heads)
        self.adaln = AdaLN(width, 2, own_projection=timestep == "adaln_zero")

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        text: Float[Tensor, "b m d"],
        cond: Float[Tensor, "b d"],
        shared: Float[Tensor, "b 6 d"] | None,
        rope: Rope,
        mask: Bool[Tensor, "b n+m"],
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"]]:
        attention, rows = self.latents.attention, self.latents.adaln(cond, shared)
        q, k, v = attention.project_qkv(modulate(x, *rows[:2]), rope)
        shift, scale = self.adaln(cond, None if shared is None else shared[:, :2])
        kv = self.kv(modulate(text, shift, scale))
        text_k, text_v = rearrange(kv, "b m (two h e) -> two b h m e", two=2, h=self.heads)
        k, v = torch.cat([k, self.norm_k(text_k)], dim=2), torch.cat([v, text_v], dim=2)
        attended = attention.out(attention.processor(q, k, v, mask))
        return self.latents.update(x, attended, *rows[2:]), text


class LatentTransformer(CheckpointedModule):
    """Tokens of noisy latents to as many predictions, zero at initialisation because the last gain is.

    Tokens have rotary positions. The first `num_joint_layers` of `depth` blocks have separate weights for
    text (MMDiT), in the others text and latents share the weights; 0 for a network without text.
    """

    def __init__(self, width: int, depth: int, heads: int, num_joint_layers: int, timestep: AdaLNType):
        super().__init__()
        self.head_width = width // heads
        self.shared = zero_linear(width, 6 * width) if timestep == "adaln_single" else None
        self.joint_blocks = nn.ModuleList(
            (LastJointBlock if number == depth else JointBlock)(width, heads, timestep)
            for number in range(1, num_joint_layers + 1)
        )
        self.blocks = nn.ModuleList(Block(width, heads, timestep) for _ in range(depth - num_joint_layers))
        self.final = AdaLN(width, 2, own_projection=True)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        positions: Float[Tensor, "*b n 3"],
        cond: Float[Tensor, "b d"],
        mask: Bool[Tensor, "b n"] | None = None,
        text: Float[Tensor, "b m d"] | None = None,
        text_mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`positions`: (t, y, x) of the tokens. `mask`, `text_mask`: True for tokens that may be attended to.

        `cond`: the embedding of the noise level plus that of any pooled condition.
        """
        count, rope = x.shape[1], compute_rope(positions, self.head_width)
        shared = shared_modulation(self.shared, cond)
        if text is not None:
            assert text_mask is not None, "text requires a text_mask"
            mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
            mask = torch.cat([mask, text_mask], dim=1)
            for block in self.joint_blocks:
                x, text = self.call_block(block, x, text, cond, shared, rope, mask)
            x = torch.cat([x, text], dim=1)
            padding = (0, 0, 0, text.shape[1])  # text has no positions: it is not rotated
            rope = Rope(F.pad(rope.cos, padding, value=1.0), F.pad(rope.sin, padding))
        for block in self.blocks:
            x = self.call_block(block, x, cond, shared, None, None, rope, mask)
        shift, scale = self.final(cond, None)
        return modulate(x[:, :count], shift, scale)

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weight matrices of the blocks."""
        last = [block.kv for block in self.joint_blocks if isinstance(block, LastJointBlock)]
        keys = [parameter for layer in last for parameter in layer.parameters() if parameter.ndim == 2]
        return [*matrix_parameters(self.joint_blocks), *keys, *matrix_parameters(self.blocks)]


class FactorisedBlock(Block):
    """A block whose attention is inside each latent frame (spatial) or each position (temporal)."""

    def __init__(self, width: int, heads: int, timestep: AdaLNType, temporal: bool):
        super().__init__(width, heads, timestep)
        self.sequences = "(b s) f d" if temporal else "(b f) s d"

    def forward(  # type: ignore[override]  # without windows, rotary positions and masks
        self,
        x: Float[Tensor, "b n d"],
        cond: Float[Tensor, "b d"],
        shared: Float[Tensor, "b 6 d"] | None,
        frames: int,
    ) -> Float[Tensor, "b n d"]:
        """`frames`: latent frames of the n tokens, t slowest."""
        shift, scale, *rest = self.adaln(cond, shared)
        tokens = rearrange(modulate(x, shift, scale), f"b (f s) d -> {self.sequences}", f=frames)
        attended = self.attention(tokens)
        return self.update(
            x, rearrange(attended, f"{self.sequences} -> b (f s) d", b=len(x), f=frames), *rest
        )


class FactorisedTransformer(CheckpointedModule):
    """Tokens of a grid of noisy latents to as many predictions: Latte's variant 1 (arXiv 2401.03048).

    Spatial and temporal blocks alternate, `depth` in all, an even number. Sinusoidal positions are added: of
    rows and columns to all tokens, of the latent frame before the first temporal block. The output is zero at
    initialisation if the caller's last layer is.
    """

    def __init__(self, width: int, depth: int, heads: int, timestep: AdaLNType):
        super().__init__()
        self.shared = zero_linear(width, 6 * width) if timestep == "adaln_single" else None
        self.blocks = nn.ModuleList(
            FactorisedBlock(width, heads, timestep, temporal=number % 2 == 1) for number in range(depth)
        )
        self.final = AdaLN(width, 2, own_projection=True)

    def forward(
        self, x: Float[Tensor, "b n d"], grid: Grid, cond: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b n d"]:
        """`grid`: number of tokens along t, y, x. `cond`: see `LatentTransformer`."""
        width, shared = x.shape[2], shared_modulation(self.shared, cond)
        frame, *place = grid_positions(grid, x.device).unbind(1)
        spatial = torch.cat([sinusoidal_embedding(axis, width // 2) for axis in place], dim=1)
        x = x + spatial.to(x.dtype)
        for number, block in enumerate(self.blocks):
            if number == 1:
                x = x + sinusoidal_embedding(frame, width).to(x.dtype)
            x = self.call_block(block, x, cond, shared, grid[0])
        shift, scale = self.final(cond, None)
        return modulate(x, shift, scale)

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weight matrices of the blocks."""
        return matrix_parameters(self.blocks)
