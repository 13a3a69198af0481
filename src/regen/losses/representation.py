"""Representation alignment: the decoder's features learn to tell what a frozen image model sees (spec B5.5).

REPA (arXiv 2410.06940) for patches of several frames: each feature of the decoder's grid is projected and
compared with what the image model says of that place, averaged over the frames of the patch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from regen.losses.optimizer_state import Size, below, make_moments, moments
from regen.networks.patches import Patches

ADVICE = (
    "give the folder of an image model with patches, such as SigLIP, by --losses.representation.model, or "
    "train without by --losses.representation.weight 0"
)
SIGLIP = ("siglip", "siglip_vision_model")  # SigLIP 2 of a fixed size is of the first kind, too
DINO = ("dinov2", "dinov2_with_registers")


@dataclass(frozen=True)
class RepresentationConfig:
    """How features are aligned; weight 0: not at all."""

    weight: float = 0.0
    """Weight of the negative cosine; 0.5 is usual."""
    model: str | None = None
    """Folder of an image model with patches, such as SigLIP, that you have downloaded (transformers)."""
    width: int = 2048
    """Of the projector's two hidden layers."""
    learning_rate: float = 1e-4
    """Of the projector."""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.width < 1 or self.learning_rate <= 0:
            raise ValueError(
                "Representation alignment needs a weight of 0 or more, a width of 1 or more and a learning "
                "rate above 0."
            )


class RepresentationLoss:
    """Owns the frozen image model, and the projector with its optimizer; the training loop stays as it is.

    `channels` are those of the features, `patches` those of the decoder. Raises ValueError when there is no
    such image model.
    """

    def __init__(
        self, config: RepresentationConfig, channels: int, patches: Patches, device: torch.device
    ) -> None:
        self.config, self.patches = config, patches
        self.images = load_image_model(config.model).to(device)
        assert config.model is not None, "or there would be no image model"
        self.mean, self.deviation = (value.to(device) for value in pixel_statistics(config.model))
        self.patch, width = self.images.config.patch_size, self.images.config.hidden_size
        self.projector = nn.Sequential(
            nn.Linear(channels, config.width), nn.SiLU(), nn.Linear(config.width, config.width), nn.SiLU(),
            nn.Linear(config.width, width),
        ).to(device)  # fmt: skip
        self.optimizer = AdamW(
            self.projector.parameters(), config.learning_rate, weight_decay=0.0, fused=True
        )

    def __call__(
        self, features: Float[Tensor, "b d n y x"], target: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted mean negative cosine, with a gradient for features and projector, and what to log."""
        projected = self.projector(rearrange(features, "b d n y x -> b n y x d"))
        seen = self.seen(target, (features.shape[2], features.shape[3], features.shape[4]))
        loss = -F.cosine_similarity(projected.float(), seen, dim=-1).mean()
        return self.config.weight * loss, {"representation": loss.detach()}

    @torch.no_grad()
    def seen(
        self, target: Float[Tensor, "b 3 t h w"], grid: tuple[int, int, int]
    ) -> Float[Tensor, "b n y x e"]:
        """What the image model says of each patch: the first frame alone, the others averaged in groups.

        `target` is in [-1, 1]; its sides are filled up to whole patches and scaled to those of the image
        model, so that the two grids are one. In fp32, without a gradient.
        """
        (n, y, x), (t, h, w), side = grid, target.shape[2:], self.patches.side
        assert grid == self.patches.grid(t, h, w), "the features of this target"
        images = F.pad(target, (0, x * side - w, 0, y * side - h, 0, 0), mode="replicate")
        images = rearrange(images, "b c t h w -> (b t) c h w").float()
        size = (y * self.patch, x * self.patch)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        images = (images - self.mean) / self.deviation
        with torch.autocast(target.device.type, enabled=False):
            tokens = self.images(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state
        patches = tokens[:, -y * x :].float()  # behind a class token and registers, where there are such
        frames = rearrange(patches, "(b t) (y x) e -> b t y x e", t=t, y=y)
        groups = [frames[:, :1], *frames[:, 1:].split(self.patches.frames, dim=1)]
        return torch.stack([group.mean(1) for group in groups[:n]], dim=1)

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        """Let the projector learn from the calls since the last update.

        `average` replaces each of its tensors by their mean over all processes.
        """
        average([weight.grad for weight in self.projector.parameters() if weight.grad is not None])
        self.optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Forget the calls since the last update."""
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """All that a run needs in order to go on; the image model is not part of it."""
        parameters = dict(self.projector.named_parameters())
        return {
            **{f"projector.{name}": value for name, value in self.projector.state_dict().items()},
            **{f"optimizer.{name}": value for name, value in moments([self.optimizer], parameters).items()},
        }

    def prepare(self, sizes: dict[str, Size]) -> None:
        """Make what the optimizer has in a checkpoint with tensors of these shapes and types."""
        make_moments([self.optimizer], dict(self.projector.named_parameters()), below("optimizer", sizes))


def load_image_model(name: str | None) -> Any:
    """The image model in a folder, or of a name in the hub's cache, frozen: SigLIP's half for images, DINOv2.

    Raises ValueError when it is not there, can't be loaded, or is of another kind.
    """
    if name is None:
        raise ValueError(f"Representation alignment needs an image model; {ADVICE}.")
    try:
        from transformers import AutoConfig, AutoModel, SiglipVisionModel
    except ImportError:
        raise ValueError(
            "Representation alignment needs the package transformers; install it (pip install transformers), "
            "or train without by --losses.representation.weight 0."
        ) from None
    folder = Path(name).expanduser()
    try:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    except Exception as error:  # of many kinds, which transformers does not list
        raise ValueError(f"There is no image model in {name} ({type(error).__name__}); {ADVICE}.") from None
    if kind not in SIGLIP + DINO:
        raise ValueError(f"The model in {name} is of the kind {kind}, not siglip or dinov2; {ADVICE}.")
    network: Any = SiglipVisionModel if kind in SIGLIP else AutoModel
    try:
        model, loading = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:
        raise ValueError(f"The model in {name} is damaged ({type(error).__name__}); {ADVICE}.") from None
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(f"The model in {name} is another, without {missing[0]}; {ADVICE}.")
    return model.eval().requires_grad_(False)


def pixel_statistics(name: str) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """Mean and deviation of RGB in [-1, 1] that the image model expects, of its preprocessor_config.json.

    Without that file they are SigLIP's, 0 and 1. Raises ValueError when the file does not tell them.
    """
    from transformers.utils.hub import cached_file

    folder = Path(name).expanduser()
    try:
        file: Any = cached_file(folder, "preprocessor_config.json", local_files_only=True)
    except OSError:
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    try:
        told = json.loads(Path(file).read_text(encoding="utf-8"))
        mean, deviation = (torch.tensor(told[key]).reshape(3, 1, 1) for key in ("image_mean", "image_std"))
    except (KeyError, RuntimeError, TypeError, ValueError):
        raise ValueError(
            f"The file preprocessor_config.json in {name} does not tell image_mean and image_std; {ADVICE}."
        ) from None
    return 2 * mean.float() - 1, 2 * deviation.float()  # there they are of RGB in [0, 1]
