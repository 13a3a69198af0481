"""DiT: any size and length, windows, context tokens, no positions of its own."""

import pytest
import torch

from regen.networks.dit import DiT


def woken(timestep: str = "adaln_zero", depth: int = 2, window: int | None = None) -> DiT:
    """A tiny network without zero-initialised layers, so that everything acts."""
    network = DiT(width=24, depth=depth, heads=3, patch_size=8, timestep=timestep, window=window)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def inputs(t: int = 3, y: int = 2, x: int = 4, b: int = 2) -> tuple[torch.Tensor, ...]:
    return torch.randn(b, 3, t, 8 * y, 8 * x), torch.randn(b, t, y, x, 24), torch.rand(b)


@pytest.mark.parametrize("timestep", ["add", "adaln_single", "adaln_zero"])
def test_the_noise_level_acts(timestep):
    network = woken(timestep)
    noisy, positions, t = inputs()
    assert not torch.allclose(network(noisy, positions, t), network(noisy, positions, 1 - t), atol=1e-4)


@pytest.mark.parametrize("window", [None, 2, 3])
@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 3, 2), (7, 1, 5), (2, 9, 7)])
def test_any_size_and_length(grid, window):
    noisy, positions, t = inputs(*grid)
    out = woken(window=window)(noisy, positions, t)
    assert out.shape == noisy.shape
    assert out.isfinite().all()


def receptive_field(network: DiT, token: int) -> list[int]:
    """Which of 20 tokens in a row depend on the noise of one of them."""
    noisy, positions, t = inputs(1, 1, 20, 1)
    moved = noisy.clone()
    moved[..., 8 * token : 8 * token + 8] += 1
    changed = (network(moved, positions, t) != network(noisy, positions, t)).any(0).any(0).any(0).any(0)
    return [i for i in range(20) if changed[8 * i : 8 * i + 8].any()]


def test_shifted_windows_connect_neighbours_in_the_second_block():
    """Windows of 4: 0-3, 4-7, ... in the first block, and 0-1, 2-5, 6-9, ... in the second."""
    assert receptive_field(woken(depth=1, window=4), 9) == [8, 9, 10, 11]
    assert receptive_field(woken(depth=2, window=4), 9) == list(range(6, 14))
    assert receptive_field(woken(depth=3, window=4), 9) == list(range(4, 16))
    assert receptive_field(woken(depth=1), 9) == list(range(20))


def test_a_window_as_large_as_the_picture_changes_nothing():
    full, windowed, smaller, arguments = woken(), woken(window=4), woken(window=2), inputs()
    for other in (windowed, smaller):
        other.load_state_dict(full.state_dict())
    # Not to the bit: the windows change the memory layout of the tokens.
    torch.testing.assert_close(full(*arguments), windowed(*arguments), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(full(*arguments), smaller(*arguments), atol=1e-4)


def test_place_and_time_come_from_the_positions_only():
    """Moving frames together with their positions moves the output."""
    network = woken()
    noisy, positions, t = inputs()
    out = network(noisy, positions, t)
    moved = network(noisy.flip(2).roll(8, 4), positions.flip(1).roll(1, 3), t)
    torch.testing.assert_close(moved, out.flip(2).roll(8, 4), atol=1e-5, rtol=1e-4)
    shared = network(noisy, positions[:1], t)
    torch.testing.assert_close(shared, network(noisy, positions[:1].expand_as(positions), t))


def test_context_tokens_act_in_any_order():
    network = woken()
    noisy, positions, t = inputs()
    context = torch.randn(2, 5, 2, 4, 24, requires_grad=True)
    out = network(noisy, positions, t, context)
    assert out.shape == noisy.shape
    assert not torch.allclose(out, network(noisy, positions, t), atol=1e-3)
    torch.testing.assert_close(network(noisy, positions, t, context.flip(1, 2, 3)), out, atol=1e-5, rtol=1e-4)
    out.square().sum().backward()
    assert (context.grad.abs().amax(-1) > 0).all(), "every token reaches the output"
