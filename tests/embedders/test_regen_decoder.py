"""RegenDecoder: latents of every class of diffusers' video autoencoders, their groups, times and loss."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_diffusers_models import TINY, hunyuan, wan
from tiny_media import tiny_magvit2
from torch import Tensor, nn

from regen import RegenDecoder
from regen.embedders.frozen_encoder import (
    FrozenEncoder,
    adapter_of,
    check_causal,
    encoder_hash,
    load_frozen_encoder,
    place_of,
)
from regen.embedders.regen_decoder import RegenDecoderConfig
from regen.pretrained.models import decodes_latents_of, weights_hash
from regen.runtime import generator_for

CPU = torch.device("cpu")
SMALL = {"width": 48, "depth": 1, "heads": 2, "siren_width": 16}
CLASSES = {name: build for name, build in TINY.items() if name != "ltx-with-noise"}


def encoder_of(build: Any, window: int = 17) -> FrozenEncoder:
    torch.manual_seed(0)
    return FrozenEncoder(adapter_of(build(), window), "tiny")


def decoder_of(encoder: FrozenEncoder, **options: Any) -> RegenDecoder:
    """With weights that are not zero, so that all of the latents acts on the frames."""
    torch.manual_seed(1)
    config = RegenDecoderConfig(**asdict(encoder.space) | SMALL | options)
    model = RegenDecoder(**asdict(config)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    model.attach_encoder(encoder)
    return model


def clip_for(model: RegenDecoder, batch: int = 1) -> Tensor:
    side = model.spatial_compression_ratio
    return torch.rand(batch, 3, model.chunk_frames, 2 * side, 3 * side) * 2 - 1


@pytest.mark.parametrize("name", CLASSES)
def test_frames_sizes_and_scaling_are_those_of_the_class(name: str):
    encoder = encoder_of(CLASSES[name])
    check_causal(encoder.embedder, name)
    model = decoder_of(encoder)
    r, side = model.temporal_compression_ratio, model.spatial_compression_ratio
    clip = clip_for(model)
    latents = model.encode(clip).latent_dist.mode()
    assert latents.shape == (1, model.latent_channels, 1 + (model.chunk_frames - 1) // r, 2, 3)
    adapter = encoder.embedder
    raw = adapter.vae.encode(clip).latent_dist.mode()
    torch.testing.assert_close(model.normalise(raw), latents, rtol=1e-4, atol=1e-5)
    assert model.decode(latents).sample.shape == clip.shape
    image = model.encode(clip[:, :, :1]).latent_dist.mode()
    assert image.shape[2] == 1 and model.decode(image).sample.shape == (1, 3, 1, 2 * side, 3 * side)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_latent_frames_is_decoded_group_by_group(count: int):
    model = decoder_of(encoder_of(wan), linear_path=True, detail_channels=2)
    latents, r = torch.randn(2, 2, count, 2, 3), model.temporal_compression_ratio
    whole = model.decode(latents).sample
    assert whole.shape[2] == 1 + r * (count - 1)
    parts = [model.decode_group(latents[:, :, :1], 0, torch.zeros(1))]
    times = torch.arange(1, r + 1) / r
    parts += [model.decode_group(latents[:, :, g - 1 : g + 1], g, times) for g in range(1, count)]
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_a_frame_depends_on_its_latent_frame_and_the_one_before_alone():
    model = decoder_of(encoder_of(wan))
    latents = torch.randn(1, 2, 4, 2, 3)
    before = model.decode(latents).sample
    latents[:, :, 2] += 1
    changed = (model.decode(latents).sample - before).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert changed.tolist() == [False] * 5 + [True] * 8


def test_times_choose_frames_and_lie_between_them():
    model = decoder_of(encoder_of(wan))
    latents = torch.randn(1, 2, 3, 2, 3)
    whole = model.decode(latents).sample
    group = model.decode(latents, torch.tensor([5, 6, 7, 8]) / 8).sample
    torch.testing.assert_close(group, whole[:, :, 5:])
    between = model.decode(latents, torch.tensor([5.5]) / 8).sample
    assert between.shape[2] == 1 and not torch.allclose(between, whole[:, :, 5:6])
    for times in (torch.tensor([-0.1]), torch.tensor([1.1])):
        with pytest.raises(ValueError, match="does not extrapolate"):
            model.decode(latents, times)
    with pytest.raises(ValueError, match="0 for an image"):
        model.decode(latents[:, :, :1], torch.tensor([0.5]))


def test_the_noise_of_a_group_does_not_depend_on_which_others_are_decoded():
    model = decoder_of(encoder_of(wan))
    latents, times = torch.randn(2, model.latent_channels, 3, 2, 2), torch.arange(9) / 8

    def decode(chosen: slice) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return model.decode(latents, times[chosen], steps=2, generator=generator).sample

    whole = decode(slice(None))
    assert torch.equal(decode(slice(5, None)), whole[:, :, 5:])
    assert not torch.equal(whole[:, :, 1:5], whole[:, :, 5:])


@pytest.mark.parametrize("distillation", [0.0, 0.5])
@pytest.mark.parametrize(("frames", "groups"), [(1, 2), (5, 1), (17, 2)])
def test_the_loss_is_the_mean_over_the_samples(frames: int, groups: int, distillation: float):
    options = {"linear_path": True, "distillation_weight": distillation, "groups_per_clip": groups}
    model = decoder_of(encoder_of(wan, 5 if groups == 1 else 17), **options)
    clip = clip_for(model, batch=3)[:, :, :frames]

    def loss(rows: list[int]) -> Tensor:
        times = torch.linspace(0, 1, frames) if frames > 1 else torch.zeros(1)
        batch = {"clip": clip[rows], "target": clip[rows], "times": times}
        return model.loss(batch, [generator_for(0, row) for row in rows])[0]

    together = loss([0, 1, 2])
    torch.testing.assert_close(together, torch.stack([loss([i]) for i in range(3)]).mean())
    together.backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"decoder.embed.weight", "conditioner.proj.weight"} <= learned
    assert not any(p.grad is not None for p in model.encoder.embedder.vae.parameters())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_groups_have_their_own_frames_with_the_first_frame_of_the_clip_or_without(count: int):
    model = decoder_of(encoder_of(wan))
    r = model.temporal_compression_ratio
    video = torch.arange(1.0 + r * count).expand(1, 3, 8, 8, -1).permute(0, 1, 4, 2, 3)
    latents, groups = torch.randn(1, 2, 1 + count, 2, 3), torch.arange(1, count + 1)[None]
    for frames in (video, video[:, :, 1:]):
        shown = model.group(latents, frames, groups)[1]
        assert torch.equal(shown[:, 0, :, 0, 0], torch.arange(1.0, 1 + r * count).reshape(count, r))


def test_the_encoder_is_found_by_its_name_and_checked(tmp_path: Path):
    torch.manual_seed(0)
    wan().save_pretrained(tmp_path / "pipeline" / "vae")
    name = f"diffusers:{tmp_path}/pipeline"
    encoder = load_frozen_encoder(name, CPU, torch.float32, 9)
    model = decoder_of(encoder)
    assert (model.config.encoder, model.config.encoder_class) == (name, "AutoencoderKLWan")
    model.save_pretrained(tmp_path / "decoder")
    assert not any("encoder" in key for key in model.state_dict())
    loaded = RegenDecoder.from_pretrained(str(tmp_path / "decoder"))
    clip = clip_for(model)
    torch.testing.assert_close(loaded.encode(clip).latent_dist.mode(), model.encode(clip).latent_dist.mode())
    torch.manual_seed(5)
    wan().save_pretrained(tmp_path / "pipeline" / "vae")
    with pytest.raises(ValueError, match="This decoder is for latents of"):
        RegenDecoder.from_pretrained(str(tmp_path / "decoder")).encode(clip)
    with pytest.raises(ValueError, match="AutoencoderKLWan"):
        model.attach_encoder(encoder_of(hunyuan))
    with pytest.raises(ValueError, match="no autoencoder"):
        load_frozen_encoder(str(tmp_path / "none"), CPU, torch.float32)


@pytest.mark.parametrize("name", CLASSES)
def test_the_hash_of_an_encoder_is_the_same_in_each_precision_and_that_of_another_is_not(name: str):
    vae = encoder_of(CLASSES[name]).embedder.vae
    expected = encoder_hash(vae)
    for dtype in (torch.bfloat16, torch.float16):
        assert encoder_hash(encoder_of(CLASSES[name]).embedder.vae.to(dtype)) == expected
    for parameter in vae.decoder.parameters():
        nn.init.normal_(parameter)
    assert encoder_hash(vae) == expected
    for parameter in vae.encoder.parameters():
        parameter.data += 0.01 * parameter.std(correction=0) * torch.randn_like(parameter)
    assert encoder_hash(vae) != expected


def test_a_model_of_this_package_is_an_encoder_too(tmp_path: Path):
    tiny_magvit2().save_pretrained(tmp_path / "magvit2")
    encoder = load_frozen_encoder(str(tmp_path / "magvit2"), CPU, torch.float32)
    model = decoder_of(encoder)
    clip = clip_for(model)
    assert model.decode(model.encode(clip).latent_dist.mode()).sample.shape == clip.shape


def test_files_of_an_encoder_of_this_package_are_for_its_decoder_while_it_is_the_same(tmp_path: Path):
    name = str(tmp_path / "magvit2")
    tiny_magvit2().save_pretrained(name)
    encoder, weights = load_frozen_encoder(name, CPU, torch.float32), weights_hash(name)
    decoder_of(encoder).save_pretrained(tmp_path / "decoder")
    assert decodes_latents_of(str(tmp_path / "decoder"), weights)
    assert not decodes_latents_of(str(tmp_path / "decoder"), "0" * 16) and not decodes_latents_of(
        name, weights
    )
    for parameter in encoder.embedder.parameters():
        nn.init.normal_(parameter)
    encoder.embedder.save_pretrained(name)
    assert not decodes_latents_of(str(tmp_path / "decoder"), weights_hash(name))
    shutil.rmtree(name)
    assert not decodes_latents_of(str(tmp_path / "decoder"), weights)


def test_clips_of_several_chunks_of_a_model_of_this_package_are_refused():
    """Their latents are not one sequence."""
    model = decoder_of(FrozenEncoder(tiny_magvit2(), "tiny"))
    frames = model.chunk_frames
    model.set_window(2 * model.latent_frames - 1)
    with pytest.raises(ValueError, match=f"tiny encodes {frames} frames at once, got {2 * frames - 1}"):
        model.encode(torch.rand(1, 3, 2 * frames - 1, 16, 16))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("diffusers:owner/name", "owner/name"),
        ("owner/name:vae", "owner/name/vae"),
        ("diffusers:owner/name:vae", "owner/name/vae"),
        ("C:\\models", "C:\\models"),
        ("magvit2-small-4x", "magvit2-small-4x"),
    ],
)
def test_names_of_encoders(name: str, place: str):
    assert place_of(name) == place


def test_an_encoder_that_is_not_causal_is_refused():
    class TwoToOne:
        temporal_compression_ratio, spatial_compression_ratio, latent_channels, chunk_frames = 2, 8, 2, 17
        device, dtype, denoises, extrapolates = CPU, torch.float32, False, False

        def encode(self, video: Tensor) -> Any:
            latents = video[:, :2, ::2, ::8, ::8].repeat(1, 1, 1 + (video.shape[2] > 1), 1, 1)
            mode = type("Mode", (), {"mode": lambda self: latents})()
            return type("Output", (), {"latent_dist": mode})()

        decode = activation_bytes = encode

    with pytest.raises(ValueError, match="must be causal in time"):
        check_causal(TwoToOne(), "two-to-one")


@pytest.mark.parametrize(
    "options",
    [{"chunk_frames": 16}, {"conditioning": "in_context"}, {"detail_channels": -1}, {"latent_channels": 0},
     {"linear_path": True, "prediction": "velocity"}],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match="configuration is invalid"):
        RegenDecoder(**asdict(replace(RegenDecoderConfig(**SMALL), **options)))


def test_latents_of_others_are_refused():
    model = decoder_of(encoder_of(wan))
    with pytest.raises(ValueError, match="2 channels"):
        model.decode(torch.randn(1, 4, 3, 2, 3))


def test_layers_of_the_decoder_are_counted_for_memory():
    model = decoder_of(encoder_of(wan))
    alone = RegenDecoder(**asdict(RegenDecoderConfig(**SMALL)))
    assert alone.activation_bytes(17, 64, 64) == alone.activation_bytes(1000, 64, 64)
    assert model.activation_bytes(17, 64, 64) >= alone.activation_bytes(17, 64, 64)
