"""HybridDecoder: a diffusion transformer conditioned on a grid and a sequence."""

from math import prod

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers import CheckpointedModule
from regen.layers.attention import init_local_attention
from regen.layers.convolution import Conv3d
from regen.layers.positions import TimestepEmbedding
from regen.networks.dit import (
    AdaLN,
    Block,
    Patches,
    TimestepConditioning,
    modulate,
    shared_modulation,
    zero_linear,
)
from regen.networks.query_encoder import QueryPositions, ResolutionTokens, token_rope


class HybridDecoder(CheckpointedModule):
    """Noisy pixels, structural latents and 1D latents to pixels, for any grid (docs/method.md, 17).

    Structural latents are added to the tokens of their patches; 1D latents are additional tokens. `forward`
    returns features of the pixels, and `to_pixels` maps those of the whole picture to pixels by a convolution
    that smooths the borders of patches and regions. The output is zero at initialisation unless there is a
    `linear_skip`, a linear map from a structural latent to the pixels of its patch.

    `long_skip`: the last layer also sees the embedding of the noisy patch, so the blocks need not carry the
    noise.
    """

    def __init__(
        self,
        channels: int,
        patches: Patches,
        width: int,
        depth: int,
        heads: int,
        pixel_channels: int,
        timestep: TimestepConditioning,
        num_queries: int,
        query_positions: QueryPositions,
        long_skip: bool,
        linear_skip: bool,
    ):
        super().__init__()
        self.patches, self.query_positions, self.long_skip = patches, query_positions, long_skip
        self.head_width, self.repa_depth = width // heads, max(1, depth // 3)
        self.embed = nn.Linear(3 * patches.pixels, width)
        self.structural = nn.Linear(channels, width)
        self.sequence = nn.Linear(channels, width)
        for layer in (self.structural, self.sequence):
            nn.init.normal_(layer.weight, std=channels**-0.5)  # latents weigh as much as pixels
        self.index_embedding = nn.Parameter(0.5 * torch.randn(num_queries, width))
        self.resolution = ResolutionTokens(width)
        self.timestep_embedding = TimestepEmbedding(width)
        self.shared = zero_linear(width, 6 * width) if timestep == "adaln_single" else None
        self.blocks = nn.ModuleList(Block(width, heads, timestep) for _ in range(depth))
        if query_positions != "none":
            init_local_attention(self.blocks)
        self.final = AdaLN(width, 2, own_projection=timestep != "add")
        self.proj_out = nn.Linear(width * (1 + long_skip), pixel_channels * patches.pixels)
        self.conv_out = Conv3d(pixel_channels, 3, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.linear_skip = nn.Linear(channels, 3 * patches.pixels) if linear_skip else None

    def forward(
        self,
        noisy: Float[Tensor, "b 3 T H W"],
        structural: Float[Tensor, "b c n y x"],
        sequence: Float[Tensor, "b c s"],
        mask: Bool[Tensor, "b s"] | None,
        t: Float[Tensor, " #b"],
    ) -> tuple[Float[Tensor, "b f T H W"], Float[Tensor, "b d n y x"]]:
        """Features of the pixels, and the tokens of the grid after a third of the blocks (for REPA).

        `mask`: True for the 1D latents that were not dropped; None: all of them.
        """
        grid = structural.shape[2], structural.shape[3], structural.shape[4]
        count, length = prod(grid), sequence.shape[2]
        pixels = self.embed(self.patches.patchify(noisy))
        cond = self.timestep_embedding(t, pixels.dtype)
        tokens = self.sequence(rearrange(sequence, "b c s -> b s c"))
        tokens = tokens + self.index_embedding[:length].to(tokens.dtype)
        resolution = self.resolution(grid, self.patches, pixels.dtype).expand(len(pixels), -1, -1)
        x = pixels + self.structural(rearrange(structural, "b c n y x -> b (n y x) c"))
        x = torch.cat([x, tokens, resolution], dim=1) + cond[:, None]
        rope = token_rope(grid, length, 3, self.query_positions, self.head_width, x.device)
        if mask is not None:
            mask = F.pad(F.pad(mask, (count, 0), value=True), (0, 3), value=True)
        shared, repa_features = shared_modulation(self.shared, cond), x
        for index, block in enumerate(self.blocks):
            x = self.call_block(block, x, cond, shared, None, None, rope, mask)
            if index + 1 == self.repa_depth:
                repa_features = x
        shift, scale = self.final(cond, None)
        x = modulate(x[:, :count], shift, scale)
        if self.long_skip:
            x = torch.cat([x, pixels], dim=2)
        return self.patches.unpatchify(self.proj_out(x), grid), repa_features[:, :count].mT.unflatten(2, grid)

    def to_pixels(
        self, features: Float[Tensor, "b f T H W"], structural: Float[Tensor, "b c n y x"]
    ) -> Float[Tensor, "b 3 T H W"]:
        """Features of the whole picture to the prediction in pixels."""
        pred = self.conv_out(features)
        if self.linear_skip is None:
            return pred
        grid = structural.shape[2], structural.shape[3], structural.shape[4]
        linear = self.linear_skip(rearrange(structural, "b c n y x -> b (n y x) c"))
        return pred + self.patches.unpatchify(linear, grid)
