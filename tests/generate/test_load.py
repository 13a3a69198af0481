"""Loading: which embedders fit a generator, and generators as predictors in post-training."""

from pathlib import Path

import pytest
import torch
from tiny_generator import HYBRID, awake, latents_of
from tiny_latents import CPU, make_hybrid_model

from regen.embedders.one_dva import AutoencoderOneDVA
from regen.generate.load import load_embedder, load_predictor, make_predictor
from regen.pretrained.models import encoder_hash, weights_hash
from regen.runtime import generator_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An embedder, two with another decoder or encoder, and a generator of its latents."""
    folder = tmp_path_factory.mktemp("load")
    make_hybrid_model(folder / "embedder")
    for part in ("decoder", "encoder"):
        model = AutoencoderOneDVA.from_pretrained(folder / "embedder")
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if name.startswith(part)).add_(0.1)
        model.save_pretrained(folder / f"other-{part}")
    embedder = str(folder / "embedder")
    hashes = {"weights_hash": weights_hash(embedder), "encoder_hash": encoder_hash(embedder)}
    awake("hybrid class", latent_spec=HYBRID | hashes).save_pretrained(folder / "generator")
    return folder


@pytest.mark.parametrize("kind", ["hybrid text", "hybrid class", "none"])
def test_the_prediction_follows_the_velocity(kind):
    """ẑ_0 = z_t - t v, with the unconditional velocity."""
    model, clean = awake(kind), latents_of(kind)
    calls, velocity = [], model.velocity
    model.velocity = lambda *arguments: calls.append(arguments) or velocity(*arguments)  # type: ignore
    t = torch.tensor([0.3, 0.5])
    with torch.no_grad():
        predicted = make_predictor(model)(clean, t, [generator_for(0), generator_for(1)])
        expected = velocity(*calls[0])
    noisy, _, condition = calls[0]
    assert kind != "hybrid class" or condition.label.tolist() == [-1, -1]
    for x, v, z in zip(noisy.parts, expected.parts, predicted.parts, strict=True):
        torch.testing.assert_close(z, x - t.reshape(-1, *[1] * (x.ndim - 1)) * v)
    assert not torch.equal(predicted.grid, clean.grid)


def test_a_predictor_makes_the_latents_of_the_initial_model(folder):
    generator = str(folder / "generator")
    for initial in ("embedder", "other-decoder"):
        load_predictor(generator, str(folder / initial), CPU)
    for initial in (str(folder / "other-encoder"), None):
        with pytest.raises(ValueError, match="--init.model"):
            load_predictor(generator, initial, CPU)
    with pytest.raises(ValueError, match="is an embedder"):
        load_predictor(str(folder / "embedder"), str(folder / "embedder"), CPU)


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
