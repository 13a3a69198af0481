"""AdversarialLoss and its discriminator: formulas, training, state, shapes, blur pooling."""

import math

import pytest
import torch
from tiny_run import assert_same

from regen.losses.adversarial import AdversarialConfig, AdversarialLoss, lecam, r1_penalty
from regen.networks.discriminator import BlurPool, PatchDiscriminator

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


def test_lecam_formula():
    zero, means = torch.zeros(4), torch.tensor([1.0, -1.0])
    assert lecam(zero - 1, zero + 1, means) == 0
    torch.testing.assert_close(lecam(zero + 1, zero - 2, means), torch.tensor(4.0 + 9.0))


def test_an_undecided_discriminator_has_loss_log_2():
    adversarial = loss_of(weight=0.5)
    for parameter in adversarial.discriminator.parameters():
        torch.nn.init.zeros_(parameter)
    target, reconstruction = pair()
    loss, logs = adversarial(target, reconstruction)
    assert logs["discriminator"].item() == pytest.approx(2 * math.log(2))
    assert loss.item() == pytest.approx(0.5 * logs["adversarial"].item())
    assert logs["adversarial"].item() == pytest.approx(math.log(2), abs=0.1)


def step(adversarial: AdversarialLoss) -> dict[str, torch.Tensor]:
    loss, logs = adversarial(*pair())
    if loss.requires_grad:
        loss.backward()
    adversarial.update(alone)
    adversarial.discard()
    return logs


def alone(tensors: list[torch.Tensor]) -> None:
    """The mean over one process."""


def test_the_discriminator_learns():
    adversarial = loss_of(r1_weight=0.0)
    losses = [step(adversarial)["discriminator"].item() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_generator_loss_does_not_reach_the_discriminator():
    adversarial = loss_of(weight=0.5)
    target, reconstruction = pair()
    reconstruction.requires_grad_(True)
    loss, logs = adversarial(target, reconstruction)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * logs["adversarial"].item())
    gradients = [p.grad.clone() for p in adversarial.discriminator.parameters()]
    assert reconstruction.grad is not None and reconstruction.grad.any()
    heavier = loss_of(weight=50.0)
    heavier(target, reconstruction)[0].backward()
    for p, gradient in zip(heavier.discriminator.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, gradient), "the discriminator's own loss has no weight"


def test_a_split_batch_trains_the_same():
    whole, parts = loss_of(r1_every=2), loss_of(r1_every=2)
    for _ in range(3):
        step(whole)
        for i in range(2):
            target, reconstruction = (clip[i : i + 1] for clip in pair())
            (parts(target, reconstruction)[0] / 2).backward()
        parts.update(alone)
        parts.discard()
    torch.testing.assert_close(whole.tensors(), parts.tensors())


def test_gradients_are_averaged_over_processes():
    """With averages of zero, AdamW without weight decay leaves the discriminator as it is."""
    adversarial = loss_of(r1_weight=0.0)
    before = {name: value.clone() for name, value in adversarial.discriminator.state_dict().items()}
    adversarial(*pair())[0].backward()
    adversarial.update(lambda tensors: [tensor.zero_() for tensor in tensors[:-1]])
    torch.testing.assert_close(dict(adversarial.discriminator.state_dict()), before)


def test_discarded_calls_have_no_effect():
    adversarial, other = loss_of(), loss_of()
    adversarial(*pair())[0].backward()
    adversarial.discard()
    step(adversarial)
    step(other)
    assert_same(adversarial.tensors(), other.tensors())


def test_training_begins_at_start_and_r1_is_computed_every_few_steps():
    adversarial = loss_of(r1_every=3, start=1)
    logs = [step(adversarial) for _ in range(8)]
    assert ["discriminator" in one for one in logs] == [False] + [True] * 7
    assert ["r1" in one for one in logs] == [False, True, False, False, True, False, False, True]


def test_resumed_from_its_state_it_is_equal_to_the_bit():
    straight, halves = loss_of(r1_every=2), loss_of(r1_every=2)
    for _ in range(2):
        step(straight)
        step(straight)
        step(halves)
    resumed, saved = loss_of(seed=5, r1_every=2), halves.tensors()
    resumed.prepare({name: (value.shape, value.dtype) for name, value in saved.items()})
    with torch.no_grad():
        for name, value in resumed.tensors().items():
            value.copy_(saved[name])
    for _ in range(2):
        step(resumed)
    assert_same(straight.tensors(), resumed.tensors())


def test_blur_pool_is_the_binomial_mean_of_every_second_place():
    x = torch.randn(1, 1, 4, 5, 6)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    weight = (kernel[:, None, None] * kernel[:, None] * kernel)[None, None]
    padded = torch.nn.functional.pad(x, (1,) * 6, mode="replicate")
    wanted = torch.nn.functional.conv3d(padded, weight, stride=2)
    torch.testing.assert_close(BlurPool()(x), wanted)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_one_logit_for_each_patch_of_clips_and_images(frames):
    discriminator = PatchDiscriminator(4, (2, 4, 4))
    logits = discriminator(torch.randn(2, 3, frames, 32, 48))
    assert logits.shape == (2, -(-frames // 8), 4, 6)


def test_it_looks_at_more_than_one_frame():
    discriminator = PatchDiscriminator(4, (2,))
    clip = torch.randn(1, 3, 4, 16, 16)
    changed = clip.clone()
    changed[:, :, 3] = 0
    assert not torch.equal(discriminator(clip)[:, 0], discriminator(changed)[:, 0])
