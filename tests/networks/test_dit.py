"""The transformer: zero at the start, any size and length, no positions of its own (spec A5, A17 6)."""

import pytest
import torch

from regen.networks.dit import DiT, patchify, unpatchify

TIMESTEPS = ["add", "adaln_single", "adaln_zero"]


def awake(timestep: str = "adaln_zero", depth: int = 2, window: int | None = None) -> DiT:
    """A tiny network whose zero-initialised layers are filled, so that everything acts."""
    network = DiT(width=24, depth=depth, heads=3, patch_size=8, timestep=timestep, window=window)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs(t: int = 3, y: int = 2, x: int = 4, b: int = 2) -> tuple[torch.Tensor, ...]:
    return torch.randn(b, 3, t, 8 * y, 8 * x), torch.randn(b, t, y, x, 24), torch.rand(b)


def test_unpatchify_inverts_patchify():
    video = torch.randn(2, 3, 5, 16, 24)
    assert torch.equal(unpatchify(patchify(video, 8), (5, 2, 3), 8), video)


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_output_is_zero_at_initialisation(timestep):
    network = DiT(width=24, depth=2, heads=3, patch_size=8, timestep=timestep)
    assert not network(*inputs()).any()


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_gradient_reaches_every_parameter(timestep, window):
    network = awake(timestep, window=window)
    network(*inputs()).square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("timestep", TIMESTEPS)
def test_the_noise_level_acts(timestep):
    network = awake(timestep)
    noisy, positions, t = inputs()
    assert not torch.allclose(network(noisy, positions, t), network(noisy, positions, 1 - t), atol=1e-4)


@pytest.mark.parametrize("window", [None, 2, 3])
@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 3, 2), (7, 1, 5), (2, 9, 7)])
def test_any_size_and_length(grid, window):
    noisy, positions, t = inputs(*grid)
    out = awake(window=window)(noisy, positions, t)
    assert out.shape == noisy.shape
    assert out.isfinite().all()


def reach(network: DiT, place: int) -> list[int]:
    """Which of 20 tokens in a row a change of the noise at one of them reaches."""
    noisy, positions, t = inputs(1, 1, 20, 1)
    moved = noisy.clone()
    moved[..., 8 * place : 8 * place + 8] += 1
    changed = (network(moved, positions, t) != network(noisy, positions, t)).any(0).any(0).any(0).any(0)
    return [i for i in range(20) if changed[8 * i : 8 * i + 8].any()]


def test_shifted_windows_let_neighbours_see_each_other_in_the_second_block():
    """Windows of 4: 0-3, 4-7, ... in the first block, and 0-1, 2-5, 6-9, ... in the second."""
    assert reach(awake(depth=1, window=4), 9) == [8, 9, 10, 11]
    assert reach(awake(depth=2, window=4), 9) == list(range(6, 14))
    assert reach(awake(depth=3, window=4), 9) == list(range(4, 16))
    assert reach(awake(depth=1), 9) == list(range(20))


def test_a_window_as_large_as_the_picture_changes_nothing():
    full, windowed = awake(), awake(window=4)
    windowed.load_state_dict(full.state_dict())
    arguments = inputs()
    assert torch.equal(full(*arguments), windowed(*arguments))
    smaller = awake(window=2)
    smaller.load_state_dict(full.state_dict())
    assert not torch.allclose(full(*arguments), smaller(*arguments), atol=1e-4)


def test_place_and_time_come_from_the_positions_alone():
    """Moving frames and their positions together moves the answer: nothing else knows where a token lies.

    (Without windows; they lie at fixed places.)
    """
    network = awake()
    noisy, positions, t = inputs()
    out = network(noisy, positions, t)
    moved = network(noisy.flip(2).roll(8, 4), positions.flip(1).roll(1, 3), t)
    torch.testing.assert_close(moved, out.flip(2).roll(8, 4), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 2])
def test_activation_checkpointing_gives_the_same_gradients(window):
    network = awake(window=window).train()
    arguments = inputs()

    def gradients() -> list[torch.Tensor]:
        network.zero_grad()
        network(*arguments).square().mean().backward()
        return [p.grad.clone() for p in network.parameters()]

    plain = gradients()
    network.gradient_checkpointing = True
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_tokens_of_context_act_and_have_their_gradients():
    network = awake()
    noisy, positions, t = inputs()
    context = torch.randn(2, 5, 2, 4, 24, requires_grad=True)
    out = network(noisy, positions, t, context)
    assert out.shape == noisy.shape
    assert not torch.allclose(out, network(noisy, positions, t), atol=1e-3)
    out.square().sum().backward()
    assert (context.grad.abs().amax(-1) > 0).all(), "every token reaches the answer"


def test_the_order_of_context_is_told_by_its_tokens_alone():
    network = awake()
    noisy, positions, t = inputs()
    context = torch.randn(2, 2, 2, 4, 24)
    torch.testing.assert_close(
        network(noisy, positions, t, context), network(noisy, positions, t, context.flip(1, 2, 3))
    )


def test_positions_may_be_shared_by_the_batch():
    network = awake()
    noisy, positions, t = inputs()
    expanded = positions[:1].expand_as(positions)
    torch.testing.assert_close(network(noisy, positions[:1], t), network(noisy, expanded, t))


def test_output_with_context_is_zero_at_initialisation():
    network = DiT(width=24, depth=2, heads=3, patch_size=8, timestep="adaln_zero")
    assert not network(*inputs(), torch.randn(2, 2, 2, 4, 24)).any()


def test_trunk_matrices_are_the_linear_layers_of_the_blocks():
    matrices = awake(depth=3).muon_parameters()
    assert len(matrices) == 3 * 4
    assert {tuple(matrix.shape) for matrix in matrices} == {(72, 24), (24, 24), (96, 24), (24, 96)}
