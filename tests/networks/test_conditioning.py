"""Content-aware positions: the first frame, continuous time, the motion latent."""

import torch

from regen.networks.conditioning import LatentConditioner


def conditioner() -> LatentConditioner:
    return LatentConditioner(4, 24, siren_width=16)


def test_an_image_has_exactly_the_positions_of_frame_0_of_its_videos():
    network = conditioner()
    latents = torch.randn(2, 4, 2, 3, 5)
    image = network(latents[:, :, :1], torch.tensor([0.0]))
    video = network(latents, torch.tensor([-0.25, 0.0, 0.5]))
    assert torch.equal(image[:, 0], video[:, 1])


def test_the_motion_latent_acts_at_all_times_but_zero():
    network = conditioner()
    latents, times = torch.randn(1, 4, 2, 2, 2), torch.tensor([0.0, 0.3, 1.0])
    changed = latents.clone()
    changed[:, :, 1] += 1
    difference = (network(changed, times) - network(latents, times)).abs().amax((0, 2, 3, 4))
    assert difference[0] == 0
    assert (difference[1:] > 1e-4).all()


def test_positions_depend_on_the_time_and_not_on_its_index():
    network = conditioner()
    latents = torch.randn(1, 4, 2, 2, 3)
    times = torch.tensor([-0.5, 0.0, 0.125, 0.77, 1.25])
    whole = network(latents, times)
    for i in range(len(times)):
        torch.testing.assert_close(network(latents, times[i : i + 1])[:, 0], whole[:, i])


def test_each_place_depends_on_its_own_latent():
    network = conditioner()
    latents, times = torch.randn(1, 4, 2, 3, 3), torch.tensor([0.0, 0.5])
    changed = latents.clone()
    changed[..., 1, 2] += 1
    difference = (network(changed, times) - network(latents, times)).abs().amax((0, 1, 4))
    assert difference[1, 2] > 1e-3
    difference[1, 2] = 0
    assert difference.max() < 1e-6


def test_the_siren_keeps_fp32_in_a_bf16_model():
    """At ω = 30 a phase rounded to bf16 would be off by up to 0.1."""
    network = conditioner().bfloat16()
    latents = torch.randn(1, 4, 2, 1, 1).bfloat16()
    near = network.siren(torch.tensor([0.5, 0.501]), latents[:, :, 1].movedim(1, -1))
    assert near.dtype == torch.float32
    assert not torch.equal(near[:, 0], near[:, 1])


def test_gradient_reaches_the_motion_latent_at_initialisation():
    network = conditioner()
    latents = torch.randn(1, 4, 2, 2, 2, requires_grad=True)
    network(latents, torch.tensor([0.5]))[..., 0].sum().backward()
    assert (latents.grad[:, :, 1].abs() > 1e-8).all()
