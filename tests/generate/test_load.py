"""Loading: which embedders fit a generator."""

from pathlib import Path

import pytest
import torch
from tiny_generator import HYBRID, awake
from tiny_latents import CPU, make_hybrid_model

from regen.embedders.one_dva import AutoencoderOneDVA
from regen.generate.load import load_embedder
from regen.pretrained.models import encoder_hash, weights_hash


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An embedder, and two with another decoder or encoder."""
    folder = tmp_path_factory.mktemp("load")
    make_hybrid_model(folder / "embedder")
    for part in ("decoder", "encoder"):
        model = AutoencoderOneDVA.from_pretrained(folder / "embedder")
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if name.startswith(part)).add_(0.1)
        model.save_pretrained(folder / f"other-{part}")
    return folder


def test_another_decoder_fits_and_another_encoder_does_not(folder):
    embedder, decoder, encoder = (
        str(folder / name) for name in ("embedder", "other-decoder", "other-encoder")
    )
    assert weights_hash(decoder) != weights_hash(embedder) and encoder_hash(decoder) == encoder_hash(embedder)
    hashes = {"encoder_hash": encoder_hash(embedder), "weights_hash": "0" * 16}
    model = awake("hybrid class", latent_spec=HYBRID | hashes)
    for name in (embedder, decoder):
        load_embedder(model, "mine", CPU, torch.float32, name)
    without_encoder = awake("hybrid class", latent_spec=HYBRID | {"weights_hash": "0" * 16})
    for wrong, name in ((model, encoder), (without_encoder, decoder)):
        with pytest.raises(ValueError, match="--embedder"):
            load_embedder(wrong, "mine", CPU, torch.float32, name)


def test_the_precision_of_a_stored_encoder_does_not_count(folder, tmp_path):
    """A training starts from weights stored in bf16 and stores fp32: the same values."""
    AutoencoderOneDVA.from_pretrained(folder / "embedder").bfloat16().save_pretrained(tmp_path / "small")
    AutoencoderOneDVA.from_pretrained(tmp_path / "small").float().save_pretrained(tmp_path / "large")
    small, large = (encoder_hash(str(tmp_path / name)) for name in ("small", "large"))
    assert small == large != encoder_hash(str(folder / "embedder"))
