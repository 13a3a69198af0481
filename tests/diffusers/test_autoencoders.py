"""What users of diffusers' video autoencoders do with them: tiling, slicing, any length, compiling."""

import copy

import pytest
import torch
from tiny_media import EMBEDDERS
from torch import Tensor

from regen.codec.sessions import encode_frames
from regen.embedders.linear import AutoencoderLinear
from regen.latents import Latents, collate
from regen.tiling import Tile

MODELS = EMBEDDERS | {"linear": lambda: AutoencoderLinear(latent_channels=4)}
PER_MODEL = pytest.mark.parametrize("name", MODELS)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def same(a: Tensor | Latents, b: Tensor | Latents, **tolerance: float) -> None:
    for one, other in zip(Latents.of(a).parts, Latents.of(b).parts, strict=True):
        torch.testing.assert_close(one, other, **tolerance or {"atol": 1e-5, "rtol": 1e-4})


@PER_MODEL
@torch.no_grad()
def test_tiling_is_switched_by_the_usual_calls(name: str) -> None:
    model = MODELS[name]()
    clip = noise(1, 3, model.chunk_frames, 48, 64)
    whole = model(clip, return_dict=False)[0]
    assert not model.use_tiling
    model.enable_tiling()
    assert model.use_tiling and model.tile == Tile(512, 512, 64)
    assert torch.equal(model(clip, return_dict=False)[0], whole), "one tile"
    model.enable_tiling(tile_sample_min_height=256, tile_sample_min_width=256)
    assert model.tile == Tile(256, 256, 32)
    model.enable_tiling(tile_sample_min_height=32, tile_sample_min_width=32)
    tiled = model(clip).sample
    assert tiled.shape == whole.shape and bool(torch.isfinite(tiled).all())
    model.disable_tiling()
    assert not model.use_tiling and torch.equal(model(clip).sample, whole)


@PER_MODEL
@pytest.mark.parametrize("frames", [1, "chunk", "two"])
@torch.no_grad()
def test_slicing_changes_nothing(name: str, frames: int | str) -> None:
    model = MODELS[name]()
    count = {"chunk": model.chunk_frames, "two": 2 * model.chunk_frames}.get(frames, 1)
    clip = noise(3, 3, count, 16, 32)
    seeds = [torch.Generator().manual_seed(seed) for seed in range(3)]

    def decoded(generator: torch.Generator | list[torch.Generator]) -> tuple[Tensor | Latents, Tensor]:
        latents = model.encode(clip).latent_dist.mode()
        return latents, model.decode(latents, steps=2, generator=generator).sample

    for generator in (lambda: torch.Generator().manual_seed(5), lambda: [g.manual_seed(7) for g in seeds]):
        model.disable_slicing()
        expected = decoded(generator())
        model.enable_slicing()
        assert model.use_slicing
        found = decoded(generator())
        same(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], atol=1e-4, rtol=1e-4)


@PER_MODEL
@pytest.mark.parametrize("size", [(8, 16), (13, 21)])
@torch.no_grad()
def test_videos_of_any_length_and_size(name: str, size: tuple[int, int]) -> None:
    """Chunks are those of the codec, to the last, padded one; decoding gives whole chunks back."""
    model = MODELS[name]()
    chunk, (height, width) = model.chunk_frames, size
    for frames in (1, 2, chunk - 1, chunk, chunk + 1, 2 * chunk + 3):
        images = (noise(frames, height, width, 3) * 127.5 + 127.5).round().to(torch.uint8)
        clip = (images.float() / 127.5 - 1).permute(3, 0, 1, 2)[None]
        latents = Latents.of(model.encode(clip).latent_dist.mode())
        if frames >= chunk or frames == 1 or name != "onedva":  # which leaves a short clip short
            expected = collate([one.latents for one in encode_frames(model, images)])
            torch.testing.assert_close(
                torch.cat([*expected.grid], dim=1), latents.grid[0], atol=1e-5, rtol=1e-4
            )
            assert torch.equal(expected.lengths.flatten(), latents.lengths.flatten())
            assert latents.shape[2] == (1 if frames == 1 else -(-frames // chunk) * model.latent_frames)
        decoded = model.decode(latents.for_decoder()).sample
        side = model.spatial_compression_ratio
        assert decoded.shape[3:] == (-(-height // side) * side, -(-width // side) * side)
        assert frames <= decoded.shape[2] <= frames + chunk - 1
        assert model(clip).sample.shape == clip.shape


@PER_MODEL
@torch.no_grad()
def test_chunks_of_a_batch_are_decoded_one_by_one(name: str) -> None:
    model = MODELS[name]()
    clip = noise(2, 3, 2 * model.chunk_frames, 16, 32)
    whole = model.decode(model.encode(clip).latent_dist.mode()).sample
    for part, half in zip(clip.chunk(2, dim=2), whole.chunk(2, dim=2), strict=True):
        torch.testing.assert_close(model(part).sample, half, atol=1e-5, rtol=1e-4)
    at = torch.tensor([0.0, 1.0])
    times = model.decode(model.encode(clip).latent_dist.mode(), at).sample
    assert times.shape[2] == 4


@torch.no_grad()
def test_posteriors_of_long_videos_have_variances_and_a_given_number_of_1d_latents() -> None:
    model = MODELS["onedva"]()
    clip = noise(2, 3, 2 * model.chunk_frames + 1, 32, 48)
    latents = model.encode(clip, length=5).latent_dist.sample(torch.Generator().manual_seed(0))
    assert latents.lengths.reshape(2, 3, -1).sum(2).tolist() == [[5] * 3] * 2
    posterior = MODELS["magvit2"]().encode(noise(1, 3, 40, 16, 16)).latent_dist
    assert posterior.std.shape == posterior.mean.shape == (1, 4, 15, 2, 2) and bool(
        (posterior.kl() > 0).all()
    )


@pytest.mark.parametrize("name", EMBEDDERS)
@torch.no_grad()
def test_repeated_blocks_can_be_compiled(name: str) -> None:
    """The blocks that diffusers compiles: each class of them is in the model."""
    model = MODELS[name]()
    model.compile_repeated_blocks(fullgraph=True)
    compiled = {type(module).__name__ for module in model.modules() if module._compiled_call_impl}
    assert compiled == set(model._repeated_blocks)


def test_copies_are_independent() -> None:
    model = MODELS["regen"]()
    other = copy.deepcopy(model)
    other.enable_tiling(64, 64)
    other.enable_slicing()
    assert not model.use_tiling and not model.use_slicing
