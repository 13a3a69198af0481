"""Generators as predictors in post-training: each sample with its own class or caption."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tiny_generator import CLASSES, HYBRID, awake, condition_of, latents_of, make_batch
from tiny_latents import CPU, make_corpus, make_hybrid_model, make_shards
from tiny_text import make_t5
from torch import Tensor

from regen.data.catalog import Collection, open_collection
from regen.embedders.one_dva import AutoencoderOneDVA
from regen.generate.generator import LatentGenerator
from regen.generate.predictor import GeneratorPredictor, load_predictor
from regen.generate.text import TextEncoderSpec, find_text_encoder
from regen.pretrained.models import encoder_hash, weights_hash
from regen.runtime import generator_for
from regen.train.distributed import DistributedContext

ALONE = DistributedContext(CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder, two with another decoder or encoder, and a generator of its latents."""
    folder = tmp_path_factory.mktemp("predictor")
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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six media with classes and captions, but for one."""
    corpus = make_corpus(tmp_path_factory.mktemp("media") / "corpus")
    for number, name in enumerate(("a", "b", "c", "d", "more/a")):
        (corpus / f"{name}.cls").write_text(str(number % len(CLASSES)))
        (corpus / f"{name}.txt").write_text(("a red ball", "the cat sits")[number % 2])
    return corpus


@pytest.fixture(params=["files", "shards"])
def collection(request: pytest.FixtureRequest, corpus: Path, tmp_path: Path) -> Collection:
    """The same media as files, or as shards."""
    place = corpus if request.param == "files" else make_shards(corpus, tmp_path / "shards", 4)
    return open_collection([str(place)], None)


def names_of(collection: Collection) -> list[str]:
    """The first letter of each medium's name, and whether it is in the folder below."""
    names = [catalog.name(index) for catalog, index in map(collection.find, range(len(collection.columns)))]
    return [Path(name).name[0] for name in names]


def predictor(kind: str, **changes: object) -> GeneratorPredictor:
    return GeneratorPredictor(awake(kind, **changes), "mine", ALONE)


@pytest.mark.parametrize("kind", ["hybrid class", "hybrid text", "none"])
def test_the_prediction_follows_the_conditional_velocity(kind: str) -> None:
    """ẑ_0 = z_t - t v, with the condition of each sample, none of which is dropped."""
    predict, clean, condition = predictor(kind, condition_dropout=1.0), latents_of(kind), condition_of(kind)
    model = predict.model
    calls, velocity = [], model.velocity
    model.velocity = lambda *arguments: calls.append(arguments) or velocity(*arguments)  # type: ignore
    t, batch = torch.tensor([0.3, 0.5]), make_batch(clean, condition)
    with torch.no_grad():
        predicted = predict(clean, t, [generator_for(0), generator_for(1)], batch)
        expected = velocity(*calls[0])
    noisy, _, seen = calls[0]
    for name, value in vars(condition).items():
        assert getattr(seen, name) is value
    for x, v, z in zip(noisy.parts, expected.parts, predicted.parts, strict=True):
        torch.testing.assert_close(z, x - t.reshape(-1, *[1] * (x.ndim - 1)) * v)
    assert not torch.equal(predicted.grid, clean.grid)


def test_classes_are_those_of_the_samples(collection: Collection, tmp_path: Path) -> None:
    conditions = predictor("hybrid class").conditions(collection, tmp_path / "captions")
    assert conditions is not None and not (tmp_path / "captions").exists()
    names = names_of(collection)
    expected = {"b": [1], "c": [2], "d": [0], "e": [-1], "a": [0, 1]}
    for number, name in enumerate(names):
        assert conditions([number])["label"].tolist()[0] in expected[name]
    order = [3, 0, 3, 5]
    together = conditions(order)["label"]
    assert together.tolist() == [int(conditions([number])["label"]) for number in order]


def test_captions_are_embedded_once_by_the_generators_encoder(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_text_encoder(make_t5(tmp_path / "t5"))
    stored = {"name": spec.name, "fingerprint": spec.fingerprint, "max_tokens": spec.max_tokens}
    predict = predictor("hybrid text", text_width=32, text_encoder=stored)
    conditions = predict.conditions(collection, tmp_path / "run" / "captions")
    assert conditions is not None
    encoder = spec.load(CPU)
    texts = {"b": "the cat sits", "c": "a red ball", "d": "the cat sits", "e": ""}
    for number, name in enumerate(names_of(collection)):
        if name == "a":
            continue
        batch: Mapping[str, Tensor] = conditions([number, 0])
        expected = encoder([texts[name]]).states[0].bfloat16()
        found = batch["text"][0][batch["text_mask"][0]]
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-5)
    clean = latents_of("hybrid text")
    generators = [generator_for(0), generator_for(1)]
    predicted = predict(clean, torch.tensor([0.3, 0.5]), generators, conditions([0, 1]))
    assert predicted.is_finite()
    monkeypatch.setattr(TextEncoderSpec, "load", None)
    assert predict.conditions(collection, tmp_path / "run" / "captions") is not None


def test_an_unconditional_generator_needs_no_conditions(collection: Collection, tmp_path: Path) -> None:
    assert predictor("none").conditions(collection, tmp_path) is None


def test_missing_and_unknown_conditions(
    collection: Collection, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    predictor("hybrid class").conditions(collection, tmp_path)
    assert "1 of 6 samples have no class" in capfd.readouterr().err
    with pytest.raises(ValueError, match="below the 2 of mine, got 2"):
        predictor("hybrid class", classes=CLASSES[:2]).conditions(collection, tmp_path)
    bare = open_collection([str(corpus / "e.png")], None)
    with pytest.raises(ValueError, match=r"takes a class, and no sample has one; add NAME.cls"):
        predictor("hybrid class").conditions(bare, tmp_path)


def test_a_predictor_makes_the_latents_of_the_initial_model(folder: Path) -> None:
    generator = str(folder / "generator")
    for initial in ("embedder", "other-decoder"):
        assert isinstance(load_predictor(generator, str(folder / initial), ALONE).model, LatentGenerator)
    for initial in (str(folder / "other-encoder"), None):
        with pytest.raises(ValueError, match="--init.model"):
            load_predictor(generator, initial, ALONE)
    with pytest.raises(ValueError, match="is an embedder"):
        load_predictor(str(folder / "embedder"), str(folder / "embedder"), ALONE)
