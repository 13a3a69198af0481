"""Losses besides a model's own: perceptual, adversarial, self-alignment, REPA; predicted latents."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from regen.latents import LatentPosterior
from regen.losses.adversarial import AdversarialConfig, AdversarialLoss
from regen.losses.alignment import AlignmentConfig, SelfAlignment
from regen.losses.one_dva import PredictedLatents, PredictionConfig, Predictor
from regen.losses.optimizer_state import SelfTrained, TensorSpec, strip_prefix
from regen.losses.representation import RepresentationConfig, RepresentationLoss
from regen.metrics.efficientnet import EfficientNetLite0, FeatureDistance
from regen.metrics.lpips import Lpips, Net
from regen.networks.dit import Patches


@dataclass(frozen=True)
class LossConfig:
    """Losses to add to a model's own; a weight or share of 0 disables one."""

    adversarial: AdversarialConfig = field(default_factory=lambda: AdversarialConfig(weight=0.0))
    perceptual_weight: float = 0.0
    """Weight of LPIPS or the feature distance, averaged over frames; of REGEN, of clips at noise level 1."""
    perceptual_net: Net | Literal["efficientnet"] = "vgg"
    """Network of LPIPS (alex, vgg), or efficientnet for the feature distance of the extra `perceptual`."""
    perceptual_file: str | None = None
    """Downloaded weights of alex or vgg, which need them."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Alignment of 1D latents with structural ones (One-DVA)."""
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    """Alignment of decoder features with a frozen image encoder (REPA, One-DVA)."""
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    """Post-training of the decoder on predicted latents (One-DVA)."""


def load_perceptual(config: LossConfig, device: torch.device) -> Lpips | FeatureDistance | None:
    """The network of the perceptual loss, None without. Raises ValueError for missing or other weights."""
    if config.perceptual_weight == 0:
        return None
    if config.perceptual_net == "efficientnet":
        return FeatureDistance(EfficientNetLite0.load()).to(device)
    if config.perceptual_file is None:
        raise ValueError(
            f"--losses.perceptual-net {config.perceptual_net} needs --losses.perceptual-file, a weights "
            "file; efficientnet needs none."
        )
    return Lpips.from_file(Path(config.perceptual_file), config.perceptual_net).to(device)


class AuxiliaryLosses:
    """The enabled losses and their trainable state.

    `features`: width and patches of the decoder features that REPA aligns. `predictor`: predicts latents for
    post-training. `channels`: those of the latents that self-alignment aligns.
    """

    def __init__(
        self,
        config: LossConfig,
        device: torch.device,
        features: tuple[int, Patches] | None = None,
        predictor: Predictor | None = None,
        channels: int | None = None,
    ) -> None:
        self.config = config
        self.perceptual = load_perceptual(config, device)
        self.adversarial: AdversarialLoss | None = None
        self.alignment: SelfAlignment | None = None
        self.representation: RepresentationLoss | None = None
        self.prediction: PredictedLatents | None = None
        if config.adversarial.weight > 0:
            self.adversarial = AdversarialLoss(config.adversarial, device)
        if config.alignment.weight > 0:
            assert channels is not None
            self.alignment = SelfAlignment(config.alignment, channels, device)
        if config.representation.weight > 0:
            assert features is not None
            self.representation = RepresentationLoss(config.representation, *features, device)
        if config.prediction.share > 0:
            assert predictor is not None
            self.prediction = PredictedLatents(config.prediction, predictor)

    def __call__(
        self, target: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted sum of perceptual and adversarial loss, and each of them for the log."""
        total, logs = self.perceive(target, reconstruction)
        if self.adversarial is not None:
            term, values = self.adversarial(target, reconstruction)
            total, logs = total + term, logs | values
        return total, logs

    def perceive(
        self,
        target: Float[Tensor, "b 3 t h w"],
        reconstruction: Float[Tensor, "b 3 t h w"],
        t: Float[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted perceptual loss, and its distance for the log.

        With noise levels `t` only clips at t = 1 have a loss, where one step decodes; the log has those at
        the highest level of the batch.
        """
        if self.perceptual is None:
            return reconstruction.new_zeros(()), {}
        images = (rearrange(clip, "b c t h w -> (b t) c h w") for clip in (reconstruction, target))
        distances = self.perceptual(*images).reshape(len(target), -1).mean(1)
        t = torch.ones_like(distances) if t is None else t
        noisiest = (t == t.max()).float()
        name = "feature_distance" if self.config.perceptual_net == "efficientnet" else "lpips"
        logs = {name: (distances.detach() * noisiest).sum() / noisiest.sum()}
        return self.config.perceptual_weight * (distances * (t == 1)).mean(), logs

    def align(
        self, posterior: LatentPosterior, progress: Float[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted self-alignment of 1D latents at this fraction of the training, and what to log."""
        if self.alignment is None:
            return posterior.grid.new_zeros((), dtype=torch.float32), {}
        return self.alignment(posterior, progress)

    def represent(
        self, features: Float[Tensor, "b d n y x"], target: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted alignment loss of features with the image encoder's, and what to log."""
        if self.representation is None:
            return features.new_zeros((), dtype=torch.float32), {}
        return self.representation(features, target)

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        """Step the losses' own parameters with the gradients of the calls since `discard`."""
        for part in self._trained().values():
            part.update(average)

    def discard(self) -> None:
        """Drop the gradients of the calls so far."""
        for part in self._trained().values():
            part.discard()

    def tensors(self) -> dict[str, Tensor]:
        """State for checkpoints."""
        parts = {name: part.tensors() for name, part in self._trained().items()}
        return {f"{name}.{key}": value for name, state in parts.items() for key, value in state.items()}

    def prepare(self, specs: dict[str, TensorSpec]) -> None:
        """Allocate the tensors of a checkpoint that do not exist before the first update."""
        for name, part in self._trained().items():
            part.prepare(strip_prefix(name, specs))

    def networks(self) -> list[nn.Module]:
        """The networks that these losses hold, trained and frozen."""
        found: list[nn.Module | None] = [self.perceptual]
        if self.adversarial is not None:
            found.append(self.adversarial.discriminator)
        if self.representation is not None:
            found += [self.representation.projector, self.representation.image_model]
        return [network for network in found if network is not None]

    def _trained(self) -> dict[str, SelfTrained]:
        parts = {
            "adversarial": self.adversarial,
            "alignment": self.alignment,
            "representation": self.representation,
        }
        return {name: part for name, part in parts.items() if part is not None}
