"""VideoAutoencoder: what all embedders share, shown on each of them."""

import pytest
import torch
from torch import Tensor

from regen.autoencoder import VideoAutoencoder
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.regen import AutoencoderRegen
from regen.tiling import Tile


def regen_model() -> AutoencoderRegen:
    model = AutoencoderRegen(
        latent_channels=3, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4,
        width=24, depth=1, heads=2, siren_width=16,
    )  # fmt: skip
    torch.nn.init.normal_(model.decoder.out.weight, std=0.2)
    torch.nn.init.normal_(model.decoder.blocks[0].modulator.table, std=0.5)
    return model.eval()


def linear_model() -> AutoencoderLinear:
    return AutoencoderLinear(latent_channels=3)


MODELS = pytest.mark.parametrize("build", [regen_model, linear_model])


@MODELS
def test_ratios_and_statistics_have_the_names_of_diffusers(build) -> None:
    model: VideoAutoencoder = build()
    assert (model.temporal_compression_ratio, model.spatial_compression_ratio) == (4, 8)
    assert (model.latent_channels, model.chunk_frames, model.scaling_factor) == (3, 5, 1.0)
    assert torch.equal(model.latents_mean, torch.zeros(2, 3))
    assert torch.equal(model.latents_std, torch.ones(2, 3))


def test_statistics_keep_their_precision_and_can_be_set() -> None:
    model = regen_model().bfloat16()
    mean, std = torch.tensor([[0.1, 0.2, 0.3], [1.0, -1.0, 0.7]]), torch.rand(2, 3) + 0.5
    model.set_latent_statistics(mean, std)
    assert torch.equal(model.latents_mean, mean)
    assert torch.equal(model.latents_std, std)
    assert model.config.latents_std == std.tolist()


@MODELS
def test_tiling_is_switched_on_and_off_by_the_names_of_diffusers(build) -> None:
    model: VideoAutoencoder = build()
    assert model.tile is None
    model.enable_tiling()
    assert model.tile == Tile(512, 512, 64)
    model.enable_tiling(96, 128, 80, 96)
    assert model.tile == Tile(96, 128, 32), "the larger of both overlaps"
    assert build().tile is None, "another model is not touched"
    assert "tile" not in model.config
    with pytest.raises(ValueError, match="can't overlap by -16"):
        model.enable_tiling(64, 64, 80, 80)
    model.disable_tiling()
    assert model.tile is None


def test_both_directions_use_the_tile_of_the_model_unless_they_are_given_one() -> None:
    model, video = regen_model(), torch.rand(1, 3, 5, 16, 40) * 2 - 1

    def encode(**options: Tile) -> Tensor:
        return model.encode(video, **options).latent_dist.mode()

    whole = encode()

    def decode(**options: Tile) -> Tensor:
        return model.decode(whole, generator=torch.Generator().manual_seed(0), **options).sample

    for act in (encode, decode):
        model.disable_tiling()
        untiled, tiled = act(), act(tile=Tile(16, 24, 8))
        model.enable_tiling(16, 24, 8, 16)
        assert not torch.equal(untiled, tiled)
        assert torch.equal(act(), tiled)
        assert torch.equal(act(tile=Tile(16, 40, 8)), untiled)


def test_tiles_change_nothing_about_the_linear_embedder() -> None:
    model, video = linear_model(), torch.rand(1, 3, 5, 16, 40) * 2 - 1
    latents = model.encode(video).latent_dist.mode()
    frames = model.decode(latents).sample
    model.enable_tiling(16, 16, 8, 8)
    assert torch.equal(model.encode(video).latent_dist.mode(), latents)
    assert torch.equal(model.decode(latents).sample, frames)
