"""What a model may be trained with besides its own losses (spec A13, B5, B9).

Perceptual and adversarial losses, alignment with an image model, and latents as they will be predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from regen.latents import Latents
from regen.losses.adversarial import AdversarialConfig, AdversarialLoss
from regen.losses.optimizer_state import Size, below
from regen.losses.post_training import PredictedLatents, PredictionConfig, Predictor
from regen.losses.representation import RepresentationConfig, RepresentationLoss
from regen.metrics.lpips import Lpips, Net
from regen.networks.patches import Patches


@dataclass(frozen=True)
class LossConfig:
    """What may be added to a model's own losses, of which each takes some; weight or share 0: without."""

    adversarial: AdversarialConfig = field(default_factory=lambda: AdversarialConfig(weight=0.0))
    perceptual_weight: float = 0.0
    """Weight of LPIPS, the mean over frames."""
    perceptual_net: Net = "vgg"
    perceptual_file: str | None = None
    """The network's weights, a file that you have downloaded; wanted where `perceptual_weight` is above 0."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """Alignment of the decoder's features with a frozen image model (One-DVA)."""
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    """Post-training of the decoder on predicted latents (One-DVA); shrunken ones, where no generator is
    given."""


@dataclass(frozen=True)
class FeatureSpec:
    """What a decoder's features are: their channels, and the patches that they stand for."""

    channels: int
    patches: Patches


class AuxiliaryLosses:
    """What is made of a clip and its reconstruction, with all state that it has.

    `tap`: the features that are to be aligned, of a model that has such. `predictor`: what predicts latents,
    for post-training.
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
                    "The perceptual loss needs the weights of its network: give the file by "
                    "--losses.perceptual-file, or train without by --losses.perceptual-weight 0."
                )
            self.lpips = Lpips.from_file(Path(config.perceptual_file), config.perceptual_net).to(device)
        if config.adversarial.weight > 0:
            self.adversarial = AdversarialLoss(config.adversarial, device)
        if config.representation.weight > 0:
            assert features is not None, "a model with features"
            self.representation = RepresentationLoss(
                config.representation, features.channels, features.patches, device
            )
        if config.prediction.share > 0:
            assert predictor is not None, "something that predicts"
            self.prediction = PredictedLatents(config.prediction, predictor)

    def __call__(
        self, target: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted sum of the losses, and each of them for the log."""
        total, logs = reconstruction.new_zeros(()), {}
        if self.lpips is not None:
            images = (rearrange(clip, "b c t h w -> (b t) c h w") for clip in (reconstruction, target))
            distance = self.lpips(*images).mean()
            total, logs["lpips"] = total + self.config.perceptual_weight * distance, distance.detach()
        if self.adversarial is not None:
            term, said = self.adversarial(target, reconstruction)
            total, logs = total + term, logs | said
        return total, logs

    @property
    def predicts(self) -> bool:
        """Whether the decoder is trained on predicted latents."""
        return self.prediction is not None

    def represent(
        self, features: Float[Tensor, "b d n y x"], target: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted loss of the alignment of features with an image model, and what to log."""
        if self.representation is None:
            return features.new_zeros((), dtype=torch.float32), {}
        return self.representation(features, target)

    def predicted(self, latents: Latents, generators: list[torch.Generator]) -> Latents:
        """Latents as they will be predicted, in the place of these."""
        assert self.prediction is not None
        return self.prediction(latents, generators)

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        """Let what learns beside the model learn from the calls since the last update."""
        for part in self._parts().values():
            part.update(average)

    def discard(self) -> None:
        """Forget the calls since the last update."""
        for part in self._parts().values():
            part.discard()

    def tensors(self) -> dict[str, Tensor]:
        """All that a run needs in order to go on."""
        return {
            f"{name}.{key}": value
            for name, part in self._parts().items()
            for key, value in part.tensors().items()
        }

    def prepare(self, sizes: dict[str, Size]) -> None:
        """Make those of its tensors that are in a checkpoint and not there before the first update."""
        for name, part in self._parts().items():
            part.prepare(below(name, sizes))

    def _parts(self) -> dict[str, AdversarialLoss | RepresentationLoss]:
        """What learns."""
        parts = {"adversarial": self.adversarial, "representation": self.representation}
        return {name: part for name, part in parts.items() if part is not None}
