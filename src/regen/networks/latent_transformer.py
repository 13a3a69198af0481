"""LatentTransformer: a diffusion transformer on tokens of latents, beside which text may take part.

Without text it is a DiT whose tokens have rotary positions. With text, the first blocks have weights of their
own for the text, and latents and text see each other in one attention (MMDiT, arXiv 2403.03206); in the
others text and latents share the weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from regen.layers.attention import Attention, RMSNorm, attend
from regen.layers.positions import Rotation, joined, rotation
from regen.networks.dit import Block, Feedforward, Modulation, Modulator, matrices_of, normalise, zero_linear

Level = Literal["adaln_single", "adaln_zero"]


class Stream(nn.Module):
    """The weights of one kind of tokens in a joint block: what attention and feed-forward do to it."""

    def __init__(self, width: int, heads: int, timestep: Level):
        super().__init__()
        self.attention = Attention(width, heads)
        self.feedforward = Feedforward(width)
        self.modulator = Modulator(width, 6, own_projection=timestep == "adaln_zero")

    def feed(
        self, x: Float[Tensor, "b n d"], seen: Float[Tensor, "b n d"], rows: list[Tensor]
    ) -> Float[Tensor, "b n d"]:
        """What becomes of the tokens when attention has answered `seen`."""
        first, second = Modulation(*rows[:3]), Modulation(*rows[3:])
        x = torch.addcmul(x, first.gate, self.attention.out(seen))
        return torch.addcmul(x, second.gate, self.feedforward(normalise(x, second.shift, second.scale)))


class JointBlock(nn.Module):
    """adaLN-zero block in which latents and text have weights of their own and see each other."""

    def __init__(self, width: int, heads: int, timestep: Level):
        super().__init__()
        self.latents = Stream(width, heads, timestep)
        self.text = Stream(width, heads, timestep)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        text: Float[Tensor, "b m d"],
        level: Float[Tensor, "b d"],
        shared: Float[Tensor, "b 6 d"] | None,
        turn: Rotation,
        keep: Bool[Tensor, "b n+m"],
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"]]:
        rows = [stream.modulator(level, shared) for stream in (self.latents, self.text)]
        groups = (
            self.latents.attention.heads_of(normalise(x, rows[0][0], rows[0][1]), turn),
            self.text.attention.heads_of(normalise(text, rows[1][0], rows[1][1])),
        )
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(*groups, strict=True))
        seen = attend(q, k, v, keep).split([x.shape[1], text.shape[1]], dim=1)
        return self.latents.feed(x, seen[0], rows[0]), self.text.feed(text, seen[1], rows[1])


class LastJointBlock(nn.Module):
    """A joint block after which nothing of the text is needed: it is seen, and sees nothing itself."""

    def __init__(self, width: int, heads: int, timestep: Level):
        super().__init__()
        self.heads = heads
        self.latents = Stream(width, heads, timestep)
        self.kv = nn.Linear(width, 2 * width)
        self.norm_k = RMSNorm(width // heads)
        self.modulator = Modulator(width, 2, own_projection=timestep == "adaln_zero")

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        text: Float[Tensor, "b m d"],
        level: Float[Tensor, "b d"],
        shared: Float[Tensor, "b 6 d"] | None,
        turn: Rotation,
        keep: Bool[Tensor, "b n+m"],
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"]]:
        rows = self.latents.modulator(level, shared)
        q, k, v = self.latents.attention.heads_of(normalise(x, rows[0], rows[1]), turn)
        shift, scale = self.modulator(level, None if shared is None else shared[:, :2])
        kv = rearrange(
            self.kv(normalise(text, shift, scale)), "b m (two h e) -> two b h m e", two=2, h=self.heads
        )
        k, v = torch.cat([k, self.norm_k(kv[0])], dim=2), torch.cat([v, kv[1]], dim=2)
        return self.latents.feed(x, attend(q, k, v, keep), rows), text


class LatentTransformer(nn.Module):
    """Tokens of noisy latents to as many answers, zero at initialisation because the last gain is.

    `num_joint_layers` of the `depth` blocks have weights of their own for text; 0 for a network without text.
    """

    _gradient_checkpointing_func: Callable = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(self, width: int, depth: int, heads: int, num_joint_layers: int, timestep: Level):
        super().__init__()
        self.head_width = width // heads
        self.gradient_checkpointing = False
        self.shared = zero_linear(width, 6 * width) if timestep == "adaln_single" else None
        self.joint_blocks = nn.ModuleList(
            (LastJointBlock if number == depth else JointBlock)(width, heads, timestep)
            for number in range(1, num_joint_layers + 1)
        )
        self.blocks = nn.ModuleList(Block(width, heads, timestep) for _ in range(depth - num_joint_layers))
        self.final = Modulator(width, 2, own_projection=True)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        positions: Float[Tensor, "*b n 3"],
        level: Float[Tensor, "b d"],
        keep: Bool[Tensor, "b n"] | None = None,
        text: Float[Tensor, "b m d"] | None = None,
        text_mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """`positions` (t, y, x) of the tokens; those that `keep` and `text_mask` leave out are seen by none.

        `level` is the embedding of the noise level and of what else conditions all tokens alike.
        """
        count, turn = x.shape[1], rotation(positions, self.head_width)
        shared = None
        if self.shared is not None:
            shared = rearrange(self.shared(F.silu(level)), "b (p d) -> b p d", p=6)
        if text is not None:
            assert text_mask is not None, "which tokens of the text are there"
            keep = x.new_ones(x.shape[:2], dtype=torch.bool) if keep is None else keep
            keep = torch.cat([keep, text_mask], dim=1)
            for block in self.joint_blocks:
                x, text = self._call(block, x, text, level, shared, turn, keep)
            x = torch.cat([x, text], dim=1)
            turn = joined(turn, rotation(positions.new_zeros(text.shape[1], 3), self.head_width))
        for block in self.blocks:
            x = self._call(block, x, level, shared, None, None, turn, keep)
        shift, scale = self.final(level, None)
        return normalise(x[:, :count], shift, scale)

    def trunk_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks."""
        last = [block.kv for block in self.joint_blocks if isinstance(block, LastJointBlock)]
        keys = [parameter for layer in last for parameter in layer.parameters() if parameter.ndim == 2]
        return [*matrices_of(self.joint_blocks), *keys, *matrices_of(self.blocks)]

    def _call(self, block: nn.Module, *arguments: object) -> Any:
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(block, *arguments)
        return block(*arguments)
