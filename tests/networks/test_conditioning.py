"""Content-aware positions: the first frame, continuous time, the motion latent."""

import pytest
import torch

from regen.networks.conditioning import LatentConditioner, MotionSiren, default_frequency


@pytest.fixture(params=["content", "siren"])
def network(request) -> LatentConditioner:
    return LatentConditioner(4, 24, siren_width=16, frequency=4.0, first_frame=request.param)


def test_an_image_has_exactly_the_positions_of_frame_0_of_its_videos(network):
    latents = torch.randn(2, 4, 2, 3, 5)
    image = network(latents[:, :, :1], torch.tensor([0.0]))
    video = network(latents, torch.tensor([-0.25, 0.0, 0.5]))
    assert torch.equal(image[:, 0], video[:, 1])


def test_the_content_latent_reaches_frame_0_through_the_siren_alone_in_the_literal_rule():
    """Figure 3: the SIREN's prediction replaces z_c in the first frame; in later ones z_c itself remains."""
    latents, times = torch.randn(1, 4, 2, 2, 2), torch.tensor([0.0, 0.5])
    changed = latents.clone()
    changed[:, :, 0] += 1
    for rule, stays in (("content", False), ("siren", True)):
        network = LatentConditioner(4, 24, siren_width=16, frequency=4.0, first_frame=rule)
        with torch.no_grad():
            for layer in network.siren.layers:
                layer.modulate.weight.zero_()
        first, later = (network(changed, times) - network(latents, times)).abs().amax((0, 2, 3, 4))
        assert (first == 0) == stays
        assert later > 1e-3


def test_the_motion_latent_acts_at_all_times_but_zero(network):
    latents, times = torch.randn(1, 4, 2, 2, 2), torch.tensor([0.0, 0.3, 1.0])
    changed = latents.clone()
    changed[:, :, 1] += 1
    difference = (network(changed, times) - network(latents, times)).abs().amax((0, 2, 3, 4))
    assert difference[0] == 0
    assert (difference[1:] > 1e-4).all()


def test_positions_depend_on_the_time_and_not_on_its_index(network):
    latents = torch.randn(1, 4, 2, 2, 3)
    times = torch.tensor([-0.5, 0.0, 0.125, 0.77, 1.25])
    whole = network(latents, times)
    for i in range(len(times)):
        torch.testing.assert_close(network(latents, times[i : i + 1])[:, 0], whole[:, i])


def test_each_place_depends_on_its_own_latent(network):
    latents, times = torch.randn(1, 4, 2, 3, 3), torch.tensor([0.0, 0.5])
    changed = latents.clone()
    changed[..., 1, 2] += 1
    difference = (network(changed, times) - network(latents, times)).abs().amax((0, 1, 4))
    assert difference[1, 2] > 1e-3
    difference[1, 2] = 0
    assert difference.max() < 1e-6


@torch.no_grad()
def between_frames(ratio: int, frequency: float) -> float:
    """How far M_t in the middle of two frames is from their mean, relative to half their distance."""
    torch.manual_seed(0)
    siren, motion = MotionSiren(8, 64, frequency), torch.randn(4, 4, 4, 8)
    values = siren(torch.arange(2 * ratio + 1) / (2 * ratio), motion)
    before, middle, after = values[:, :-2:2], values[:, 1::2], values[:, 2::2]
    return float((middle - (before + after) / 2).norm() / ((after - before) / 2).norm())


@pytest.mark.parametrize("ratio", [4, 8, 16, 32])
def test_time_is_a_smooth_curve_between_the_frames_that_training_decodes(ratio):
    """A curve that its frames determine is nearly straight between two of them (0); at ω = 30 and 4×, its
    middle is no nearer to its ends than any other point (about 1 and more)."""
    assert between_frames(ratio, default_frequency(ratio)) < 0.5
    assert ratio > 4 or between_frames(ratio, 30.0) > 0.9


def test_gradient_reaches_the_motion_latent_at_initialisation(network):
    latents = torch.randn(1, 4, 2, 2, 2, requires_grad=True)
    network(latents, torch.tensor([0.5]))[..., 0].sum().backward()
    assert (latents.grad[:, :, 1].abs() > 1e-8).all()
