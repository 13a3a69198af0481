"""Features of video clips, for the Fréchet video distance; the network comes from a file of the user's.

A video is cut into clips of the extractor's number of frames, which do not overlap; frames that are left over
are dropped, so a video with fewer frames gives no clip. Every frame is scaled as a whole to the extractor's
square (bilinear, antialiased): videos that are not square are squeezed, both of a pair alike.

The distance differs from network to network, with the frames of a clip and with the set of clips. A result
is worth something only beside `name`, `sha256`, `frames` and `size` of its extractor and the number of clips.
"""

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from regen.io import check_sha256

I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
I3D_MIN_FRAMES = 10  # with fewer, nothing is left for the network's last pooling
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]
RANDOM_WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class Extractor:
    """A loaded network with what a result must name: its weights, frames of a clip, pixels of a side."""

    name: str
    sha256: str
    frames: int
    size: int
    num_features: int  # features of a clip
    network: nn.Module  # clips `b 3 t h w` in [-1, 1] to features `b d`
    device: torch.device


@runtime_checkable
class ExtractorSpec(Protocol):
    """A choice of extractor, not yet loaded: `I3d`, `VideoMae` or `RandomConvolutions`."""

    def load(self, device: torch.device) -> Extractor:
        """The extractor on `device`; ValueError when its weights are missing, others or damaged."""
        ...


@dataclass(frozen=True)
class I3d:
    """I3D (Carreira and Zisserman 2017), the 400 values before its softmax: that of most published FVD.

    `path` is the TorchScript copy of the original network, i3d_torchscript.pt (51,235,320 bytes), which runs
    code: a file counts only with the expected SHA-256. `frames` of a clip is 16 by habit, 10 or more.
    """

    path: Path
    sha256: str = I3D_SHA256
    frames: int = 16

    def __post_init__(self) -> None:
        if self.frames < I3D_MIN_FRAMES:
            raise ValueError(
                f"I3D needs clips of {I3D_MIN_FRAMES} frames or more, not {self.frames}; give 16 or 33."
            )

    def load(self, device: torch.device) -> Extractor:
        """See `ExtractorSpec`; one empty clip is measured, so that a wrong file is found at once."""
        advice = "get i3d_torchscript.pt (StyleGAN-V's copy of I3D, 400 features) and give its path"
        digest = check_sha256(self.path, self.sha256, advice)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # TorchScript is; the weights are published so
                network = _I3dFeatures(torch.jit.load(self.path, map_location=device)).eval()
                features = network(torch.zeros(1, 3, self.frames, 224, 224, device=device))
        except (RuntimeError, ValueError, TypeError, AttributeError):
            raise ValueError(
                f"The file {self.path} is damaged or no I3D that takes clips of {self.frames} frames and the "
                f"flags rescale, resize and return_features; {advice}."
            ) from None
        return Extractor("I3D", digest, self.frames, 224, features.shape[1], network, device)


class _I3dFeatures(nn.Module):
    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    @torch.no_grad()
    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
        return self.script(clips, rescale=False, resize=False, return_features=True)


@dataclass(frozen=True)
class VideoMae:
    """VideoMAE (Tong et al. 2022), the mean over its last layer's tokens, of a folder made by `transformers`.

    The folder, such as a copy of MCG-NJU/videomae-base from the Hugging Face Hub, holds config.json and
    model.safetensors; frames and size are the model's own, usually 16 of 224 x 224. Needs `transformers`.
    `sha256` is that of model.safetensors; None takes any and reports it. These are not the features of the
    content-debiased FVD (Ge et al. 2024), which come from the giant VideoMAE v2.
    """

    folder: Path
    sha256: str | None = None

    def load(self, device: torch.device) -> Extractor:
        """See `ExtractorSpec`; ValueError also when `transformers` is not installed."""
        try:
            from transformers import VideoMAEModel
        except ImportError:
            raise ValueError(
                "VideoMAE features need the package transformers; install it (pip install transformers)."
            ) from None
        advice = "give the folder of a VideoMAE model with its config.json and model.safetensors"
        digest = check_sha256(self.folder / "model.safetensors", self.sha256, advice)
        try:
            loaded: Any = VideoMAEModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # of many kinds, which transformers does not list
            raise ValueError(
                f"The model in {self.folder} can't be loaded ({type(error).__name__}); {advice}."
            ) from None
        model, loading = loaded
        missing = sorted(loading["missing_keys"])
        if missing:
            raise ValueError(f"The model in {self.folder} is another, without {missing[0]}; {advice}.")
        config, network = model.config, _VideoMaeFeatures(model).eval().to(device)
        name = "VideoMAE, mean over tokens"
        return Extractor(
            name, digest, config.num_frames, config.image_size, config.hidden_size, network, device
        )


