"""Losses besides the model's own: LPIPS, adversarial, REPA; post-training on predicted latents."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from regen.latents import Latents
from regen.losses.adversarial import AdversarialConfig, AdversarialLoss
from regen.losses.optimizer_state import TensorSpec, strip_prefix
from regen.losses.post_training import PredictedLatents, PredictionConfig, Predictor
from regen.losses.representation import RepresentationConfig, RepresentationLoss
from regen.metrics.lpips import Lpips, Net
from regen.networks.patches import Patches


@dataclass(frozen=True)
class LossConfig:
    """Losses to add to a model's own; a weight or share of 0 disables one."""

    adversarial: AdversarialConfig = field(default_factory=lambda: AdversarialConfig(weight=0.0))
    perceptual_weight: float = 0.0
    """Weight of LPIPS, averaged over frames."""
    perceptual_net: Net = "vgg"
    perceptual_file: str | None = None
    """Downloaded weights of the network; required with `perceptual_weight`."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """Alignment of decoder features with a frozen image encoder (REPA, One-DVA)."""
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    """Post-training of the decoder on predicted latents (One-DVA)."""


@dataclass(frozen=True)
class FeatureSpec:
    """Decoder features to align: their channels, and the patches that they stand for."""

    channels: int
    patches: Patches


class AuxiliaryLosses:
    """The enabled losses and their trainable state.

    `features`: the features of models that can be aligned. `predictor`: predicts latents for post-training.
    """

    def __init__(
        self,
        config: LossConfig,
        device: torch.device,
        features: FeatureSpec | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        self.config = config
        self.representation: RepresentationLoss | None = None
        self.prediction: PredictedLatents | None = None
        self.lpips: Lpips | None = None
        self.adversarial: AdversarialLoss | None = None
        if config.perceptual_weight > 0:
            if config.perceptual_file is None:
                raise ValueError(
                    "--losses.perceptual-weight > 0 needs --losses.perceptual-file, a weights file."
                )
            self.lpips = Lpips.from_file(Path(config.perceptual_file), config.perceptual_net).to(device)
        if config.adversarial.weight > 0:
            self.adversarial = AdversarialLoss(config.adversarial, device)
        if config.representation.weight > 0:
            assert features is not None
            self.representation = RepresentationLoss(
                config.representation, features.channels, features.patches, device
            )
        if config.prediction.share > 0:
            assert predictor is not None
            self.prediction = PredictedLatents(config.prediction, predictor)

    def __call__(
        self, target: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted sum of LPIPS and adversarial loss, and each of them for the log."""
        total, logs = reconstruction.new_zeros(()), {}
        if self.lpips is not None:
            images = (rearrange(clip, "b c t h w -> (b t) c h w") for clip in (reconstruction, target))
            distance = self.lpips(*images).mean()
            total, logs["lpips"] = total + self.config.perceptual_weight * distance, distance.detach()
        if self.adversarial is not None:
            term, values = self.adversarial(target, reconstruction)
            total, logs = total + term, logs | values
        return total, logs

    @property
    def predicts(self) -> bool:
        """Whether the decoder is trained on predicted latents."""
        return self.prediction is not None

    def represent(
        self, features: Float[Tensor, "b d n y x"], target: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted alignment loss of features with the image encoder's, and what to log."""
        if self.representation is None:
            return features.new_zeros((), dtype=torch.float32), {}
        return self.representation(features, target)

    def predicted(self, latents: Latents, generators: list[torch.Generator]) -> Latents:
        """Predicted latents in place of these."""
        assert self.prediction is not None
        return self.prediction(latents, generators)

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        """Step the losses' own parameters on the calls since the last update."""
        for part in self._parts().values():
            part.update(average)

    def discard(self) -> None:
        """Drop the calls since the last update."""
        for part in self._parts().values():
            part.discard()

    def tensors(self) -> dict[str, Tensor]:
        """State for checkpoints."""
        return {
            f"{name}.{key}": value
            for name, part in self._parts().items()
            for key, value in part.tensors().items()
        }

    def prepare(self, sizes: dict[str, TensorSpec]) -> None:
        """Allocate the tensors of a checkpoint that do not exist before the first update."""
        for name, part in self._parts().items():
            part.prepare(strip_prefix(name, sizes))

    def _parts(self) -> dict[str, AdversarialLoss | RepresentationLoss]:
        """Losses with trainable parameters."""
        parts = {"adversarial": self.adversarial, "representation": self.representation}
        return {name: part for name, part in parts.items() if part is not None}
