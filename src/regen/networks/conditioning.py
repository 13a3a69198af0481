"""A pair of latents and times become what the decoder is told of a clip (spec A4 and A14).

LatentConditioner: content-aware positions (REGEN, Eq. 5). ContextConditioner: the ablation beside it.
"""

import math
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers.attention import RMSNorm
from regen.layers.positions import grid_sinusoids

Condition = tuple[Tensor, Tensor | None]  # positions of the pixels' tokens, and tokens of context or none
Conditioning = Literal["content_aware", "in_context"]
FirstFrame = Literal["zc", "none"]
Modulation = Literal["film", "shift"]


class SirenLayer(nn.Module):
    """sin(ω (γ ⊙ (W h + b)) + β), with γ and β linear in the motion latent; γ = 1 in the shift variant."""

    def __init__(
        self, inputs: int, width: int, channels: int, omega: float, bound: float, modulation: Modulation
    ):
        super().__init__()
        self.omega = omega
        self.gain = modulation == "film"
        self.linear = nn.Linear(inputs, width)
        self.modulate = nn.Linear(channels, 2 * width if self.gain else width)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        # Small, not zero: γ starts near 1 and β near 0, and the motion latent acts from the first step.
        nn.init.normal_(self.modulate.weight, std=0.1)
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self, h: Float[Tensor, "... i"], motion: Float[Tensor, "b 1 y x c"]
    ) -> Float[Tensor, "... y x d"]:
        h = F.linear(h, self.linear.weight.float(), self.linear.bias.float())
        beta = F.linear(motion, self.modulate.weight.float(), self.modulate.bias.float())
        if self.gain:
            gamma, beta = beta.chunk(2, dim=-1)
            h = (1 + gamma) * h
        return torch.sin(self.omega * h + beta)


class MotionSiren(nn.Module):
    """M_t: a sinusoidal network of the time coordinate alone, modulated at each place by its motion latent.

    Runs in fp32 whatever the precision around it: phases are multiplied by ω = 30.
    """

    def __init__(self, channels: int, width: int, out_width: int, layers: int, modulation: Modulation):
        super().__init__()
        first = SirenLayer(1, width, channels, omega=30.0, bound=1.0, modulation=modulation)
        bound = math.sqrt(6 / width)
        inner = [
            SirenLayer(width, width, channels, omega=1.0, bound=bound, modulation=modulation)
            for _ in range(layers - 1)
        ]
        self.layers = nn.ModuleList([first, *inner])
        self.out = nn.Linear(width, out_width)
        nn.init.uniform_(self.out.weight, -bound, bound)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, times: Float[Tensor, " t"], motion: Float[Tensor, "b y x c"]
    ) -> Float[Tensor, "b t y x d"]:
        with torch.autocast(motion.device.type, enabled=False):
            motion = rearrange(motion.float(), "b y x c -> b 1 y x c")
            h = rearrange(times.float(), "t -> 1 t 1 1 1")
            for layer in self.layers:
                h = layer(h, motion)
            return F.linear(h, self.out.weight.float(), self.out.bias.float())


class LatentConditioner(nn.Module):
    """C_e(x, y, τ | z_c, z_m) = RMSNorm(W [z_c ⊕ M_t(τ | z_m)]): one vector for each place and time.

    `first_frame="zc"`: at τ = 0 a linear map of z_c takes the place of the motion part, so that an image and
    frame 0 of any video that begins with it have the same positions, exactly. `"none"` is the ablation: the
    motion part is used at τ = 0 too, and is zero for an image.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        siren_width: int = 256,
        siren_layers: int = 3,
        modulation: Modulation = "film",
        first_frame: FirstFrame = "zc",
    ):
        super().__init__()
        self.first_frame = first_frame
        self.siren = MotionSiren(channels, siren_width, siren_width, siren_layers, modulation)
        self.still = nn.Linear(channels, siren_width, bias=False) if first_frame == "zc" else None
        self.spread = nn.Linear(channels + siren_width, width)
        self.norm = RMSNorm(width)
        # The few content channels weigh as much as the many of the SIREN; by the usual initialisation they
        # would be a hundredth of the position, and the decoder would find the latents late or never.
        nn.init.normal_(self.spread.weight[:, :channels], std=(2 * channels) ** -0.5)
        nn.init.normal_(self.spread.weight[:, channels:], std=(2 * siren_width) ** -0.5)
        # Without a constant part the norm below would take out how long the latent vector is.
        nn.init.normal_(self.spread.bias, std=0.5)

    def forward(
        self, latents: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"]
    ) -> Float[Tensor, "b t y x d"]:
        """`latents`: content alone (n = 1, an image: every time must be 0) or content and motion (n = 2)."""
        content = rearrange(latents[:, :, 0], "b c y x -> b y x c")
        motion = rearrange(latents[:, :, 1:], "b c m y x -> b y x m c")
        moving = self._motion_part(content, motion, times)
        content = repeat(content, "b y x c -> b t y x c", t=times.shape[0])
        return self.norm(self.spread(torch.cat([content, moving.to(content.dtype)], dim=-1)))

    def _motion_part(
        self,
        content: Float[Tensor, "b y x c"],
        motion: Float[Tensor, "b y x m c"],
        times: Float[Tensor, " t"],
    ) -> Float[Tensor, "b t y x e"]:
        if self.still is None:
            still = content.new_zeros(*content.shape[:-1], self.spread.in_features - content.shape[-1])
        else:
            still = self.still(content)
        still = repeat(still, "b y x e -> b t y x e", t=times.shape[0])
        if motion.shape[3] == 0:
            return still
        moving = self.siren(times, motion[..., 0, :])
        if self.still is None:
            return moving
        at_zero = rearrange(times.abs() < 1e-6, "t -> 1 t 1 1 1")
        return torch.where(at_zero, still.to(moving.dtype), moving)


class ContextConditioner(nn.Module):
    """The ablation: latents as tokens beside those of the pixels, all with fixed positions (spec A14).

    Positions are sinusoids of absolute integer coordinates: of frames (k τ; the content latent lies at 0,
    the motion latent at k) and of latent places. They are computed for each call, for any size and length.
    """

    def __init__(self, channels: int, width: int, ratio: int):
        super().__init__()
        self.ratio = ratio
        self.embed = nn.Linear(channels, width)
        # A latent of unit variance weighs about as much as its position; by the usual initialisation less.
        nn.init.normal_(self.embed.weight, std=channels**-0.5)

    def forward(
        self,
        latents: Float[Tensor, "b c n y x"],
        times: Float[Tensor, " t"],
        corner: tuple[int, int] = (0, 0),
    ) -> tuple[Float[Tensor, "1 t y x d"], Float[Tensor, "b n y x d"]]:
        """The positions of the pixels' tokens, and the tokens of the latents.

        `latents`: content alone (n = 1, an image) or content and motion (n = 2). `corner`: row and column of
        the first place, for the tile of a larger picture.
        """
        (top, left), (n, y, x) = corner, latents.shape[2:]
        tokens = self.embed(rearrange(latents, "b c n y x -> b n y x c"))
        rows = torch.arange(top, top + y, device=latents.device, dtype=torch.float32)
        columns = torch.arange(left, left + x, device=latents.device, dtype=torch.float32)
        frames = torch.cat([self.ratio * torch.arange(n, device=times.device), self.ratio * times.float()])
        positions = grid_sinusoids(frames, rows, columns, tokens.shape[-1]).to(tokens.dtype)
        return positions[None, n:], tokens + positions[:n]
