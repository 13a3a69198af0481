"""Video autoencoders of diffusers as embedders, with tiny models of the real classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from tiny_diffusers_models import TINY, ltx_2, ltx_2_diffusion_decoder
from torch import Tensor
from torch.nn.attention import flex_attention

from regen.codec.chunks import Embedder
from regen.codec.sessions import DecodeOptions, decode_chunks, encode_frames
from regen.diffusion import euler, heun
from regen.evaluate.diffusers_models import load_embedder
from regen.evaluate.diffusers_models.base import DiffusersAdapter
from regen.evaluate.diffusers_models.classes import CosmosAdapter, LTX2DiffusionAdapter
from regen.evaluate.quality import evaluate_clip
from regen.runtime import generator_for
from regen.tiling import Tile

CPU = torch.device("cpu")
NAMES = [*TINY, "pipeline", "pipeline/diffusion_decoder"]
SHORTEST = {"cogvideox": 9, "mochi": 7} | dict.fromkeys(("wan", "wan-2.2", "hunyuan", "hunyuan-1.5"), 5)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The diffusion decoder's attention compiles itself for every new shape, which takes seconds."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each model of TINY, and a pipeline with two decoders."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("models")
    for name, build in TINY.items():
        build().save_pretrained(place / name)
    ltx_2().save_pretrained(place / "pipeline" / "vae")
    ltx_2_diffusion_decoder().save_pretrained(place / "pipeline" / "diffusion_decoder")
    return place


def load(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    return load_embedder(str(folder / name), CPU, dtype, SHORTEST.get(name, 9))


def noise(frames: int, height: int, width: int) -> list[Tensor]:
    return list(torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8))


def decode(
    model: DiffusersAdapter, latents: Tensor, steps: int = 1, seed: int = 0, tile: Tile | None = None
) -> Tensor:
    times = torch.linspace(0, 1, model.chunk_frames)
    generators = [generator_for(seed, index) for index in range(len(latents))]
    return model.decode(latents, times, steps=steps, generator=generators, solver=euler, tile=tile).sample


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_any_length_and_size(folder: Path, name: str) -> None:
    model = load(folder, name)
    assert isinstance(model, Embedder)
    frames = noise(model.chunk_frames + 2, 26, 35)
    result = evaluate_clip(model, frames, name)
    assert result.frames == len(frames) and 3 < result.psnr < 30
    image = list(decode_chunks(model, encode_frames(model, frames[:1]), height=26, width=35))
    assert [frame.shape for frame in image] == [(26, 35, 3)]


def channels(*numbers: float) -> Tensor:
    return rearrange(torch.tensor(numbers), "c -> c 1 1 1")


LTX_MEAN, LTX_STD = channels(-1, -1 / 3, 1 / 3, 1), channels(0.5, 1, 1.5, 2)
NORMALISED: dict[str, Callable[[Tensor], Tensor]] = {
    "wan": lambda raw: (raw - channels(0.25, -0.5)) / channels(2, 0.5),
    "wan-2.2": lambda raw: (raw - channels(0.1, 0.2)) / channels(3, 4),
    "hunyuan": lambda raw: raw * 0.476986,
    "hunyuan-1.5": lambda raw: raw * 1.03682,
    "cogvideox": lambda raw: raw * 0.7,
    "ltx": lambda raw: (raw - LTX_MEAN) * 1.5 / LTX_STD,
    "ltx-with-noise": lambda raw: (raw - LTX_MEAN) * 1.5 / LTX_STD,
    "ltx-2": lambda raw: (raw - LTX_MEAN) / LTX_STD,
    "mochi": lambda raw: (raw - channels(0.25, -0.5)) * 0.5 / channels(2, 0.5),
    "cosmos": lambda raw: (
        (raw - torch.tensor([[0, 0.1], [0.3, 0.4]])[..., None, None])
        / torch.tensor([[1.0, 2.0], [4.0, 5.0]])[..., None, None]
    ),
}


@pytest.mark.parametrize("name", TINY)
@torch.inference_mode()
def test_latents_are_normalised_as_the_pipeline_does_it(folder: Path, name: str) -> None:
    """And decoding what was encoded is what the class itself decodes, whose latents are not normalised."""
    model = load(folder, name)
    clip = torch.rand(2, 3, model.chunk_frames, 32, 48) * 2 - 1
    latents = model.encode(clip).latent_dist.mode()
    raw = model.vae.encode(clip).latent_dist.mode()
    torch.testing.assert_close(latents, NORMALISED[name](raw), atol=1e-5, rtol=1e-4)
    assert latents.shape[3:] == tuple(side // model.spatial_compression_ratio for side in (32, 48))
    if name == "ltx-with-noise":
        frames = []
        for index in range(2):
            torch.manual_seed(generator_for(0, index).initial_seed())
            frames.append(model.vae.decode(raw[index : index + 1], torch.zeros(1)).sample)
        expected = torch.cat(frames)
    else:
        expected = model.vae.decode(raw).sample
    decoded = decode(model, latents)
    assert decoded.shape == clip.shape
    torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["wan", "ltx-2"])
def test_half_precision(folder: Path, name: str) -> None:
    model = load(folder, name, torch.bfloat16)
    assert model.dtype == torch.bfloat16
    result = evaluate_clip(model, noise(model.chunk_frames, 16, 16), name)
    full = evaluate_clip(load(folder, name), noise(model.chunk_frames, 16, 16), name)
    assert result.psnr == pytest.approx(full.psnr, abs=1)


@pytest.mark.parametrize(
    ("name", "window", "frames"),
    [("wan", 33, 33), ("wan", 20, 17), ("cogvideox", 22, 17), ("ltx", 33, 33), ("mochi", 33, 31)],
)
def test_windows_follow_the_rule_of_the_class(folder: Path, name: str, window: int, frames: int) -> None:
    assert load_embedder(str(folder / name), CPU, torch.float32, window).chunk_frames == frames


@pytest.mark.parametrize(("name", "shortest"), [("wan", 5), ("cogvideox", 9), ("mochi", 7)])
def test_windows_that_are_too_short(folder: Path, name: str, shortest: int) -> None:
    with pytest.raises(ValueError, match=f"at least {shortest} frames"):
        load_embedder(str(folder / name), CPU, torch.float32, shortest - 1)


def test_cosmos_knows_statistics_for_some_frames_only(folder: Path) -> None:
    vae = load(folder, "cosmos").vae
    assert CosmosAdapter(vae, 17).chunk_frames == 17
    with pytest.raises(ValueError, match="at most 17 frames"):
        CosmosAdapter(vae, 25)


@pytest.mark.parametrize("name", ["wan-2.2", "hunyuan", "ltx"])
@torch.inference_mode()
def test_tiles(folder: Path, name: str) -> None:
    """One that covers the picture changes nothing; smaller ones give the same shapes."""
    model = load(folder, name)
    clip = torch.rand(1, 3, model.chunk_frames, 32, 96)
    whole = model.encode(clip).latent_dist.mode()
    assert torch.equal(model.encode(clip, tile=Tile(64, 128, 32)).latent_dist.mode(), whole)
    assert torch.equal(decode(model, whole, tile=Tile(64, 128, 32)), decode(model, whole))
    tiled = model.encode(clip, tile=Tile(64, 64, 32)).latent_dist.mode()
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert decode(model, whole, tile=Tile(64, 64, 32)).shape == clip.shape


@torch.inference_mode()
def test_diffusion_decoder_is_seeded_and_takes_steps(folder: Path) -> None:
    model = load(folder, "pipeline/diffusion_decoder")
    plain = load(folder, "pipeline")
    clip = torch.rand(1, 3, 9, 24, 32) * 2 - 1
    latents = model.encode(clip).latent_dist.mode()
    assert torch.equal(latents, plain.encode(clip).latent_dist.mode())
    first = decode(model, latents)
    by_hand = model.decoder.decode(
        latents * LTX_STD + LTX_MEAN, generator=generator_for(0, 0), num_inference_steps=1
    ).sample
    torch.testing.assert_close(first, by_hand, atol=1e-5, rtol=1e-4)
    assert torch.equal(decode(model, latents), first)
    assert not torch.equal(decode(model, latents, seed=1), first)
    assert not torch.equal(decode(model, latents, steps=2), first)
    assert not torch.equal(first, decode(plain, latents))
    assert decode(model, latents, tile=Tile(16, 16, 8)).shape == first.shape
    assert torch.equal(decode(model, latents), first), "tiles of one call must not stay for the next"


def test_diffusion_decoder_rejects_small_inputs(folder: Path) -> None:
    model = load(folder, "pipeline/diffusion_decoder")
    with pytest.raises(ValueError, match="at least 24 pixels"):
        decode(model, torch.zeros(1, 4, 2, 2, 3))
    with pytest.raises(ValueError, match="at least 9 frames"):
        LTX2DiffusionAdapter(model.vae, model.decoder, 8)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        decode(model, torch.zeros(1, 4, 2, 3, 3), steps=0)
    assert model.num_parameters() < model.vae.num_parameters() + model.decoder.num_parameters()


@torch.inference_mode()
def test_noise_inside_a_decoder_follows_the_seed_alone(folder: Path) -> None:
    model = load(folder, "ltx-with-noise")
    for parameter in model.vae.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    latents = torch.randn(2, 4, 2, 2, 2)
    state = torch.get_rng_state()
    both = decode(model, latents)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    torch.testing.assert_close(decode(model, latents[:1]), both[:1])
    assert not torch.equal(decode(model, latents, seed=1), both)


def test_unsupported_options_are_errors(folder: Path) -> None:
    model = load(folder, "wan")
    latents = torch.zeros(1, 2, 2, 2, 2)
    own = torch.linspace(0, 1, 5)
    some = model.decode(latents, own[[3, 1]], generator=[generator_for(0)]).sample
    whole = model.decode(latents, own, generator=[generator_for(0)]).sample
    assert torch.equal(some, whole[:, :, [3, 1]])
    for times in ([0.1], [-0.25], [1.25]):
        with pytest.raises(ValueError, match="only its 5 frames"):
            model.decode(latents, torch.tensor(times), generator=[generator_for(0)])
    with pytest.raises(ValueError, match="in 1 step, got 2"):
        model.decode(latents, own, steps=2, generator=[generator_for(0)])
    with pytest.raises(ValueError, match="--solver euler"):
        model.decode(latents, own, generator=[generator_for(0)], solver=heun)
    with pytest.raises(ValueError, match="got 4 of 16 x 16"):
        model.encode(torch.zeros(1, 3, 4, 16, 16))
    with pytest.raises(ValueError, match="multiples of 8, got 5 of 12 x 16"):
        model.encode(torch.zeros(1, 3, 5, 12, 16))
    frames = noise(9, 16, 16)
    results = [
        evaluate_clip(model, frames, "noise", options)
        for options in (DecodeOptions(seams="none"), DecodeOptions(seams="match"))
    ]
    assert results[0].psnr == results[1].psnr, "there is no frame before a window to join it to"
    with pytest.raises(ValueError, match="in 1 step, got 2"):
        evaluate_clip(model, noise(9, 16, 16), "noise", DecodeOptions(steps=2, seams="none"))


@pytest.mark.parametrize("name", NAMES)
def test_memory_grows_with_the_picture(folder: Path, name: str) -> None:
    model = load(folder, name)
    assert 0 < model.activation_bytes(9, 64, 64) < model.activation_bytes(9, 64, 128)
