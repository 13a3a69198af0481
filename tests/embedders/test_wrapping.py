"""A decoder in place of the own one of an autoencoder of diffusers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from processors import ATTENTION_IN_BF16
from tests.embedders.test_regen_decoder import CLASSES, decoder_of, encoder_of
from tiny_diffusers_models import wan
from tiny_media import tiny_regen

from regen import AutoencoderMagvit2, RegenDecoder
from regen.embedders.diffusers_models import ADAPTERS
from regen.embedders.frozen_encoder import adapter_of
from regen.metrics.memory import peak_bytes
from regen.tiling import Tile


def test_each_class_is_tested_and_named_in_the_guide():
    classes = {type(build()).__name__ for build in CLASSES.values()}
    assert classes == set(ADAPTERS)
    guide = (Path(__file__).parents[2] / "docs" / "decoder.md").read_text()
    assert classes == {*re.findall(r"AutoencoderKL\w+", guide)}


@pytest.mark.parametrize("name", CLASSES)
def test_a_pipeline_gets_the_frames_of_the_decoder(name: str):
    encoder = encoder_of(CLASSES[name])
    model, vae = decoder_of(encoder), encoder.embedder.vae
    wrapped = RegenDecoder.wrap(vae, model)
    assert type(wrapped) is type(vae) and wrapped.config == vae.config and vae.decoder is not model
    more = (torch.zeros(1),) if name.startswith("ltx") else ()
    for count in (1, 3):
        raw = torch.randn(1, model.latent_channels, count, 2, 3)
        frames = wrapped.decode(raw, *more, return_dict=False)[0]
        torch.testing.assert_close(frames, model.decode(model.normalise(raw)).sample)
        assert frames.shape == vae.decode(raw, *more).sample.shape
    clip = torch.rand(1, 3, model.chunk_frames, 2 * 16, 2 * 16)
    assert torch.equal(wrapped.encode(clip).latent_dist.mode(), vae.encode(clip).latent_dist.mode())


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("wan", {"tile_sample_stride_height": 16, "tile_sample_stride_width": 16}, Tile(32, 32, 16)),
        ("hunyuan", {"tile_sample_stride_height": 8, "tile_sample_stride_width": 8}, Tile(32, 32, 16)),
        ("hunyuan-1.5", {"tile_overlap_factor": 0.5}, Tile(32, 32, 16)),
        (
            "cogvideox",
            {"tile_overlap_factor_height": 1 / 4, "tile_overlap_factor_width": 1 / 8},
            Tile(32, 32, 8),
        ),
        ("mochi", {}, None),
    ],
)
def test_tiling_and_slicing_are_those_of_the_wrapped_class(
    name: str, options: dict[str, Any], expected: Tile | None
):
    """Of each way to say how far tiles overlap, at most by half; by default one covers a small picture."""
    model = decoder_of(encoder_of(CLASSES[name]))
    wrapped = RegenDecoder.wrap(model.encoder.embedder.vae, model)
    raw = torch.randn(2, 2, 2, 5, 5)
    whole = model.decode(model.normalise(raw)).sample
    wrapped.enable_tiling(
        **({"tile_sample_min_height": 32, "tile_sample_min_width": 32} if options else {}), **options
    )
    tiled = wrapped.decode(raw).sample
    torch.testing.assert_close(tiled, model.decode(model.normalise(raw), tile=expected).sample)
    assert torch.equal(tiled, whole) == (expected is None)
    wrapped.disable_tiling()
    wrapped.enable_slicing()
    torch.testing.assert_close(wrapped.decode(raw).sample, whole)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=ATTENTION_IN_BF16)])
def test_decoding_holds_the_frames_and_one_group_besides(dtype: torch.dtype):
    model = decoder_of(encoder_of(wan))
    wrapped = RegenDecoder.wrap(model.encoder.embedder.vae.to(dtype), model)

    def besides(count: int) -> int:
        raw = torch.randn(1, 2, count, 4, 4, dtype=dtype)
        with torch.inference_mode():
            peak = peak_bytes(lambda: wrapped.decode(raw))
        return peak - (4 * count - 3) * 3 * 32 * 32 * dtype.itemsize

    assert besides(17) < 1.1 * besides(5), "latents grow, frames do not"


@pytest.mark.parametrize("shape", [(1, 5, 3, 2, 2), (1, 2, 3, 2), (1, 12, 2)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]):
    """Such as packed ones, which the pipeline unpacks."""
    model = decoder_of(encoder_of(wan))
    wrapped = RegenDecoder.wrap(model.encoder.embedder.vae, model)
    with pytest.raises(ValueError, match=r"b c n y x with 2 channels, got .*\.$"):
        wrapped.decode(torch.randn(shape))


def test_a_decoder_for_other_latents_and_an_unknown_class_are_refused():
    torch.manual_seed(3)
    other: Any = wan()
    with pytest.raises(ValueError, match="This decoder is for latents of"):
        RegenDecoder.wrap(other, decoder_of(encoder_of(wan)))
    with pytest.raises(ValueError, match="must be one of AutoencoderKLWan"):
        adapter_of(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"pipe\.vae"):
        RegenDecoder.wrap("runs/decoder", decoder_of(encoder_of(wan)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_pipeline_in_half_precision_takes_the_decoder_of_a_training_in_fp32(
    dtype: torch.dtype, tmp_path: Path
):
    model = decoder_of(encoder_of(wan))
    model.save_pretrained(tmp_path / "decoder")
    wrapped = RegenDecoder.wrap(encoder_of(wan).embedder.vae.to(dtype), str(tmp_path / "decoder"))
    raw = torch.randn(1, 2, 3, 2, 2)
    frames = wrapped.decode(raw.to(dtype)).sample
    assert frames.dtype == wrapped.decoder.dtype == dtype
    expected = model.decode(model.normalise(raw)).sample
    torch.testing.assert_close(frames.float(), expected, atol=0.1, rtol=0.1)


def test_models_of_other_classes_are_named(tmp_path):
    """And not loaded with random weights."""
    tiny_regen().save_pretrained(tmp_path / "tiny")
    for load in (RegenDecoder.from_pretrained, AutoencoderMagvit2.from_pretrained):
        with pytest.raises(ValueError, match="is of class AutoencoderRegen"):
            load(str(tmp_path / "tiny"))
    with pytest.raises(ValueError, match="is of class AutoencoderRegen"):
        RegenDecoder.wrap(encoder_of(wan).embedder.vae, str(tmp_path / "tiny"))
    with pytest.raises(ValueError, match=r"pipe\.vae"):
        RegenDecoder.wrap(None, decoder_of(encoder_of(wan)))
