"""Captions embedded beside the latents: once, for the samples in their order, and safely."""

import pickle
from pathlib import Path

import pytest
import torch
from tiny_latents import CPU, export, make_corpus, make_model, make_shards
from tiny_text import make_t5

from regen.corpus.dataset import LatentDataset
from regen.generate.captions import CaptionStates, caption_path, embed_captions
from regen.generate.text import TextEncoderSpec, find_text_encoder

CAPTIONS = {"b": "the cat sits on the mat", "c": "a red ball", "d": "the cat sits on the mat"}


@pytest.fixture(scope="module")
def latents(tmp_path_factory) -> Path:
    """Latents in two shards; one sample of the second has a caption, some of the first the same one."""
    place = tmp_path_factory.mktemp("captions")
    corpus = make_corpus(place / "corpus")
    for name, caption in CAPTIONS.items():
        (corpus / f"{name}.txt").write_text(caption)
    (corpus / "more" / "a.txt").write_text("a green ball " * 20)
    return export(make_model(place / "model"), make_shards(corpus, place / "shards", 4), place / "latents")


@pytest.fixture
def dataset(latents, tmp_path) -> LatentDataset:
    (tmp_path / "latents").mkdir()
    for path in latents.iterdir():
        if path.is_file():
            (tmp_path / "latents" / path.name).write_bytes(path.read_bytes())
    return LatentDataset(tmp_path / "latents")


@pytest.fixture
def source(tmp_path) -> TextEncoderSpec:
    return find_text_encoder(make_t5(tmp_path / "t5"))


def written(dataset: LatentDataset) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in dataset.folder.glob("*.text-*")}


def test_states_are_those_of_the_encoder(dataset, source):
    embed_captions(dataset, source, CPU)
    states, encoder = CaptionStates(dataset, source.fingerprint), source.load(CPU)
    assert len(states) == len(dataset) == 6
    assert states.width == encoder.width
    assert states.longest == source.max_tokens == max(states.lengths)
    for number in range(len(dataset)):
        caption = dataset.info(number).caption
        found, wanted = states.states(number), encoder([caption])
        assert found.shape == (states.lengths[number], encoder.width)
        assert (len(found) == 0) == (caption == "")
        torch.testing.assert_close(found, wanted.states[0].bfloat16(), rtol=1e-2, atol=1e-5)
        assert found.equal(pickle.loads(pickle.dumps(states)).states(number)), "as in another process"
    assert 0 in states.lengths


def test_captions_are_embedded_once(dataset, source, monkeypatch):
    progress: list[tuple[int, int]] = []
    embed_captions(dataset, source, CPU, on_progress=lambda done, total: progress.append((done, total)))
    assert progress[-1] == (4, 4)  # five captions, of which a shard has one twice
    before = written(dataset)
    assert len(before) == 2
    with monkeypatch.context() as patch:
        patch.setattr(TextEncoderSpec, "load", None)
        embed_captions(dataset, source, CPU, on_progress=lambda *_: pytest.fail("nothing is left to do"))
    assert written(dataset) == before
    first = next(iter(before))
    first.unlink()
    embed_captions(dataset, source, CPU)
    after = written(dataset)
    assert [path for path in before if after[path] != before[path]] == [first]
    assert not list(dataset.folder.glob(".*.tmp"))


def test_another_encoder_has_files_of_its_own(dataset, source):
    embed_captions(dataset, source, CPU)
    shorter = find_text_encoder(source.name, 8)
    with pytest.raises(ValueError, match=f"of 2 of 2 shards in .* not embedded .*{shorter.fingerprint}"):
        CaptionStates(dataset, shorter.fingerprint)
    embed_captions(dataset, shorter, CPU)
    assert CaptionStates(dataset, shorter.fingerprint).longest == 8
    assert CaptionStates(dataset, source.fingerprint).longest == source.max_tokens


def test_damaged_files_raise_and_are_made_again(dataset, source):
    embed_captions(dataset, source, CPU)
    path = caption_path(dataset.folder, dataset.manifest.shards[0].name, source.fingerprint)
    whole, states = path.read_bytes(), CaptionStates(dataset, source.fingerprint)
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="can't be used"):
        CaptionStates(dataset, source.fingerprint)
    with pytest.raises(ValueError, match="can't be used"):
        states.states(0)
    embed_captions(dataset, source, CPU)
    assert path.read_bytes() == whole


def test_other_captions_are_embedded_anew(dataset, source):
    embed_captions(dataset, source, CPU)
    name = dataset.manifest.shards[0].name
    rows = dataset.folder / f"{name}.json"
    rows.write_text(rows.read_text().replace("a red ball", "a green ball"))
    changed = LatentDataset(dataset.folder)
    with pytest.raises(ValueError, match="it is of other captions"):
        CaptionStates(changed, source.fingerprint)
    embed_captions(changed, source, CPU)
    assert CaptionStates(changed, source.fingerprint).longest == source.max_tokens
