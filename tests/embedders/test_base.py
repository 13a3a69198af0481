"""VideoAutoencoder: what all embedders share, shown on each of them."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
import torch
from tiny_media import EMBEDDERS, tiny_onedva
from tiny_networks import awake, seeded, seeded_each
from torch import Tensor

from regen.embedders.base import VideoAutoencoder
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.magvit2 import AutoencoderMagvit2
from regen.embedders.model import configured_by
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.embedders.regen import AutoencoderRegen
from regen.latents import Latents
from regen.pretrained.models import Autoencoder
from regen.tiling import Tile

Build = Callable[[], Autoencoder]


MODELS = EMBEDDERS | {"linear": lambda: AutoencoderLinear(latent_channels=4)}
PER_MODEL = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


SIZES = {"regen": (8, 5), "magvit2": (8, 17), "onedva": (16, 5), "linear": (8, 5)}  # side, chunk_frames


@pytest.mark.parametrize("name", MODELS)
def test_ratios_and_statistics_have_the_names_of_diffusers(name: str) -> None:
    model, (side, chunk_frames) = MODELS[name](), SIZES[name]
    assert (model.temporal_compression_ratio, model.spatial_compression_ratio) == (4, side)
    assert (model.latent_channels, model.chunk_frames, model.scaling_factor) == (4, chunk_frames, 1.0)
    assert torch.equal(model.latents_mean, torch.zeros(2, 4))
    assert torch.equal(model.latents_std, torch.ones(2, 4))


def tiny_in_context() -> AutoencoderRegen:
    model = AutoencoderRegen(
        latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, encoder_patch_size=4,
        width=24, depth=2, heads=3, conditioning="in_context",
    )  # fmt: skip
    return awake(model).eval()


TRAINED = pytest.mark.parametrize(
    "build", [*EMBEDDERS.values(), tiny_in_context], ids=[*EMBEDDERS, "in_context"]
)


def batch(model: Autoencoder) -> dict[str, Tensor]:
    clip = torch.rand(2, 3, model.chunk_frames, 16, 32) * 2 - 1
    return {"clip": clip, "target": clip.flip(2), "times": torch.linspace(0, 1, model.chunk_frames)}


@PER_MODEL
def test_the_margin_of_a_crop_does_not_count(build: Build) -> None:
    """From zero noise, targets reach the loss as what is compared with, and there inside the margin alone."""
    model = build().train()
    if isinstance(model, AutoencoderRegen):
        model.register_to_config(pure_noise_prob=1.0, zero_noise_prob=1.0)
    if isinstance(model, AutoencoderOneDVA):
        model.objective = replace(model.objective, pure_noise_prob=1.0, zero_noise_prob=1.0)
    clip = torch.rand(2, 3, model.chunk_frames, 64, 64) * 2 - 1
    data = {"clip": clip, "times": torch.linspace(0, 1, model.chunk_frames)}
    if isinstance(model, AutoencoderMagvit2):
        data["latents"] = model.encode(data.pop("clip")).latent_dist.mode().detach()
    others = [clip.clone(), clip.clone()]
    others[0][..., :16, :] += 1  # in the margin
    others[1][..., 16, 16] += 1  # inside
    for margin, same in ((16, (True, False)), (0, (False, False))):
        losses = [
            model.loss(data | {"target": target, "margin": torch.tensor(margin)}, seeded_each(2))[0]
            for target in (clip, *others)
        ]
        assert tuple(torch.equal(losses[0], loss) for loss in losses[1:]) == same


@TRAINED
def test_normalised_latents_decode_to_the_same_frames(build: Build) -> None:
    model = build()
    video = batch(model)["clip"]
    raw = Latents.of(model.encode(video).latent_dist.mode())
    frames = model.decode(raw.for_decoder(), generator=seeded()).sample
    mean, std = torch.tensor([[1.0] * 4, [-2.0] * 4]), torch.tensor([[2.0] * 4, [0.5] * 4])
    model.set_latent_statistics(mean, std)
    latents = Latents.of(model.encode(video).latent_dist.mode())
    torch.testing.assert_close(latents.grid[:, :, 0], (raw.grid[:, :, 0] - 1) / 2)
    if latents.has_sequence:
        torch.testing.assert_close(latents.grid, (raw.grid - 1) / 2)
        for (part, mask), (raw_part, _) in zip(latents.regions(), raw.regions(), strict=True):
            torch.testing.assert_close(part, (raw_part + 2) / 0.5 * mask[:, None])
    else:
        torch.testing.assert_close(latents.grid[:, :, 1:], (raw.grid[:, :, 1:] + 2) / 0.5)
    again = model.decode(latents.for_decoder(), generator=seeded()).sample
    torch.testing.assert_close(again, frames, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("build", [*MODELS.values(), tiny_in_context], ids=[*MODELS, "in_context"])
def test_saved_and_loaded_it_is_the_same(build: Build, tmp_path: Path) -> None:
    model = build()
    mean, std = torch.randn(2, 4), torch.rand(2, 4) + 0.5
    model.set_latent_statistics(mean, std)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    video = batch(model)["clip"]
    frames = model(video, generator=seeded()).sample
    # Loaded weights lie elsewhere in memory, where matrix products may sum in another order.
    torch.testing.assert_close(loaded(video, generator=seeded()).sample, frames, atol=1e-5, rtol=1e-4)
    stored = json.loads((tmp_path / "config.json").read_text())
    names = "temporal_compression_ratio", "spatial_compression_ratio", "latent_channels", "scaling_factor"
    for name in names:
        assert stored[name] == getattr(loaded, name) == loaded.config[name]
    assert json.loads(loaded.to_json_string()).keys() - {"_name_or_path"} == stored.keys() - {"_name_or_path"}
    half = type(model).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.latents_std, std) and torch.equal(half.latents_mean, mean), "in full precision"
    assert (half(video, generator=seeded()).sample - frames).abs().mean() < 0.1


@TRAINED
def test_tuples_instead_of_outputs(build: Build) -> None:
    model = build()
    video = batch(model)["clip"]
    (distribution,) = model.encode(video, return_dict=False)
    (sample,) = model.decode(distribution.mode(), generator=seeded(), return_dict=False)
    expected = model(video, generator=seeded()).sample
    assert torch.equal(sample[..., : expected.shape[3], : expected.shape[4]], expected)


@TRAINED
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(build: Build) -> None:
    model = build().train()
    data = batch(model)

    def run() -> list[Tensor]:
        model.zero_grad()
        loss, _ = model.loss(data, seeded_each(2))
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    plain = run()
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    for a, b in zip(plain, run(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("build", [MODELS["regen"], MODELS["magvit2"], tiny_in_context])
def test_given_latents_train_the_decoder_alone(build: Build) -> None:
    """Given the latents of a clip, the loss is that of the clip; the encoder neither runs nor learns."""
    model, encoder_runs = build().train(), []
    model.register_to_config(kl_weight=0.0)
    clip = batch(model)["clip"]
    data = batch(model) | {"clip": clip, "target": clip}
    model.set_latent_statistics(torch.full((2, 4), 0.5), torch.full((2, 4), 2.0))
    latents = model.encode(data["clip"]).latent_dist.sample(seeded_each(2)).detach()
    expected, _ = model.loss(data, seeded_each(2))
    del data["clip"]
    model.encoder.register_forward_hook(lambda *_: encoder_runs.append(True))
    loss, logs = model.loss(data | {"latents": latents}, seeded_each(2))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not encoder_runs and "kl" not in logs
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("encoder"))


@TRAINED
def test_the_memory_estimate_grows_with_the_clip(build: Build) -> None:
    model = build()
    sizes = [(1, 64, 64), (5, 64, 64), (5, 64, 128), (5, 128, 128), (9, 128, 128)]
    needs = [model.activation_bytes(*size) for size in sizes]
    assert needs == sorted(set(needs))
    assert model.bfloat16().activation_bytes(*sizes[-1]) < needs[-1]


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Options:
    """Options of a model without weights."""

    width: int = 3
    widths: tuple[int, ...] = (4, 5)
    inner: Inner = field(default_factory=Inner)


class Configured(VideoAutoencoder):
    @configured_by(Options, spatial_compression_ratio=8)
    def __init__(self, config: Options) -> None:
        super().__init__()
        self.options = config


def test_a_dataclass_is_the_only_place_of_the_options(tmp_path: Path) -> None:
    model = Configured(7, inner=Inner((9,)), latents_mean=[[0.0], [1.0]])
    assert model.options == Options(7, (4, 5), Inner((9,)))
    assert model.config.width == 7 and model.config.inner == {"sizes": (9,)}
    model.save_config(tmp_path)
    again = Configured.from_config(Configured.load_config(tmp_path))
    assert again.options == model.options and again.config.latents_mean == [[0.0], [1.0]]
    assert Configured(**asdict(model.options)).options == model.options
    with pytest.raises(TypeError, match="depth"):
        Configured(depth=1)
    with pytest.raises(ValueError, match="spatial_compression_ratio must be 8, got 16"):
        Configured(spatial_compression_ratio=16)


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
    with pytest.raises(ValueError, match="overlap of -16"):
        model.enable_tiling(64, 64, 80, 80)
    model.disable_tiling()
    assert model.tile is None


def both_ways(model: Autoencoder, height: int, width: int) -> tuple[Callable, Callable]:
    """Encode noise, and decode its latents, with a tile where one is given."""
    video = torch.rand(1, 3, model.chunk_frames, height, width) * 2 - 1

    def encode(**options: Tile) -> Tensor | Latents:
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

        def counted(first: Tensor, *rest: Tensor, forward: Callable = network.forward, **options) -> object:
            counts.append(len(first))
            return forward(first, *rest, **options)

        monkeypatch.setattr(network, "forward", counted)
    for act in (encode, decode):
        counts.clear()
        model.disable_tiling()
        act(), act(tile=Tile(32, 64, 0))
        model.enable_tiling(32, 64, 32, 64)
        act(), act(tile=Tile(64, 64, 0))
        assert counts == [4, 2, 2, 2, 2, 4]
