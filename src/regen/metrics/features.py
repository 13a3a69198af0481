"""Features of video clips for the Fréchet video distance.

A video is split into non-overlapping clips of the extractor's number of frames; the remaining frames are
dropped, so a shorter video has no clip. Frames of 8 bits are resized to the extractor's square by bilinear
interpolation without antialiasing (`align_corners=False`), without keeping their aspect ratio, and then
scaled to [-1, 1]: the preprocessing of cd-fvd (Ge et al. 2024) for both networks. StyleGAN-V leaves it to its
TorchScript file (`resize=True, rescale=True`), which is older than antialiasing in PyTorch. Antialiasing
smooths frames above 224 pixels and gives other distances.

The distance depends on the network, the resizing, the frames per clip and the set of clips. Report it only
with `name`, `sha256`, `frames`, `size` and `resize` of its extractor and the number of clips.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.io import check_sha256

I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"
I3D_MIN_FRAMES = 10  # with fewer, the last pooling has no input
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1]
RANDOM_WIDTHS = (16, 32, 64)
RESIZE = "bilinear without antialiasing, as cd-fvd"


@dataclass(frozen=True)
class Extractor:
    """A loaded feature network, and what identifies it in a result."""

    name: str
    sha256: str
    frames: int  # per clip
    size: int  # pixels per side
    num_features: int  # per clip
    network: Callable[[Tensor], Tensor]  # from clips `b 3 t h w` in [-1, 1] to features `b d`
    device: torch.device
    resize: str = RESIZE  # of the frames to `size`


@dataclass(frozen=True)
class I3d:
    """I3D (Carreira and Zisserman 2017): its 400 logits, the features of most published FVD.

    `path` is i3d_torchscript.pt (51,235,320 bytes), a TorchScript copy of the original network. TorchScript
    runs code, so the file must have the expected SHA-256. `frames` per clip is usually 16, at least 10.
    """

    path: Path
    sha256: str = I3D_SHA256
    frames: int = 16

    def __post_init__(self) -> None:
        if self.frames < I3D_MIN_FRAMES:
            raise ValueError(f"I3D needs at least {I3D_MIN_FRAMES} frames per clip, got {self.frames}.")

    def load(self, device: torch.device) -> Extractor:
        """Load the extractor and run a clip of zeros. Raises ValueError for a missing or different file."""
        advice = "get i3d_torchscript.pt (StyleGAN-V's copy of I3D, 400 features) and give its path"
        digest = check_sha256(self.path, self.sha256, advice)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated
                script = torch.jit.load(self.path, map_location=device).eval()
                network = partial(script, rescale=False, resize=False, return_features=True)
                with torch.no_grad():
                    features = network(torch.zeros(1, 3, self.frames, 224, 224, device=device))
        except (RuntimeError, ValueError, TypeError, AttributeError):
            raise ValueError(f"{self.path} is not an I3D for {self.frames} frames; {advice}.") from None
        return Extractor("I3D", digest, self.frames, 224, features.shape[1], network, device)


@dataclass(frozen=True)
class VideoMae:
    """VideoMAE (Tong et al. 2022): the mean over the tokens of its last layer. Needs `transformers`.

    `folder` holds config.json and model.safetensors, as a copy of MCG-NJU/videomae-base from the Hugging Face
    Hub does; the model sets frames and size, usually 16 of 224 x 224. `sha256` is that of model.safetensors,
    None for any. The content-debiased FVD (Ge et al. 2024) uses another network, the giant VideoMAE v2.
    """

    folder: Path
    sha256: str | None = None

    def load(self, device: torch.device) -> Extractor:
        """Load the extractor. Raises ValueError for missing or other weights, or without `transformers`."""
        try:
            from transformers import VideoMAEModel
        except ImportError:
            raise ValueError("VideoMAE features need transformers: pip install transformers.") from None
        advice = "give the folder of a VideoMAE model with its config.json and model.safetensors"
        digest = check_sha256(self.folder / "model.safetensors", self.sha256, advice)
        try:
            loaded: Any = VideoMAEModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # transformers does not document which
            raise ValueError(f"{self.folder} can't be loaded ({type(error).__name__}); {advice}.") from None
        model, loading = loaded
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"The weights in {self.folder} lack {missing[0]}; {advice}.")
        model.eval().to(device)
        mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device)[..., None, None, None]

        def network(clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
            pixels = ((clips + 1) / 2 - mean) / std
            return model(rearrange(pixels, "b c t h w -> b t c h w")).last_hidden_state.mean(1)

        shape = model.config.num_frames, model.config.image_size, model.config.hidden_size
        return Extractor("VideoMAE, mean over tokens", digest, *shape, network, device)


@dataclass(frozen=True)
class RandomConvolutions:
    """Three random 3D convolutions, FOR TESTS OF THE PIPELINE ONLY; they need no file.

    The features are mean and standard deviation over positions of every channel after each convolution.
    """

    seed: int = 0
    frames: int = 16
    size: int = 64

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}; give --fvd-frames 16 or 33.")

    def load(self, device: torch.device) -> Extractor:
        """Make the extractor; its checksum is that of the weights, which follow from the seed."""
        generator = torch.Generator().manual_seed(self.seed)
        weights = []
        for in_channels, out_channels in pairwise((3, *RANDOM_WIDTHS)):
            weight, std = torch.empty(out_channels, in_channels, 3, 3, 3), (2 / (27 * in_channels)) ** 0.5
            weights.append(weight.normal_(std=std, generator=generator))
        digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()
        layers = [weight.to(device) for weight in weights]

        def network(clips: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b d"]:
            x, features = clips, []
            for weight in layers:
                x = F.relu(F.conv3d(x, weight, stride=2, padding=1))
                features += [x.flatten(2).mean(2), x.flatten(2).std(2, unbiased=False)]
            return torch.cat(features, dim=1)

        name = "random-convolutions, not comparable with any published number"
        return Extractor(name, digest, self.frames, self.size, 2 * sum(RANDOM_WIDTHS), network, device)


ExtractorSpec = I3d | VideoMae | RandomConvolutions


class ClipFeatures:
    """Features of the clips of one video, updated with any number of frames at a time."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self.features: list[Tensor] = []  # each `1 d`, on the CPU
        self._clip: list[Tensor] = []  # frames of an unfinished clip, each `3 size size`

    @torch.no_grad()
    def update(self, frames: UInt8[Tensor, "t h w 3"]) -> None:
        """Add frames: 8-bit RGB, any number, of any size, on any device."""
        for frame in frames:
            self._clip.append(_to_square(frame.to(self.extractor.device), self.extractor.size))
            if len(self._clip) == self.extractor.frames:
                clip = rearrange(self._clip, "t c h w -> 1 c t h w")
                self.features.append(self.extractor.network(clip).cpu())
                self._clip = []

    def compute(self) -> Float[Tensor, "n d"]:
        """One row for each complete clip so far."""
        return torch.cat([torch.zeros(0, self.extractor.num_features), *self.features])


def clip_features(extractor: Extractor, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "n d"]:
    """Features of the complete clips of one video, on the CPU."""
    clips = ClipFeatures(extractor)
    clips.update(frames)
    return clips.compute()


def _to_square(frame: UInt8[Tensor, "h w 3"], size: int) -> Float[Tensor, "3 size size"]:
    """Resize a frame to a square (see `RESIZE`), RGB in [-1, 1]."""
    image = rearrange(frame, "h w c -> 1 c h w").to(torch.float32)
    if image.shape[2:] != (size, size):
        image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=False)
    return image[0] / 127.5 - 1
