"""The adversarial loss with its discriminator and optimizer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from regen.losses.optimizer_state import SelfTrained
from regen.networks.discriminator import PatchDiscriminator


@dataclass(frozen=True)
class AdversarialConfig:
    """Discriminator, its training, and the weight of the loss (docs/method.md, 11)."""

    weight: float = 0.1
    """Weight of the generator loss."""
    start: int = 0
    """Optimizer step from which on the discriminator is trained and used."""
    width: int = 64
    multipliers: tuple[int, ...] = (2, 4, 4, 4)
    """Widths of the discriminator's blocks in units of `width`; each block halves frames and pixels."""
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.99)
    lecam_weight: float = 0.001
    """Weight of the LeCAM regularisation (arXiv 2104.03310)."""
    lecam_decay: float = 0.999
    r1_weight: float = 10.0
    """γ of the R1 penalty γ/2 ‖∇D(real)‖² (arXiv 1801.04406)."""
    r1_every: int = 16
    """Steps between R1 penalties, whose weight is multiplied by it; 1: every step."""

    def __post_init__(self) -> None:
        minimums = {"weight": 0, "start": 0, "lecam_weight": 0, "r1_weight": 0, "r1_every": 1}
        for name, minimum in minimums.items():
            if (value := getattr(self, name)) < minimum:
                raise ValueError(f"losses.adversarial.{name} must be >= {minimum}, got {value}.")


class AdversarialLoss(SelfTrained):
    """Non-saturating GAN loss that owns the discriminator, its optimizer and its running means.

    A call returns the generator loss softplus(-D(reconstruction)), to which the discriminator's own loss is
    attached by its gradient only. `update` then takes the discriminator's step, once for all calls since
    `discard`, so the result does not depend on how a batch is split.
    """

    def __init__(self, config: AdversarialConfig, device: torch.device):
        self.config = config
        self.discriminator = PatchDiscriminator(config.width, config.multipliers).to(device)
        super().__init__("discriminator", self.discriminator, config.learning_rate, config.betas)
        self.means = torch.zeros(2, device=device)  # running means of D(real) and D(reconstruction)
        self.updates = torch.zeros((), dtype=torch.int64)  # on the CPU, to be read without synchronisation
        self.logit_sums = torch.zeros(3, device=device)  # since `discard`: real, fake, number of clips

    def __call__(
        self, target: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted generator loss and the logs; zero before step `start`."""
        if self.updates < self.config.start:
            return reconstruction.new_zeros(()), {}
        discriminator_loss, logs = self._discriminate(target, reconstruction.detach())
        self.discriminator.requires_grad_(False)
        generator_loss = F.softplus(-self.discriminator(reconstruction).float()).mean()
        self.discriminator.requires_grad_(True)
        # Adds the gradient of the discriminator's loss, and no value.
        loss = self.config.weight * generator_loss + discriminator_loss - discriminator_loss.detach()
        return loss, logs | {"adversarial": generator_loss.detach()}

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        if self.updates >= self.config.start:
            super().update(lambda gradients: average([*gradients, self.logit_sums]))
            logits = self.logit_sums[:2] / self.logit_sums[2]
            first = self.updates == self.config.start
            self.means.copy_(logits if first else torch.lerp(logits, self.means, self.config.lecam_decay))
        self.updates += 1

    def discard(self) -> None:
        super().discard()
        self.logit_sums.zero_()

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"means": self.means, "updates": self.updates}

    def _discriminate(self, target: Tensor, reconstruction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss: softplus(-D(real)) + softplus(D(reconstruction)), LeCAM, R1."""
        config = self.config
        real = self.discriminator(target).float()
        fake = self.discriminator(reconstruction).float()
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        logits = torch.stack([real.mean(), fake.mean(), torch.ones_like(real.mean())])
        self.logit_sums += len(target) * logits.detach()
        if self.updates > config.start:  # the first step has no running means
            loss = loss + config.lecam_weight * lecam(real, fake, self.means)
        logs = {"discriminator": loss.detach()}
        if (self.updates - config.start) % config.r1_every == 0:
            penalty = r1_penalty(self.discriminator, target)
            loss = loss + config.r1_every * config.r1_weight / 2 * penalty
            logs["r1"] = penalty.detach()
        return loss, logs


def lecam(real: Tensor, fake: Tensor, means: Float[Tensor, "2"]) -> Float[Tensor, ""]:
    """‖[D(real) - ᾱ_fake]₊‖² + ‖[ᾱ_real - D(fake)]₊‖², running means ᾱ (LeCAM, arXiv 2104.03310, Eq. 3)."""
    return F.relu(real - means[1]).square().mean() + F.relu(means[0] - fake).square().mean()


def r1_penalty(
    discriminator: Callable[[Tensor], Tensor], clip: Float[Tensor, "b 3 t h w"]
) -> Float[Tensor, ""]:
    """Squared gradient norm of the mean logit at real clips, averaged over the batch; in fp32."""
    with torch.autocast(clip.device.type, enabled=False):
        clip = clip.detach().float().requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            discriminator(clip).flatten(1).mean(1).sum(), clip, create_graph=True
        )
    return gradient.square().flatten(1).sum(1).mean()
