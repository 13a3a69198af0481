"""HybridDecoder: a pixel-space diffusion transformer told by a grid and by a sequence (One-DVA; spec B6)."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from regen.layers.attention import start_nearby
from regen.layers.positions import NoiseLevelEmbedding
from regen.networks.dit import Block, Modulator, Timestep, matrices_of, normalise, zero_linear
from regen.networks.patches import Patches
from regen.networks.query_encoder import QueryPositions, ResolutionTokens, token_rotation

Tail = Literal["mask", "mask_token"]


class HybridDecoder(nn.Module):
    """Noisy pixels, structural latents and 1D latents to pixels, for any grid.

    Structural latents are added to the tokens of their patches; 1D latents are further tokens. The answer of
    `forward` are features; `finish` makes pixels of them, by a convolution over the whole picture that joins
    its patches (and regions). The answer is zero at initialisation, where there is no `shortcut`: a linear
    map from a structural latent to the pixels of its patch.

    `tail`: 1D latents that were dropped take no part (mask), or a learned token stands for each of them
    (mask_token, as in FlexTok), so that there are always as many tokens as the budget has.

    `skip`: the embedding of the noisy patch enters the last layer too, which then knows the noise that the
    blocks need not carry.
    """

    _gradient_checkpointing_func: Callable = staticmethod(partial(checkpoint, use_reentrant=False))

    def __init__(
        self,
        channels: int,
        patches: Patches,
        width: int,
        depth: int,
        heads: int,
        features: int,
        timestep: Timestep,
        bank: int,
        positions: QueryPositions,
        tail: Tail,
        skip: bool,
        shortcut: bool,
    ):
        super().__init__()
        self.patches, self.positions, self.skip = patches, positions, skip
        self.head_width, self.tapped = width // heads, max(1, depth // 3)
        self.gradient_checkpointing = False
        self.embed = nn.Linear(3 * patches.pixels, width)
        self.structural = nn.Linear(channels, width)
        self.sequence = nn.Linear(channels, width)
        for layer in (self.structural, self.sequence):
            nn.init.normal_(layer.weight, std=channels**-0.5)  # latents weigh as much as pixels
        self.dropped = nn.Parameter(torch.zeros(width)) if tail == "mask_token" else None
        self.index = nn.Parameter(0.5 * torch.randn(bank, width))
        self.resolution = ResolutionTokens(width)
        self.noise_level = NoiseLevelEmbedding(width)
        self.shared = zero_linear(width, 6 * width) if timestep == "adaln_single" else None
        self.blocks = nn.ModuleList(Block(width, heads, timestep) for _ in range(depth))
        if positions != "none":
            start_nearby(self.blocks)
        self.final = Modulator(width, 2, own_projection=timestep != "add")
        self.spread = nn.Linear(width * (1 + skip), features * patches.pixels)
        self.conv = nn.Conv3d(features, 3, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)
        self.shortcut = nn.Linear(channels, 3 * patches.pixels) if shortcut else None

    def forward(
        self,
        noisy: Float[Tensor, "b 3 T H W"],
        structural: Float[Tensor, "b c n y x"],
        sequence: Float[Tensor, "b c s"],
        keep: Bool[Tensor, "b s"] | None,
        t: Float[Tensor, " #b"],
    ) -> tuple[Float[Tensor, "b f T H W"], Float[Tensor, "b d n y x"]]:
        """Features of the pixels, and what the tokens of the grid are after a third of the blocks.

        1D latents that `keep` leaves out count as dropped; None keeps all.
        """
        grid = structural.shape[2], structural.shape[3], structural.shape[4]
        count = prod(grid)
        level = self.noise_level(t)
        flat = rearrange(structural, "b c n y x -> b (n y x) c")
        pixels = self.embed(self.patches.cut(noisy))
        further, keep = self._further(rearrange(sequence, "b c s -> b s c"), keep, count)
        length = further.shape[1]
        resolution = self.resolution(grid, self.patches).to(pixels.dtype).expand(len(pixels), -1, -1)
        x = torch.cat([pixels + self.structural(flat), further, resolution], dim=1) + level[:, None]
        turn = token_rotation(grid, length, 3, self.positions, self.head_width, x.device)
        seen = None if keep is None else F.pad(F.pad(keep, (count, 0), value=True), (0, 3), value=True)
        shared = None
        if self.shared is not None:
            shared = rearrange(self.shared(F.silu(level)), "b (p d) -> b p d", p=6)
        tapped = x
        for index, block in enumerate(self.blocks):
            arguments = (x, level, shared, None, None, turn, seen)
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(block, *arguments)
            else:
                x = block(*arguments)
            if index + 1 == self.tapped:
                tapped = x
        shift, scale = self.final(level, None)
        x = normalise(x[:, :count], shift, scale)
        if self.skip:
            x = torch.cat([x, pixels], dim=2)
        tapped = rearrange(tapped[:, :count], "b (n y x) d -> b d n y x", n=grid[0], y=grid[1], x=grid[2])
        return self.patches.join(self.spread(x), grid), tapped

    def finish(
        self, features: Float[Tensor, "b f T H W"], structural: Float[Tensor, "b c n y x"]
    ) -> Float[Tensor, "b 3 T H W"]:
        """The answer in pixels, of all regions together."""
        answer = self.conv(features)
        if self.shortcut is None:
            return answer
        grid = structural.shape[2], structural.shape[3], structural.shape[4]
        linear = self.shortcut(rearrange(structural, "b c n y x -> b (n y x) c"))
        return answer + self.patches.join(linear, grid)

    def _further(
        self, sequence: Float[Tensor, "b s c"], keep: Bool[Tensor, "b s"] | None, budget: int
    ) -> tuple[Float[Tensor, "b k d"], Bool[Tensor, "b s"] | None]:
        """The tokens of the 1D latents, and which of them are seen."""
        tokens = self.sequence(sequence)
        if self.dropped is not None:
            dropped = self.dropped.to(tokens.dtype)
            if keep is not None:
                tokens = torch.where(keep[:, :, None], tokens, dropped)
            missing = max(0, budget - tokens.shape[1])
            tokens = torch.cat([tokens, dropped.expand(len(tokens), missing, -1)], dim=1)
            keep = None
        return tokens + self.index[: tokens.shape[1]].to(tokens.dtype), keep

    def trunk_matrices(self) -> list[nn.Parameter]:
        """The 2-D weights inside the blocks."""
        return matrices_of(self.blocks)
