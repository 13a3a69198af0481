"""Video autoencoders of diffusers as embedders, with tiny models of the real classes, and their names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_diffusers_models import TINY, ltx_2, ltx_2_diffusion_decoder
from torch import Tensor
from torch.nn.attention import flex_attention

from regen.codec.sessions import DecodeOptions, decode_chunks, encode_frames
from regen.diffusion import euler, heun
from regen.embedders import diffusers_models
from regen.embedders.diffusers_adapter import DiffusersAdapter
from regen.embedders.diffusers_models import CosmosAdapter, LTX2DiffusionAdapter
from regen.embedders.interface import Embedder
from regen.embedders.linear import AutoencoderLinear
from regen.evaluate.quality import evaluate_clip
from regen.pretrained.models import load_embedder
from regen.runtime import generator_for
from regen.tiling import Tile

CPU = torch.device("cpu")
NAMES = [*TINY, "pipeline", "pipeline/diffusion_decoder"]
SHORTEST = {"cogvideox": 9, "mochi": 7} | dict.fromkeys(("wan", "wan-2.2", "hunyuan", "hunyuan-1.5"), 5)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch) -> None:
    """The diffusion decoder's attention compiles itself for every new shape, which takes seconds."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
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
def test_any_length_and_size(folder, name):
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
def test_latents_are_normalised_as_the_pipeline_does_it(folder, name):
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
def test_half_precision(folder, name):
    half, full = (load(folder, name, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert half.dtype == torch.bfloat16
    results = [evaluate_clip(model, noise(model.chunk_frames, 16, 16), name) for model in (half, full)]
    assert results[0].psnr == pytest.approx(results[1].psnr, abs=1)


@pytest.mark.parametrize(
    ("name", "window", "frames"),
    [("wan", 33, 33), ("wan", 20, 17), ("cogvideox", 22, 17), ("ltx", 33, 33), ("mochi", 33, 31)],
)
def test_windows_follow_the_rule_of_the_class(folder, name, window, frames):
    assert load_embedder(str(folder / name), CPU, torch.float32, window).chunk_frames == frames
    if shortest := SHORTEST.get(name):
        with pytest.raises(ValueError, match=f"at least {shortest} frames"):
            load_embedder(str(folder / name), CPU, torch.float32, shortest - 1)


def test_cosmos_knows_statistics_for_some_frames_only(folder):
    vae = load(folder, "cosmos").vae
    assert CosmosAdapter(vae, 17).chunk_frames == 17
    with pytest.raises(ValueError, match="at most 17 frames"):
        CosmosAdapter(vae, 25)


@pytest.mark.parametrize("name", ["wan-2.2", "hunyuan", "ltx"])
@torch.inference_mode()
def test_tiles(folder, name):
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
def test_diffusion_decoder_is_seeded_and_takes_steps(folder):
    model = load(folder, "pipeline/diffusion_decoder")
    plain = load(folder, "pipeline")
    clip = torch.rand(1, 3, 9, 24, 32) * 2 - 1
    latents = model.encode(clip).latent_dist.mode()
    assert torch.equal(latents, plain.encode(clip).latent_dist.mode())
    first, raw = decode(model, latents), latents * LTX_STD + LTX_MEAN
    expected = model.decoder.decode(raw, generator=generator_for(0, 0), num_inference_steps=1).sample
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(decode(model, latents), first)
    assert not torch.equal(decode(model, latents, seed=1), first)
    assert not torch.equal(decode(model, latents, steps=2), first)
    assert not torch.equal(first, decode(plain, latents))
    assert decode(model, latents, tile=Tile(16, 16, 8)).shape == first.shape
    assert torch.equal(decode(model, latents), first), "tiles of one call must not stay for the next"


def test_diffusion_decoder_rejects_small_inputs(folder):
    model = load(folder, "pipeline/diffusion_decoder")
    with pytest.raises(ValueError, match="at least 24 pixels"):
        decode(model, torch.zeros(1, 4, 2, 2, 3))
    with pytest.raises(ValueError, match="at least 9 frames"):
        LTX2DiffusionAdapter(model.vae, model.decoder, 8)
    assert model.num_parameters() < model.vae.num_parameters() + model.decoder.num_parameters()


@torch.inference_mode()
def test_noise_inside_a_decoder_follows_the_seed_alone(folder):
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


def test_unsupported_options_are_errors(folder):
    model = load(folder, "wan")
    latents, times, generator = torch.zeros(1, 2, 2, 2, 2), torch.linspace(0, 1, 5), [generator_for(0)]
    some = model.decode(latents, times[[3, 1]], generator=generator).sample
    whole = model.decode(latents, times, generator=generator).sample
    assert torch.equal(some, whole[:, :, [3, 1]])
    for wrong, words in (
        *(({"times": torch.tensor([time])}, "only 5 frames") for time in (0.1, -0.25, 1.25)),
        ({"steps": 2}, "in 1 step, got 2"),
        ({"solver": heun}, "--solver euler"),
    ):
        with pytest.raises(ValueError, match=words):
            model.decode(latents, **{"times": times, "generator": generator} | wrong)
    for shape in ((4, 16, 16), (5, 12, 16)):
        with pytest.raises(ValueError, match="multiples of 8, got {} of {} x {}".format(*shape)):
            model.encode(torch.zeros(1, 3, *shape))


def test_windows_are_joined_without_a_seam_option(folder):
    """There is no frame before a window to join it to."""
    model, frames = load(folder, "wan"), noise(9, 16, 16)
    none, match = (evaluate_clip(model, frames, "noise", DecodeOptions(seams=s)) for s in ("none", "match"))
    assert none.psnr == match.psnr


@pytest.mark.parametrize("name", NAMES)
def test_memory_grows_with_the_picture(folder, name):
    model = load(folder, name)
    assert 0 < model.activation_bytes(9, 64, 64) < model.activation_bytes(9, 64, 128)


def test_own_models(tmp_path):
    AutoencoderLinear(2, 4).save_pretrained(tmp_path / "run" / "model")
    assert isinstance(load_embedder(str(tmp_path / "run"), CPU, torch.float32), AutoencoderLinear)
    assert isinstance(load_embedder("linear-4x", CPU, torch.float32), AutoencoderLinear)
    for name, words in (("nothing", "There is no model nothing"), (str(tmp_path), "holds no model")):
        with pytest.raises(ValueError, match=words):
            load_embedder(name, CPU, torch.float32)


def test_damaged_and_unknown_models(folder, tmp_path):
    def error() -> str:
        with pytest.raises(ValueError, match="model") as caught:
            load_embedder(str(tmp_path / "model"), CPU, torch.float32)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    shutil.copytree(folder / "wan", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    stored = json.loads(config.read_text())
    config.write_text(json.dumps(stored | {"_class_name": "AutoencoderKLFlux2"}))
    assert "got AutoencoderKLFlux2" in error() and "AutoencoderRegen" in error() and "Mochi" in error()
    config.write_text(json.dumps(stored | {"base_dim": 8}))
    assert "is damaged" in error()
    config.write_text("{")
    assert "is damaged" in error()
    config.write_text(json.dumps(stored))
    (tmp_path / "model" / "diffusion_pytorch_model.safetensors").unlink()
    assert "is damaged" in error()
    shutil.copytree(folder / "pipeline" / "diffusion_decoder", tmp_path / "alone" / "diffusion_decoder")
    with pytest.raises(ValueError, match="needs an AutoencoderKLLTX2Video"):
        load_embedder(str(tmp_path / "alone" / "diffusion_decoder"), CPU, torch.float32)


def test_hub_names(folder, monkeypatch):
    """The configuration alone is fetched until the class is known; then only the folder of the model."""
    fetched, revisions = [], set()

    def fetch(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        revisions.add(revision)
        fetched.extend(f"{repository}/{file}" for file in allow_patterns)
        return str(folder / "pipeline")

    monkeypatch.setattr(diffusers_models, "snapshot_download", fetch)
    place = diffusers_models.find("some/pipeline")
    assert str(place) == "some/pipeline/vae" and place.class_name == "AutoencoderKLLTX2Video"
    assert fetched == ["some/pipeline/config.json", "some/pipeline/vae/config.json"]
    decoder = diffusers_models.find("some/pipeline/diffusion_decoder")
    assert decoder.class_name == "LTX2VideoDiffusionDecoderModel"
    fetched.clear()
    assert load_embedder("some/pipeline", CPU, torch.float32).name == "AutoencoderKLLTX2Video"
    assert "some/pipeline/vae/diffusion_pytorch_model.safetensors" in fetched
    assert not any("fp16" in file or "unet" in file for file in fetched)
    assert revisions == {None}
    assert load_embedder("some/pipeline@v1/vae", CPU, torch.float32).name == "AutoencoderKLLTX2Video"
    assert revisions == {None, "v1"}
    with pytest.raises(ValueError, match="no config.json in unet"):
        load_embedder("some/pipeline/unet", CPU, torch.float32)


@pytest.mark.parametrize(
    ("problem", "words"),
    [(LocalEntryNotFoundError("offline"), "unreachable"), (OSError("401"), "neither a local folder")],
)
def test_hub_that_does_not_answer(monkeypatch, problem, words):
    def fail(repository: str, **options: object) -> str:
        raise problem

    monkeypatch.setattr(diffusers_models, "snapshot_download", fail)
    with pytest.raises(ValueError, match=words):
        load_embedder("some/model", CPU, torch.float32)


@pytest.mark.parametrize("name", ["{}", "[1]", "3", "null"])
def test_a_class_name_that_is_no_text_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text(f'{{"_class_name": {name}}}')
    with pytest.raises(ValueError, match="must be one of"):
        load_embedder(str(tmp_path), CPU, torch.float32)
