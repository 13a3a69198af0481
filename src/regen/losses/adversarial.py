"""The adversarial loss: a discriminator that learns beside the autoencoder (spec A13)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW

from regen.losses.optimizer_state import Size, below, make_moments, moments
from regen.networks.discriminator import PatchDiscriminator


@dataclass(frozen=True)
class AdversarialConfig:
    """How the discriminator is built, how it learns and what it counts."""

    weight: float = 0.1
    """Weight of the autoencoder's adversarial loss."""
    start: int = 0
    """Updates before the discriminator begins to learn and to count."""
    width: int = 64
    multipliers: tuple[int, ...] = (2, 4, 4, 4)
    """Widths of its blocks in units of `width`; each halves frames and pixels."""
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.99)
    lecam_weight: float = 0.001
    """Weight of the LeCAM term, which holds the answers near their running means (Tseng et al. 2021)."""
    lecam_decay: float = 0.999
    r1_weight: float = 10.0
    """γ of the R1 penalty γ/2 ‖∇D(real)‖² (Mescheder et al. 2018)."""
    r1_every: int = 16
    """Updates between two R1 penalties, each of which counts that much more; 1 for every update."""

    def __post_init__(self) -> None:
        if self.start < 0 or self.r1_every < 1 or min(self.weight, self.lecam_weight, self.r1_weight) < 0:
            raise ValueError(
                "An adversarial loss has weights and a start of 0 or more, and r1_every of 1 or more."
            )


class AdversarialLoss:
    """Owns the discriminator, its optimizer and running means; the training loop stays as it is.

    A call answers what the reconstruction should be blamed for, the non-saturating loss
    softplus(-D(reconstruction)), with a gradient for the discriminator's own loss as well. `update` then lets
    the discriminator learn, once for all calls since the one before.
    """

    def __init__(self, config: AdversarialConfig, device: torch.device):
        self.config = config
        self.discriminator = PatchDiscriminator(config.width, config.multipliers).to(device)
        self.optimizer = AdamW(
            self.discriminator.parameters(), config.learning_rate, config.betas, weight_decay=0.0, fused=True
        )
        self.means = torch.zeros(2, device=device)  # running means of D(real) and D(reconstruction)
        self.updates = torch.zeros((), dtype=torch.int64)  # on the CPU, where nothing has to wait for it
        self.answers = torch.zeros(3, device=device)  # since the last update: both answers, and of how many

    def __call__(
        self, target: Float[Tensor, "b 3 t h w"], reconstruction: Float[Tensor, "b 3 t h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted loss of the autoencoder, and what to log; zero before `start` updates."""
        if self.updates < self.config.start:
            return reconstruction.new_zeros(()), {}
        learning, logs = self._discriminate(target, reconstruction.detach())
        self.discriminator.requires_grad_(False)
        blame = F.softplus(-self.discriminator(reconstruction).float()).mean()
        self.discriminator.requires_grad_(True)
        # The discriminator's loss brings its gradient and no value: it is none of the autoencoder's.
        loss = self.config.weight * blame + learning - learning.detach()
        return loss, logs | {"adversarial": blame.detach()}

    def update(self, average: Callable[[list[Tensor]], None]) -> None:
        """Let the discriminator learn from the calls since the last update.

        `average` replaces each of its tensors by their mean over all processes.
        """
        if self.updates >= self.config.start:
            gradients = [one.grad for one in self.discriminator.parameters() if one.grad is not None]
            average([*gradients, self.answers])
            self.optimizer.step()
            answers = self.answers[:2] / self.answers[2]
            first = self.updates == self.config.start
            self.means.copy_(answers if first else torch.lerp(answers, self.means, self.config.lecam_decay))
        self.updates += 1
        self.discard()

    def discard(self) -> None:
        """Forget the calls since the last update."""
        self.optimizer.zero_grad(set_to_none=True)
        self.answers.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """All that a run needs in order to go on."""
        parameters = dict(self.discriminator.named_parameters())
        weights = self.discriminator.state_dict()
        return {
            **{f"discriminator.{name}": value for name, value in weights.items()},
            **{f"optimizer.{name}": value for name, value in moments([self.optimizer], parameters).items()},
            "means": self.means,
            "updates": self.updates,
        }

    def prepare(self, sizes: dict[str, Size]) -> None:
        """Make what the optimizer has in a checkpoint with tensors of these shapes and types."""
        parameters = dict(self.discriminator.named_parameters())
        make_moments([self.optimizer], parameters, below("optimizer", sizes))

    def _discriminate(self, target: Tensor, reconstruction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss: softplus(-D(real)) + softplus(D(reconstruction)), LeCAM, R1."""
        config = self.config
        real = self.discriminator(target).float()
        fake = self.discriminator(reconstruction).float()
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        seen = torch.stack([real.mean(), fake.mean(), torch.ones_like(real.mean())])
        self.answers += len(target) * seen.detach()
        if self.updates > config.start:  # before, there are no means yet
            loss = loss + config.lecam_weight * lecam(real, fake, self.means)
        logs = {"discriminator": loss.detach()}
        if (self.updates - config.start) % config.r1_every == 0:
            penalty = r1_penalty(self.discriminator, target)
            loss = loss + config.r1_every * config.r1_weight / 2 * penalty
            logs["r1"] = penalty.detach()
        return loss, logs


def lecam(real: Tensor, fake: Tensor, means: Float[Tensor, "2"]) -> Float[Tensor, ""]:
    """‖[D(real) - ᾱ_fake]₊‖² + ‖[ᾱ_real - D(fake)]₊‖², running means ᾱ (LeCAM, Tseng et al. 2021, Eq. 3)."""
    return F.relu(real - means[1]).square().mean() + F.relu(means[0] - fake).square().mean()


def r1_penalty(
    discriminator: Callable[[Tensor], Tensor], clip: Float[Tensor, "b 3 t h w"]
) -> Float[Tensor, ""]:
    """Squared gradient of a clip's mean answer at real clips, mean over the batch; in fp32."""
    with torch.autocast(clip.device.type, enabled=False):
        clip = clip.detach().float().requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            discriminator(clip).flatten(1).mean(1).sum(), clip, create_graph=True
        )
    return gradient.square().flatten(1).sum(1).mean()
