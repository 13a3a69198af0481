"""REPA: alignment of decoder features with a frozen image encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from regen.io import read_json
from regen.losses.optimizer_state import SelfTrained
from regen.metrics.efficientnet import STRIDE, WIDTH, EfficientNetLite0
from regen.networks.dit import Patches

ADVICE = (
    "set --losses.representation.model to the folder of a SigLIP or DINOv2 model or to efficientnet, or "
    "--losses.representation.weight to 0"
)
SIGLIP = ("siglip", "siglip_vision_model")  # includes SigLIP 2 of a fixed size
DINO = ("dinov2", "dinov2_with_registers")


@dataclass(frozen=True)
class RepresentationConfig:
    """Representation alignment (REPA, arXiv 2410.06940); weight 0: none."""

    weight: float = 0.0
    """Weight of the negative cosine similarity; 0.5 is usual."""
    model: str | None = None
    """Folder of a SigLIP or DINOv2 image encoder (transformers), or efficientnet (the extra `perceptual`)."""
    width: int = 2048
    """Width of the two hidden layers of the projector."""
    learning_rate: float = 1e-4
    """Learning rate of the projector."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"losses.representation.weight must be >= 0, got {self.weight}.")
        if self.width < 1:
            raise ValueError(f"losses.representation.width must be >= 1, got {self.width}.")
        if self.learning_rate <= 0:
            raise ValueError(f"losses.representation.learning_rate must be > 0, got {self.learning_rate}.")


class RepresentationLoss(SelfTrained):
    """Negative cosine similarity of projected features and those of a frozen image encoder.

    `channels`: width of the features; `patches`: those of the decoder, over whose frames the image features
    are averaged.
    """

    def __init__(
        self, config: RepresentationConfig, channels: int, patches: Patches, device: torch.device
    ) -> None:
        self.config, self.patches = config, patches
        self.image_model = (
            EfficientNetPatches() if config.model == "efficientnet" else TransformerPatches(config.model)
        ).to(device)
        self.projector = nn.Sequential(
            nn.Linear(channels, config.width), nn.SiLU(), nn.Linear(config.width, config.width), nn.SiLU(),
            nn.Linear(config.width, self.image_model.width),
        ).to(device)  # fmt: skip
        super().__init__("projector", self.projector, config.learning_rate)

    def __call__(
        self, features: Float[Tensor, "b d n y x"], target: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted loss, with gradients for features and projector, and the logs."""
        projected = self.projector(rearrange(features, "b d n y x -> b n y x d"))
        expected = self.target_features(target)
        loss = -F.cosine_similarity(projected.float(), expected, dim=-1).mean()
        return self.config.weight * loss, {"representation": loss.detach()}

    @torch.no_grad()
    def target_features(self, target: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b n y x e"]:
        """Image features of each patch in fp32: of the first frame, then averaged over each group of frames.

        `target` is in [-1, 1]; it is padded to whole patches and resized so that the patches of the image
        encoder coincide with the decoder's.
        """
        (t, h, w), side = target.shape[2:], self.patches.side
        n, y, x = self.patches.grid(t, h, w)
        images = F.pad(target, (0, x * side - w, 0, y * side - h, 0, 0), mode="replicate")
        images = rearrange(images, "b c t h w -> (b t) c h w").float()
        size = (y * self.image_model.patch, x * self.image_model.patch)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        with torch.autocast(target.device.type, enabled=False):
            features = self.image_model(images)
        frames = rearrange(features, "(b t) y x e -> b t y x e", t=t)
        groups = [frames[:, :1], *frames[:, 1:].split(self.patches.frames, dim=1)]
        return torch.stack([group.mean(1) for group in groups[:n]], dim=1)


class TransformerPatches(nn.Module):
    """Patch features of the SigLIP or DINOv2 model in a folder."""

    mean: Tensor
    std: Tensor

    def __init__(self, folder: str | None) -> None:
        super().__init__()
        self.model = load_image_model(folder)
        assert folder is not None
        for name, value in zip(("mean", "std"), pixel_statistics(folder), strict=True):
            self.register_buffer(name, value, persistent=False)
        self.patch, self.width = self.model.config.patch_size, self.model.config.hidden_size

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n y x e"]:
        """Features in fp32 of each patch, `patch` pixels wide, of RGB images in [-1, 1]."""
        pixels = (images - self.mean) / self.std
        tokens = self.model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        y, x = (side // self.patch for side in images.shape[2:])
        patches = tokens[:, -y * x :].float()  # class token and registers come first
        return rearrange(patches, "n (y x) e -> n y x e", y=y)


class EfficientNetPatches(nn.Module):
    """Features of EfficientNet-Lite0 at resolution 1/16, a small target that needs no download."""

    patch, width = STRIDE, WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.model = EfficientNetLite0.load()

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n y x e"]:
        """Features in fp32 of each patch, `patch` pixels wide, of RGB images in [-1, 1]."""
        half = self.patch // 2  # features are centred at the last pixel of a patch
        shifted = F.pad(images, (half, 0, half, 0), mode="replicate")[..., :-half, :-half]
        return rearrange(self.model(shifted, resolutions=4)[-1], "n e y x -> n y x e")


def load_image_model(name: str | None) -> Any:
    """The frozen SigLIP vision model or DINOv2 in the folder `name`. Raises ValueError for any other."""
    if name is None:
        raise ValueError(f"Representation alignment needs an image model; {ADVICE}.")
    try:
        from transformers import AutoConfig, AutoModel, SiglipVisionModel
    except ImportError:
        raise ValueError(
            "Representation alignment needs the package transformers: pip install transformers, or set "
            "--losses.representation.weight to 0."
        ) from None
    folder = Path(name).expanduser()
    try:
        model_type = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    except Exception as error:  # transformers raises many types
        raise ValueError(f"No image model in {name} ({type(error).__name__}); {ADVICE}.") from None
    if model_type not in SIGLIP + DINO:
        raise ValueError(f"The image model in {name} must be siglip or dinov2, got {model_type}; {ADVICE}.")
    network: Any = SiglipVisionModel if model_type in SIGLIP else AutoModel
    try:
        model, loading = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise ValueError(
            f"The image model in {name} is damaged ({type(error).__name__}); {ADVICE}."
        ) from None
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"The image model in {name} lacks the weight {missing[0]}; {ADVICE}.")
    return model.eval().requires_grad_(False)


def pixel_statistics(name: str) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Mean and standard deviation of RGB in [-1, 1] from the preprocessor_config.json of the image model.

    Without that file they are SigLIP's, 0 and 1. Raises ValueError when the file lacks them.
    """
    from transformers.utils.hub import cached_file

    try:
        file: Any = cached_file(Path(name).expanduser(), "preprocessor_config.json", local_files_only=True)
        config = read_json(Path(file))
        mean, std = (torch.tensor(config[key]).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    except OSError:
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    except (KeyError, RuntimeError, TypeError, ValueError):
        raise ValueError(
            f"{name}/preprocessor_config.json must contain image_mean and image_std; {ADVICE}."
        ) from None
    return 2 * mean.float() - 1, 2 * std.float()  # from [0, 1] to [-1, 1]
