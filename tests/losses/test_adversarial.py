"""The adversarial loss: its formulas, its own learning, and its state (spec A13)."""

import math

import pytest
import torch

from regen.losses.adversarial import AdversarialConfig, AdversarialLoss, lecam, r1_penalty

CPU = torch.device("cpu")


def loss_of(seed: int = 0, **options) -> AdversarialLoss:
    torch.manual_seed(seed)
    defaults = {"width": 4, "multipliers": (2,), "learning_rate": 1e-2}
    return AdversarialLoss(AdversarialConfig(**defaults | options), CPU)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(2, 3, 3, 16, 16, generator=generator) * 2 - 1
    return target, torch.zeros_like(target)


def test_r1_is_the_squared_gradient_of_a_clips_mean_answer():
    weight = torch.randn(3, 2, 4, 4)
    penalty = r1_penalty(lambda clip: (clip * weight).sum(1), torch.randn(5, 3, 2, 4, 4))
    torch.testing.assert_close(penalty, (weight / (2 * 4 * 4)).square().sum())


def test_lecam_holds_answers_near_the_means():
    zero, means = torch.zeros(4), torch.tensor([1.0, -1.0])
    assert lecam(zero - 1, zero + 1, means) == 0
    torch.testing.assert_close(lecam(zero + 1, zero - 2, means), torch.tensor(4.0 + 9.0))


def test_an_undecided_discriminator_blames_with_log_2():
    adversarial = loss_of(weight=0.5)
    for parameter in adversarial.discriminator.parameters():
        torch.nn.init.zeros_(parameter)
    target, reconstruction = pair()
    loss, logs = adversarial(target, reconstruction)
    assert logs["discriminator"].item() == pytest.approx(2 * math.log(2))
    assert loss.item() == pytest.approx(0.5 * logs["adversarial"].item())
    assert logs["adversarial"].item() == pytest.approx(math.log(2), abs=0.1)


def test_the_discriminator_learns_to_tell_them_apart():
    adversarial = loss_of(r1_weight=0.0)
    target, reconstruction = pair()
    said = [adversarial(target, reconstruction)[1]["discriminator"].item() for _ in range(30)]
    assert said[-1] < 0.5 * said[0]


def test_blame_moves_the_reconstruction_and_not_the_discriminator():
    adversarial = loss_of()
    target, reconstruction = pair()
    reconstruction.requires_grad_(True)
    loss, _ = adversarial(target, reconstruction)
    before = [p.detach().clone() for p in adversarial.discriminator.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in adversarial.discriminator.parameters()]
    loss.backward()
    assert reconstruction.grad is not None and reconstruction.grad.any()
    for p, old, gradient in zip(adversarial.discriminator.parameters(), before, gradients, strict=True):
        assert torch.equal(p, old)
        assert gradient is None or torch.equal(p.grad, gradient)


def test_it_waits_for_its_start():
    adversarial = loss_of(start=2)
    target, reconstruction = pair()
    assert [bool(adversarial(target, reconstruction)[0]) for _ in range(4)] == [False, False, True, True]


def test_r1_comes_every_so_often():
    adversarial = loss_of(r1_every=3, start=1)
    logs = [adversarial(*pair())[1] for _ in range(8)]
    assert ["r1" in one for one in logs] == [False, True, False, False, True, False, False, True]


def test_it_goes_on_from_its_state_bit_for_bit():
    straight, halves = loss_of(r1_every=2), loss_of(r1_every=2)
    for _ in range(4):
        last = straight(*pair())[0]
    for _ in range(2):
        halves(*pair())
    resumed = loss_of(seed=5, r1_every=2)
    resumed.load_state_dict(halves.state_dict())
    for _ in range(2):
        again = resumed(*pair())[0]
    assert torch.equal(last, again)


def test_impossible_settings_are_told():
    with pytest.raises(ValueError, match="r1_every of 1 or more"):
        AdversarialConfig(r1_every=0)
