"""VideoAutoencoder: what all embedders share, shown on each of them."""

from collections.abc import Callable

import pytest
import torch
from tiny_media import EMBEDDERS, same_latents, tiny_onedva
from torch import Tensor

from regen.embedders.linear import AutoencoderLinear
from regen.latents import Latents
from regen.pretrained.models import Autoencoder
from regen.tiling import Tile

Build = Callable[[], Autoencoder]


def linear_model() -> AutoencoderLinear:
    return AutoencoderLinear(latent_channels=4)


MODELS = EMBEDDERS | {"linear": linear_model}
PER_MODEL = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


@pytest.mark.parametrize(
    ("build", "side", "chunk_frames"),
    [
        (MODELS["regen"], 8, 5),
        (MODELS["magvit2"], 8, 17),
        (MODELS["onedva"], 16, 5),
        (MODELS["linear"], 8, 5),
    ],
)
def test_ratios_and_statistics_have_the_names_of_diffusers(
    build: Build, side: int, chunk_frames: int
) -> None:
    model = build()
    assert (model.temporal_compression_ratio, model.spatial_compression_ratio) == (4, side)
    assert (model.latent_channels, model.chunk_frames, model.scaling_factor) == (4, chunk_frames, 1.0)
    assert torch.equal(model.latents_mean, torch.zeros(2, 4))
    assert torch.equal(model.latents_std, torch.ones(2, 4))


@pytest.mark.parametrize("build", EMBEDDERS.values(), ids=EMBEDDERS)
def test_statistics_keep_their_precision_and_can_be_set(build: Build) -> None:
    model = build().bfloat16()
    mean, std = torch.tensor([[0.1, 0.2, 0.3, 0.7], [1.0, -1.0, 0.7, 0.1]]), torch.rand(2, 4) + 0.5
    model.set_latent_statistics(mean, std)
    assert torch.equal(model.latents_mean, mean)
    assert torch.equal(model.latents_std, std)
    assert model.config.latents_std == std.tolist()


@PER_MODEL
def test_tiling_is_switched_on_and_off_by_the_names_of_diffusers(build: Build) -> None:
    model = build()
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


def both_ways(model: Autoencoder, height: int, width: int) -> tuple[Callable, Callable]:
    """Encode noise, and decode its latents, with a tile where one is given."""
    video = torch.rand(1, 3, model.chunk_frames, height, width) * 2 - 1

    def encode(**options: Tile) -> Latents:
        return model.encode(video, **options).latent_dist.mode()

    whole = encode()

    def decode(**options: Tile) -> Tensor:
        return model.decode(whole, generator=torch.Generator().manual_seed(0), **options).sample

    return encode, decode


@pytest.mark.parametrize("build", [MODELS["regen"], MODELS["magvit2"]], ids=["regen", "magvit2"])
def test_both_directions_use_the_tile_of_the_model_unless_they_are_given_one(build: Build) -> None:
    model = build()
    for act in both_ways(model, 16, 40):
        model.disable_tiling()
        untiled, tiled = act(), act(tile=Tile(16, 24, 8))
        model.enable_tiling(16, 24, 8, 16)
        assert not torch.equal(untiled, tiled)
        assert torch.equal(act(), tiled)
        assert torch.equal(act(tile=Tile(16, 40, 8)), untiled)


def test_the_tile_of_the_model_says_how_many_regions_to_work_on_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One-DVA has regions of 32 x 32 pixels, here four of them; a tile changes no value."""
    model, counts = tiny_onedva(), []
    encode, decode = both_ways(model, 64, 64)
    for network in (model.encoder, model.decoder):

        def counted(first: Tensor, *rest: Tensor, forward: Callable = network.forward) -> object:
            counts.append(len(first))
            return forward(first, *rest)

        monkeypatch.setattr(network, "forward", counted)
    for act in (encode, decode):
        counts.clear()
        model.disable_tiling()
        act(), act(tile=Tile(32, 64, 0))
        model.enable_tiling(32, 64, 32, 64)
        act(), act(tile=Tile(64, 64, 0))
        assert counts == [4, 2, 2, 2, 2, 4]


@pytest.mark.parametrize("build", [linear_model, tiny_onedva])
def test_tiles_change_nothing_where_nothing_overlaps(build: Build) -> None:
    model = build()
    for act in both_ways(model, 64, 64):
        model.disable_tiling()
        whole = act()
        model.enable_tiling(32, 32, 16, 16)
        tiled = act()
        if isinstance(model, AutoencoderLinear):
            assert same_latents(tiled, whole)
        else:  # matrices of another size are multiplied in another order
            parts = [vars(one).values() if hasattr(one, "lengths") else [one] for one in (tiled, whole)]
            for one, other in zip(*parts, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
