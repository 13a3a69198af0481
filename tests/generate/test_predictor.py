"""A generator predicts latents for the post-training of a decoder; which embedders go with it."""

from pathlib import Path

import pytest
import torch
from tiny_generator import CHANNELS, awake, latents_of
from tiny_latents import CPU, make_hybrid_model

from regen.embedders.one_dva import AutoencoderOneDVA
from regen.generate.conditions import Condition
from regen.generate.load import load_embedder, load_predictor, make_predictor
from regen.latents import Latents
from regen.pretrained.models import encoder_hash, weights_hash
from regen.runtime import generator_for

SOURCE = {"has_sequence": True, "region_size": 2, "num_queries": 8, "channels": CHANNELS}


def generator_for_model(folder: Path, embedder: str, **changes: str) -> str:
    """A generator of hybrid latents with random weights, of the latents of `embedder`."""
    facts = {"embedder": embedder, "weights": weights_hash(embedder), "encoder_hash": encoder_hash(embedder)}
    awake("hybrid class", latent_spec=SOURCE | facts | changes).save_pretrained(folder)
    return str(folder)


def post_trained(embedder: str, folder: Path, part: str) -> str:
    """The same model with other numbers in its decoder, or in its encoder."""
    model = AutoencoderOneDVA.from_pretrained(embedder)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if name.startswith(part)).add_(0.1)
    model.save_pretrained(folder)
    return str(folder)


def test_it_answers_with_the_clean_latents_that_its_velocity_points_at() -> None:
    model = awake("hybrid class")
    clean = latents_of("hybrid class")
    seen: list[tuple[Latents, torch.Tensor, Condition]] = []
    velocity = model.velocity

    def watched(noisy: Latents, t: torch.Tensor, condition: Condition) -> Latents:
        seen.append((noisy, t, condition))
        return velocity(noisy, t, condition)

    model.velocity = watched  # type: ignore[method-assign]
    t = torch.tensor([0.3, 0.5])
    with torch.no_grad():
        answer = make_predictor(model)(clean, t, [generator_for(0), generator_for(1)])
        noisy, _, condition = seen[0]
        expected = velocity(noisy, t, condition)
    assert condition.label is not None and condition.label.tolist() == [-1, -1], "told no class"
    for x, v, z in zip(noisy.parts, expected.parts, answer.parts, strict=True):
        level = t.reshape(-1, *[1] * (x.ndim - 1))
        torch.testing.assert_close(z, x - level * v)
    assert not torch.equal(answer.grid, clean.grid)


@pytest.mark.parametrize("kind", ["hybrid text", "hybrid class", "none"])
def test_without_condition(kind: str) -> None:
    model, latents = awake(kind), latents_of(kind)
    condition = model.unconditional(2)
    answer = model.velocity(latents, torch.tensor([0.5, 0.5]), condition)
    assert answer.shape == latents.shape


def test_only_a_generator_of_the_start_models_latents_predicts(tmp_path: Path) -> None:
    embedder = make_hybrid_model(tmp_path / "embedder")
    other = post_trained(embedder, tmp_path / "other", "encoder")
    generator = generator_for_model(tmp_path / "generator", embedder)
    load_predictor(generator, embedder, CPU)
    with pytest.raises(ValueError, match="start from that one by --init.model"):
        load_predictor(generator, other, CPU)
    with pytest.raises(ValueError, match="start from that one by --init.model"):
        load_predictor(generator, None, CPU)
    with pytest.raises(ValueError, match="no generator"):
        load_predictor(embedder, embedder, CPU)


def test_a_post_trained_decoder_may_be_trained_further(tmp_path: Path) -> None:
    embedder = make_hybrid_model(tmp_path / "embedder")
    generator = generator_for_model(tmp_path / "generator", embedder)
    load_predictor(generator, post_trained(embedder, tmp_path / "post", "decoder"), CPU)


def test_a_post_trained_decoder_goes_with_the_generator_and_another_encoder_does_not(tmp_path: Path) -> None:
    embedder = make_hybrid_model(tmp_path / "embedder")
    decoder = post_trained(embedder, tmp_path / "decoder", "decoder")
    encoder = post_trained(embedder, tmp_path / "encoder", "encoder")
    assert weights_hash(decoder) != weights_hash(embedder) and encoder_hash(decoder) == encoder_hash(embedder)
    model = awake(
        "hybrid class",
        latent_spec=SOURCE | {"encoder_hash": encoder_hash(embedder), "weights_hash": "0" * 16},
    )
    for given in (embedder, decoder):
        load_embedder(model, "mine", CPU, torch.float32, given)
    with pytest.raises(ValueError, match="--embedder"):
        load_embedder(model, "mine", CPU, torch.float32, encoder)
    blind = awake("hybrid class", latent_spec=SOURCE | {"weights_hash": "0" * 16})
    with pytest.raises(ValueError, match="--embedder"):
        load_embedder(blind, "mine", CPU, torch.float32, decoder)


def test_the_type_in_which_an_encoder_is_stored_does_not_count(tmp_path: Path) -> None:
    """A training begins with what is stored in bf16 and stores fp32: the same values."""
    embedder = make_hybrid_model(tmp_path / "embedder")
    AutoencoderOneDVA.from_pretrained(embedder).bfloat16().save_pretrained(tmp_path / "small")
    AutoencoderOneDVA.from_pretrained(tmp_path / "small").float().save_pretrained(tmp_path / "large")
    small, large = (encoder_hash(str(tmp_path / name)) for name in ("small", "large"))
    assert small == large != encoder_hash(embedder)
