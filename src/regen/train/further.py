"""Losses besides the model's own, for models that take them: perceptual and adversarial (spec A13)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from regen.losses.adversarial import AdversarialConfig, AdversarialLoss
from regen.losses.perceptual import Lpips, Net


@dataclass(frozen=True)
class LossConfig:
    """Losses that a convolutional decoder needs and a diffusion decoder does not; weight 0: without."""

    adversarial: AdversarialConfig = field(default_factory=lambda: AdversarialConfig(weight=0.0))
    perceptual_weight: float = 0.0
    """Weight of LPIPS, the mean over frames."""
    perceptual_net: Net = "vgg"
    perceptual_file: str | None = None
    """The network's weights, a file that you have downloaded; wanted where `perceptual_weight` is above 0."""


class FurtherLosses:
    """What is made of a clip and its reconstruction, with all state that it has."""

    def __init__(self, config: LossConfig, device: torch.device) -> None:
        self.config = config
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

    def state_dict(self) -> dict[str, Any]:
        return {} if self.adversarial is None else self.adversarial.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        if self.adversarial is not None:
            self.adversarial.load_state_dict(saved)
