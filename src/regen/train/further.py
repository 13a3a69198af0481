"""Losses besides the model's own, for models that take them: perceptual and adversarial (spec A13)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from regen.losses.adversarial import AdversarialConfig, AdversarialLoss
from regen.losses.perceptual import Lpips, Net
from regen.optimizer_state import Size


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

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        """Let what learns beside the model learn from the calls since the last update."""
        if self.adversarial is not None:
            self.adversarial.update(average)

    def discard(self) -> None:
        """Forget the calls since the last update."""
        if self.adversarial is not None:
            self.adversarial.discard()

    def tensors(self) -> dict[str, Tensor]:
        """All that a run needs in order to go on."""
        return {} if self.adversarial is None else self.adversarial.tensors()

    def prepare(self, sizes: dict[str, Size]) -> None:
        """Make those of its tensors that are in a checkpoint and not there before the first update."""
        if self.adversarial is not None:
            self.adversarial.prepare(sizes)
