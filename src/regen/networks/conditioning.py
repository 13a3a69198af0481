"""LatentConditioner and ContextConditioner: how latents condition the decoder."""

import math
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from regen.layers.attention import RMSNorm
from regen.layers.positions import grid_sinusoidal_embedding
from regen.layers.precision import Fp32Module

Condition = tuple[Tensor, Tensor | None]  # positions of the pixel tokens, and context tokens or None
Conditioning = Literal["content_aware", "in_context"]
FirstFrame = Literal["content", "siren"]
SIREN_LAYERS = 3
MAX_FREQUENCY = 30.0  # ω of the first layer in the SIREN paper, for inputs of unit range


def default_frequency(ratio: int) -> float:
    """ω of M_t's first layer in radians per chunk: min(30, k), at most one radian per frame.

    The times that training can decode are frames and fractions of frames; a higher frequency is not
    determined by them, and positions between frames become a staircase (docs/method.md, 4).
    """
    return min(MAX_FREQUENCY, float(ratio))


class SirenLayer(nn.Module):
    """sin(ω (γ ⊙ (W h + b)) + β), with γ and β linear in the motion latent (FiLM)."""

    def __init__(self, inputs: int, width: int, channels: int, omega: float, bound: float):
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(inputs, width)
        self.modulate = nn.Linear(channels, 2 * width)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        # Small, not zero: γ starts near 1 and β near 0, and the motion latent acts from the first step.
        nn.init.normal_(self.modulate.weight, std=0.1)
        nn.init.zeros_(self.modulate.bias)

    def forward(
        self, h: Float[Tensor, "... i"], motion: Float[Tensor, "b 1 y x c"]
    ) -> Float[Tensor, "... y x d"]:
        gamma, beta = self.modulate(motion).chunk(2, dim=-1)
        return torch.sin(self.omega * ((1 + gamma) * self.linear(h)) + beta)


class MotionSiren(Fp32Module):
    """M_t (REGEN, Eq. 5): a SIREN (arXiv 2006.09661) of the time, modulated by the motion latent.

    Weights and arithmetic are fp32 in a model of any precision, because phases are multiplied by ω =
    `frequency`, up to 30 radians per chunk.
    """

    def __init__(self, channels: int, width: int, frequency: float):
        super().__init__()
        bound = math.sqrt(6 / width)
        first = SirenLayer(1, width, channels, omega=frequency, bound=1.0)
        inner = [SirenLayer(width, width, channels, omega=1.0, bound=bound) for _ in range(SIREN_LAYERS - 1)]
        self.layers = nn.ModuleList([first, *inner])
        self.out = nn.Linear(width, width)
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
            return self.out(h)


class LatentConditioner(nn.Module):
    """Content-aware positions C_e(x, y, τ | z_c, z_m) = RMSNorm(W [z_c ⊕ M_t(τ | z_m)]) (REGEN, Eq. 5).

    At τ = 0 positions depend on z_c alone, so that an image and frame 0 of every video that begins with it
    have exactly the same ones. With `first_frame` "content" a linear map of z_c replaces the motion part;
    with "siren" M_t(0 | z_c) is the motion part and, through a linear map, replaces z_c (REGEN, Figure 3).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        siren_width: int,
        frequency: float,
        first_frame: FirstFrame = "content",
    ):
        super().__init__()
        self.is_first_by_siren = first_frame == "siren"
        self.siren = MotionSiren(channels, siren_width, frequency)
        sizes = (siren_width, channels) if self.is_first_by_siren else (channels, siren_width)
        self.first_frame = nn.Linear(*sizes, bias=False)
        self.proj = nn.Linear(channels + siren_width, width)
        self.norm = RMSNorm(width)
        # The few content channels weigh as much as the many of the SIREN; with the usual initialisation they
        # would be a hundredth of the position, and the decoder would learn to use the latents late or never.
        nn.init.normal_(self.proj.weight[:, :channels], std=(2 * channels) ** -0.5)
        nn.init.normal_(self.proj.weight[:, channels:], std=(2 * siren_width) ** -0.5)
        # Without a constant part the norm would remove the length of the latent vector.
        nn.init.normal_(self.proj.bias, std=0.5)

    def forward(
        self, latents: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"]
    ) -> Float[Tensor, "b t y x d"]:
        """`latents`: content alone (n = 1, an image: all times must be 0), or content and motion (n = 2)."""
        content = rearrange(latents[:, :, 0], "b c y x -> b 1 y x c")
        if self.is_first_by_siren:
            first = self.siren(times.new_zeros(1), content[:, 0])
            content_at_zero = self.first_frame(first.to(content.dtype)).to(content.dtype)
        else:
            first, content_at_zero = self.first_frame(content), content
        at_zero = rearrange(times.abs() < 1e-6, "t -> 1 t 1 1 1")
        motion = repeat(first, "b 1 y x e -> b t y x e", t=times.shape[0])
        if latents.shape[2] > 1:
            moving = self.siren(times, rearrange(latents[:, :, 1], "b c y x -> b y x c"))
            motion = torch.where(at_zero, motion.to(moving.dtype), moving)
        content = torch.where(at_zero, content_at_zero, content)
        return self.norm(self.proj(torch.cat([content, motion.to(content.dtype)], dim=-1)))


class ContextConditioner(nn.Module):
    """The in-context ablation: latents as additional tokens, all tokens with fixed positions.

    Positions are sinusoids of absolute integer coordinates: of frames (k τ; the content latent lies at 0, the
    motion latent at k), rows and columns. They are computed for each call, for any size and length.
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
        """Positions of the pixel tokens, and the context tokens.

        `latents`: content alone (n = 1, an image) or content and motion (n = 2). `corner`: row and column of
        the first latent, for the tile of a larger picture.
        """
        (top, left), (n, y, x) = corner, latents.shape[2:]
        tokens = self.embed(rearrange(latents, "b c n y x -> b n y x c"))
        rows = torch.arange(top, top + y, device=latents.device, dtype=torch.float32)
        columns = torch.arange(left, left + x, device=latents.device, dtype=torch.float32)
        frames = torch.cat([self.ratio * torch.arange(n, device=times.device), self.ratio * times.float()])
        positions = grid_sinusoidal_embedding(frames, rows, columns, tokens.shape[-1]).to(tokens.dtype)
        return positions[None, n:], tokens + positions[:n]
