"""LinearEncoder and LinearDecoder: linear maps between frames and latents, by windows that overlap."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.layers.convolution import Conv3d
from regen.tiling import LATENT_STRIDE

WINDOW = 2 * LATENT_STRIDE  # pixels along the side of a window: each pixel lies in four of them
RIDGE = 1e-4  # of the mean square of a feature, so that constant channels of latents do no harm
REACH = (WINDOW - LATENT_STRIDE) // 2  # pixels by which a window extends beyond the block of its latent


def blend_frames(
    video: Float[Tensor, "b c t h w"], positions: Float[Tensor, " n"]
) -> Float[Tensor, "b c n h w"]:
    """Frames at real-valued `positions` (0 is the first frame): linear in between, clamped at the ends."""
    last = video.shape[2] - 1
    positions = positions.to(video.device, torch.float32).clamp(0, last)
    before = positions.floor().long()
    after = (before + 1).clamp(max=last)
    weight = rearrange((positions - before).to(video.dtype), "n -> n 1 1")
    return torch.lerp(video[:, :, before], video[:, :, after], weight)


class LinearEncoder(nn.Module):
    """Windows of 16 x 16 pixels, 8 apart, to latents: a strided convolution (docs/method.md, 28).

    The content latent sees frame 0 alone, each further latent the k frames that it stands for and the one
    before them. The picture is continued by its outermost pixels.
    """

    def __init__(self, channels: int, ratio: int):
        super().__init__()
        side = (WINDOW, WINDOW)
        self.content = Conv3d(3, channels, (1, *side), (1, LATENT_STRIDE, LATENT_STRIDE))
        self.motion = Conv3d(3, channels, (1 + ratio, *side), (ratio, LATENT_STRIDE, LATENT_STRIDE))

    def forward(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c n y x"]:
        video = F.pad(video, (REACH,) * 4 + (0, 0), mode="replicate")
        content = self.content(video[:, :, :1])
        return content if video.shape[2] == 1 else torch.cat([content, self.motion(video)], dim=2)


class Windows(nn.ConvTranspose3d):
    """The sum of windows of a decoder, with weights for all times."""

    def forward(  # type: ignore[override]  # of other arguments
        self, stacked: Float[Tensor, "b d y x"], times: Float[Tensor, " t"] | None
    ) -> Float[Tensor, "b 3 t h w"]:
        weight = self.weight
        if times is not None:
            weight = blend_frames(weight, times * (self.kernel_size[0] - 1))
        outside = LATENT_STRIDE + REACH  # pixels of the added latents, and of windows beyond the picture
        return F.conv_transpose3d(
            stacked[:, :, None],
            weight.to(stacked.dtype),
            self.bias,
            stride=(1, LATENT_STRIDE, LATENT_STRIDE),
            padding=(0, outside, outside),
        )


class LinearDecoder(nn.Module):
    """Latents to frames: the sum of overlapping windows, a transposed convolution (docs/method.md, 28).

    All frames of a chunk come from both of its latents, an image from the content latent, by weights of its
    own. Between two frames weights are interpolated linearly; before the first and after the last they are
    constant. The grid of latents is continued by its outermost ones.
    """

    def __init__(self, channels: int, ratio: int):
        super().__init__()
        side = (WINDOW, WINDOW)
        self.image = Windows(channels, 3, (1, *side))
        self.chunk = Windows(2 * channels, 3, (1 + ratio, *side))

    def forward(
        self, latents: Float[Tensor, "b c n y x"], times: Float[Tensor, " t"] | None = None
    ) -> Float[Tensor, "b 3 t h w"]:
        """`latents`: content alone (n = 1, an image), or content and motion (n = 2). `times` are in chunk
        units; None: those of the encoded frames."""
        part = self.image if latents.shape[2] == 1 else self.chunk
        stacked = F.pad(rearrange(latents, "b c n y x -> b (n c) y x"), (1, 1, 1, 1), mode="replicate")
        return part(stacked, times)


class NeighbourhoodDecoder(nn.Module):
    """A linear map from 3 x 3 latents to the `patch` x `patch` pixels of the middle one, in `frames` frames.

    Between two frames it is interpolated linearly, before the first and after the last it is constant. It
    starts at zero; `LeastSquares` finds the map from `features` to `targets`, which `load` takes.
    """

    def __init__(self, channels: int, frames: int, patch: int):
        super().__init__()
        self.frames, self.patch = frames, patch
        self.conv = nn.Conv2d(channels, 3 * frames * patch**2, 3)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, latents: Float[Tensor, "b c y x"], positions: Float[Tensor, " t"]
    ) -> Float[Tensor, "b 3 t h w"]:
        """The frames at `positions`, 0 is the first; the grid of latents is continued by its outermost."""
        out = self.conv(F.pad(latents, (1, 1, 1, 1), mode="replicate"))
        sizes = {"c": 3, "p": self.patch, "q": self.patch}
        return blend_frames(rearrange(out, "b (t c p q) y x -> b c t (y p) (x q)", **sizes), positions)

    @staticmethod
    def features(latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "_ f"]:
        """The 3 x 3 latents around each, and a constant 1, as rows."""
        columns = F.unfold(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3)
        return F.pad(rearrange(columns, "b f n -> (b n) f"), (0, 1), value=1.0)

    def targets(self, video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "_ d"]:
        """The pixels of each patch in all frames, as rows."""
        sizes = {"p": self.patch, "q": self.patch}
        return rearrange(video, "b c t (y p) (x q) -> (b y x) (t c p q)", **sizes)

    @torch.no_grad()
    def load(self, weights: Float[Tensor, "f d"]) -> None:
        """Take the map that least squares found from `features` to `targets`."""
        assert self.conv.bias is not None
        self.conv.weight.copy_(weights[:-1].T.reshape(self.conv.weight.shape))
        self.conv.bias.copy_(weights[-1])


class LeastSquares:
    """Sums over pairs of features and targets, and the linear map between them."""

    def __init__(self, features: int, targets: int) -> None:
        self.features = torch.zeros(features, features, dtype=torch.float64)
        self.products = torch.zeros(features, targets, dtype=torch.float64)

    def add(self, features: Float[Tensor, "_ f"], targets: Float[Tensor, "_ d"]) -> None:
        features, targets = features.cpu().double(), targets.cpu().double()
        self.features += features.T @ features
        self.products += features.T @ targets

    def solve(self) -> Float[Tensor, "f d"]:
        """The map, in float64."""
        ridge = RIDGE * self.features.diagonal().mean() * torch.eye(len(self.features), dtype=torch.float64)
        return torch.linalg.solve(self.features + ridge, self.products)
