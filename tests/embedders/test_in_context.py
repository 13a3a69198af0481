"""The ablation: latents as tokens in the decoder's context, and fixed positions."""

from dataclasses import asdict

import pytest
import torch
from tiny_networks import awake, seeded

from regen.embedders.regen import AutoencoderRegen, RegenConfig
from regen.layers.positions import grid_sinusoidal_embedding, sinusoidal_embedding
from regen.networks.conditioning import ContextConditioner
from regen.tiling import Tile, Tiling

TINY = RegenConfig(
    latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4,
    width=24, depth=2, heads=3, conditioning="in_context",
)  # fmt: skip


def tiny(**options) -> AutoencoderRegen:
    return awake(AutoencoderRegen(**asdict(TINY) | options)).eval()


@pytest.mark.parametrize("frame", [0, 1])
def test_every_latent_reaches_every_pixel(frame):
    model, latents = tiny(), torch.randn(1, 4, 2, 2, 3)
    moved = latents.clone()
    moved[:, :, frame, 1, 2] += 1
    a, b = (model.decode(x, generator=seeded()).sample for x in (latents, moved))
    assert ((a - b).abs().amax(1) > 0).float().mean() > 0.99


def test_the_parameters_around_the_conditioner_are_those_of_the_content_aware_model():
    in_context, content_aware = tiny(), tiny(conditioning="content_aware")

    def around(model: AutoencoderRegen) -> dict[str, torch.Size]:
        return {k: v.shape for k, v in model.state_dict().items() if not k.startswith("conditioner")}

    assert around(in_context) == around(content_aware)
    assert in_context.activation_bytes(5, 512, 512) > content_aware.activation_bytes(5, 512, 512)


def test_tokens_lie_at_their_coordinates():
    """Frames at k τ, the content latent at 0, the motion latent at k; a tile where it lies in the picture."""
    network, latents = ContextConditioner(4, 24, ratio=8), torch.randn(2, 4, 2, 3, 5)
    times = torch.tensor([-0.125, 0.0, 0.5, 1.0])
    positions, tokens = network(latents, times)
    rows, columns = torch.arange(3.0), torch.arange(5.0)
    expected = grid_sinusoidal_embedding(torch.tensor([-1.0, 0.0, 4.0, 8.0]), rows, columns, 24)
    torch.testing.assert_close(positions[0], expected)
    plain = network.embed(latents.movedim(1, -1))
    torch.testing.assert_close(tokens - plain, expected[[1, 3]].expand(2, -1, -1, -1, -1))
    at, more = network(latents[..., 1:, 2:], times, corner=(1, 2))
    torch.testing.assert_close(at, positions[:, :, 1:, 2:])
    torch.testing.assert_close(more, tokens[:, :, 1:, 2:])
    at, more = network(latents[:, :, :1], torch.zeros(1))
    torch.testing.assert_close(at, positions[:, 1:2])
    torch.testing.assert_close(more, tokens[:, :1])


@pytest.mark.parametrize("width", [24, 26, 27, 64])
def test_each_third_of_a_position_encodes_one_coordinate(width):
    t, y, x = torch.tensor([0.0, 3.0]), torch.arange(4.0), torch.arange(2.0, 7.0)
    grid = grid_sinusoidal_embedding(t, y, x, width)
    third = 2 * (width // 6)
    assert grid.shape == (2, 4, 5, width)
    assert torch.equal(grid[1, 2, 3, :third], sinusoidal_embedding(t, third)[1])
    assert torch.equal(grid[1, 2, 3, third : 2 * third], sinusoidal_embedding(y, third)[2])
    assert torch.equal(grid[1, 2, 3, 2 * third : 3 * third], sinusoidal_embedding(x, third)[3])
    assert not grid[..., 3 * third :].any()
    assert len(grid.flatten(0, 2).unique(dim=0)) == 2 * 4 * 5


def test_tiles_carry_their_place_in_the_picture():
    model, latents, tile = tiny(), torch.randn(1, 4, 2, 6, 9), Tile(32, 40, 16)
    calls: list[torch.Tensor] = []
    hook = model.decoder.register_forward_hook(lambda module, inputs, output: calls.append(inputs[1]))
    whole = model.decode(latents, generator=seeded()).sample
    tiled = model.decode(latents, generator=seeded(), tile=tile).sample
    hook.remove()
    everywhere, *parts = calls
    places = Tiling.of(6, 9, tile).boxes
    assert len(parts) == len(places) > 1
    for ((top, bottom), (left, right)), part in zip(places, parts, strict=True):
        torch.testing.assert_close(part, everywhere[:, :, top:bottom, left:right])
    assert tiled.shape == whole.shape
    covered = model.decode(latents, generator=seeded(), tile=Tile(512, 512)).sample
    assert torch.equal(covered, whole)
