"""A decoder in place of the own one of an autoencoder of diffusers."""

from typing import Any

import pytest
import torch
from tests.embedders.test_regen_decoder import CLASSES, decoder_of, encoder_of
from tiny_diffusers_models import wan
from tiny_media import tiny_regen

from regen import AutoencoderMagvit2, RegenDecoder
from regen.embedders.frozen_encoder import adapter_of
from regen.tiling import Tile


@pytest.mark.parametrize("name", CLASSES)
def test_a_pipeline_gets_the_frames_of_the_decoder(name: str):
    encoder = encoder_of(CLASSES[name])
    model, vae = decoder_of(encoder), encoder.embedder.vae
    wrapped = RegenDecoder.wrap(vae, model)
    assert isinstance(wrapped, type(vae)) and wrapped.config == vae.config and vae.decoder is not model
    raw = torch.randn(1, model.latent_channels, 3, 2, 3)
    more = (torch.zeros(1),) if name.startswith("ltx") else ()
    frames = wrapped.decode(raw, *more, return_dict=False)[0]
    torch.testing.assert_close(frames, model.decode(model.normalise(raw)).sample)
    assert frames.shape == vae.decode(raw, *more).sample.shape
    clip = torch.rand(1, 3, model.chunk_frames, 2 * 16, 2 * 16)
    assert torch.equal(wrapped.encode(clip).latent_dist.mode(), vae.encode(clip).latent_dist.mode())


def test_tiling_and_slicing_are_those_of_the_wrapped_class():
    model = decoder_of(encoder_of(wan))
    wrapped = RegenDecoder.wrap(model.encoder.embedder.vae, model)
    raw = torch.randn(2, 2, 2, 8, 8)
    wrapped.enable_tiling(32, 32, 16, 16)
    expected = model.decode(model.normalise(raw), tile=Tile(32, 32, 16)).sample
    torch.testing.assert_close(wrapped.decode(raw).sample, expected)
    wrapped.disable_tiling()
    wrapped.enable_slicing()
    torch.testing.assert_close(wrapped.decode(raw).sample, model.decode(model.normalise(raw)).sample)


def test_a_decoder_for_other_latents_and_an_unknown_class_are_refused():
    torch.manual_seed(3)
    other: Any = wan()
    with pytest.raises(ValueError, match="This decoder is for latents of"):
        RegenDecoder.wrap(other, decoder_of(encoder_of(wan)))
    with pytest.raises(ValueError, match="must be one of AutoencoderKLWan"):
        adapter_of(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"pipe\.vae"):
        RegenDecoder.wrap("runs/decoder", decoder_of(encoder_of(wan)))


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
