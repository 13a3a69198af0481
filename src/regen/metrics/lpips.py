"""LPIPS, learned perceptual image patch similarity: the network, and its mean over frames.

Both images pass through a network trained for image classification (Zhang et al. 2018, arXiv 1801.03924). At
five depths the features of each position are scaled to unit length; their squared differences, weighted by a
learned head and averaged over positions, are summed: 0 for equal images, about 1 for unrelated ones.

The two backbones give distances on different scales: "alex" is usual for evaluation, "vgg" for training. The
heads (version 0.1) come with torchmetrics; the user downloads the weights of the backbone, and
`Lpips.from_file` checks them.
"""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from regen.io import check_sha256
from regen.metrics.psnr_ssim import FrameMean

Net = Literal["alex", "vgg"]
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's, of RGB in [-1, 1]
EPS = 1e-8  # under the root: gives positions with zero features a gradient
MAX_PIXELS_PER_BATCH = 512 * 512  # of one video; bounds the memory


def _head(net: Net) -> Path:
    """The file of a head in the package torchmetrics, which is found without its import: that takes long."""
    package = find_spec("torchmetrics")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"


def _alex() -> nn.Sequential:
    """AlexNet (Krizhevsky 2014) up to its fifth convolution, numbered as in torchvision's `features`."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _vgg() -> nn.Sequential:
    """VGG-16 (Simonyan and Zisserman 2015) up to its last convolution, numbered in the same way."""
    stages = [(3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512)]
    layers: list[nn.Module] = []
    for stage in stages:
        for in_channels, out_channels in pairwise(stage):
            layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers[:-1])


def unit_length(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Features scaled to length 1 at each position; zero stays zero."""
    return features / (features.square().sum(1, keepdim=True) + EPS).sqrt()


@dataclass(frozen=True)
class Backbone:
    """A feature network: its layers, those compared, and torchvision's weight file."""

    build: Callable[[], nn.Sequential]
    taps: tuple[int, int, int, int, int]
    min_side: int  # pixels; smaller images are empty in the deepest layers
    file: str
    sha256: str  # first digits, as in the file's name


BACKBONES: dict[Net, Backbone] = {
    "alex": Backbone(_alex, (1, 4, 7, 9, 11), 31, "alexnet-owt-7be5be79.pth", "7be5be79"),
    "vgg": Backbone(_vgg, (3, 8, 15, 22, 29), 16, "vgg16-397923af.pth", "397923af"),
}


class Lpips(nn.Module):
    """LPIPS distance, differentiable in both images, with frozen weights. Use `from_file` to load it."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: Net, layers: nn.Sequential) -> None:
        super().__init__()
        self.net: Net = net
        self.taps, self.min_side = BACKBONES[net].taps, BACKBONES[net].min_side
        self.layers = layers
        stored = torch.load(_head(net), map_location="cpu", weights_only=True)
        heads = [stored[f"lin{index}.model.1.weight"] for index in range(len(self.taps))]
        self.heads = nn.ParameterList(head.reshape(1, -1, 1, 1) for head in heads)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, path: Path, net: Net = "alex", sha256: str | None = None) -> "Lpips":
        """Load backbone weights in torchvision's layout (`features.N.weight`).

        `sha256`: at least 8 digits of the file's checksum; None for the one that torchvision publishes.
        Raises ValueError when the file is missing, damaged or different.
        """
        backbone = BACKBONES[net]
        advice = f"download torchvision's {backbone.file}, or give the sha256 of another file like it"
        check_sha256(path, sha256 or backbone.sha256, advice)
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError):
            raise ValueError(f"{path} can't be read as PyTorch weights; {advice}.") from None
        layers, weights = backbone.build(), {}  # the file also has the weights of the classifier
        for name, expected in layers.state_dict().items():
            key, shape = f"features.{name}", tuple(expected.shape)
            weight = stored.get(key) if isinstance(stored, dict) else None
            if not isinstance(weight, Tensor) or weight.shape != shape:
                raise ValueError(f"{path} lacks {key} of shape {shape}; {advice}.")
            weights[name] = weight
        layers.load_state_dict(weights)
        return cls(net, layers)

    @classmethod
    def random_for_tests(cls, net: Net = "alex", seed: int = 0) -> "Lpips":
        """Random backbone weights, FOR TESTS ONLY: the distances are meaningless."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(net, BACKBONES[net].build())

    def forward(
        self, image: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Distance of each pair, RGB in [-1, 1]; symmetric. Raises ValueError for sides under `min_side`."""
        height, width = image.shape[2:]
        if min(height, width) < self.min_side:
            raise ValueError(f"LPIPS ({self.net}) needs {self.min_side} pixels, got {height} x {width}.")
        pairs = zip(self._features(image), self._features(reference), self.heads, strict=True)
        distances = [((a - b).square() * head).sum(1).mean((1, 2)) for a, b, head in pairs]
        return torch.stack(distances).sum(0)

    def _features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Features of unit length at the five depths, each `b c h' w'`."""
        x = (image - self.mean) / self.std
        features = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.taps:
                features.append(unit_length(x))
        return features


class LpipsMean(FrameMean):
    """Mean LPIPS over the frames of one video, computed on the device of `lpips`."""

    def __init__(self, lpips: Lpips) -> None:
        super().__init__()
        self.lpips = lpips

    @torch.no_grad()
    def update(self, reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames of both videos: 8-bit RGB of equal size, on any device."""
        for pair in frame_batches(reference, other):
            first, second = (to_images(frames, self.lpips.mean) for frames in pair)
            self.add_values(self.lpips(second, first))


def frame_batches(
    reference: UInt8[Tensor, "t h w 3"], other: UInt8[Tensor, "t h w 3"]
) -> Iterator[tuple[UInt8[Tensor, "n h w 3"], UInt8[Tensor, "n h w 3"]]]:
    """Frames of both videos, as many at a time as bound the memory of a network; none of empty videos."""
    assert reference.shape == other.shape, "compare frames of equal size"
    frames, height, width, _ = reference.shape
    if frames == 0:
        return iter(())
    count = max(1, MAX_PIXELS_PER_BATCH // (height * width))
    return zip(reference.split(count), other.split(count), strict=True)


def to_images(frames: UInt8[Tensor, "t h w 3"], like: Tensor) -> Float[Tensor, "t 3 h w"]:
    """8-bit frames as RGB in [-1, 1], with the device and the precision of `like`."""
    return rearrange(frames.to(like.device), "t h w c -> t c h w").to(like.dtype) / 127.5 - 1