class _VideoMaeFeatures(nn.Module):
    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1, 1))
        self.register_buffer("deviation", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1, 1))

    @torch.no_grad()
    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
        pixels = ((clips + 1) / 2 - self.mean) / self.deviation
        tokens = self.model(rearrange(pixels, "b c t h w -> b t c h w")).last_hidden_state
        return tokens.mean(1)


@dataclass(frozen=True)
class RandomConvolutions:
    """Three random 3D convolutions that need no file: FOR TESTS OF THE PIPELINE ONLY, as their name says.

    The features are mean and standard deviation over places of every channel after each convolution.
    """

    seed: int = 0
    frames: int = 16
    size: int = 64

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"Clips of {self.frames} frames are none; give --fvd-frames 16 or 33.")

    def load(self, device: torch.device) -> Extractor:
        """See `ExtractorSpec`; the weights follow from the seed; the sum tells whether they are equal."""
        network = _RandomFeatures(self.seed)
        weights = b"".join(weight.numpy().tobytes() for weight in network.state_dict().values())
        name = "random-convolutions, not comparable with any published number"
        width, digest = 2 * sum(RANDOM_WIDTHS), hashlib.sha256(weights).hexdigest()
        return Extractor(name, digest, self.frames, self.size, width, network.eval().to(device), device)


class _RandomFeatures(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        inward = 3
        for outward in RANDOM_WIDTHS:
            layer = nn.Conv3d(inward, outward, 3, stride=2, padding=1, bias=False)
            nn.init.normal_(
                layer.weight, std=(2 / (27 * inward)) ** 0.5, generator=generator
            )  # keeps the scale
            self.layers.append(layer)
            inward = outward

    @torch.no_grad()
    def forward(self, clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
        x, found = clips, []
        for layer in self.layers:
            x = F.relu(layer(x))
            places = x.flatten(2)
            found += [places.mean(2), places.std(2, unbiased=False)]
        return torch.cat(found, dim=1)


class ClipFeatures:
    """Features of the clips of one video, which is fed any number of frames at a time; holds one clip."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.features: list[Tensor] = []  # each `1 d`, on the CPU
        self._clip: list[Tensor] = []  # frames that wait for the others of their clip, each `3 size size`

    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Take the next frames: 8-bit RGB, any number, of any size, on any device."""
        for frame in frames:
            self._clip.append(_to_square(frame.to(self.extractor.device), self.extractor.size))
            if len(self._clip) == self.extractor.frames:
                clip = rearrange(self._clip, "t c h w -> 1 c t h w")
                self.features.append(self.extractor.network(clip).cpu())
                self._clip = []

    def compute(self) -> Float[Tensor, "n d"]:
        """One row per whole clip so far; no row while there are fewer frames than a clip has."""
        return torch.cat([torch.zeros(0, self.extractor.num_features), *self.features])


def clip_features(extractor: Extractor, frames: Iterable[UInt8[Tensor, "h w 3"]]) -> Float[Tensor, "n d"]:
    """Features of the whole clips of one video, read frame by frame; see above. On the CPU."""
    clips = ClipFeatures(extractor)
    for frame in frames:
        clips.update(frame[None])
    return clips.compute()


def _to_square(frame: UInt8[Tensor, "h w 3"], size: int) -> Float[Tensor, "3 size size"]:
    """RGB in [-1, 1], the whole frame squeezed into a square."""
    image = rearrange(frame, "h w c -> 1 c h w").to(torch.float32) / 127.5 - 1
    if image.shape[2:] != (size, size):
        image = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
    return image[0]
