"""Folders that hold no model or a damaged one: one plain sentence, by commands and in Python."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusers_models import wan
from tiny_media import tiny_regen

from regen import AutoencoderRegen, RegenDecoder, RegenTextToVideoPipeline
from regen.embedders.frozen_encoder import load_frozen_encoder
from regen.generate.load import load_video_generator
from regen.names import WEIGHTS
from regen.pretrained.models import load_embedder, weights_hash

CPU = torch.device("cpu"), torch.float32
NO_CONFIG, NO_CLASS, NO_WEIGHTS = (
    "it has no config.json",
    "its class|must be one of|has no model",
    "has no diff",
)
CUT, OTHER = "cut off, or not in safetensors", "another shape|larger model|do not match|no weights for"


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def changed(path: Path, change: Callable[[dict[str, Any], str], Any]) -> None:
    """Change the first of the tensors in a file."""
    tensors = load_file(path)
    change(tensors, min(tensors))
    save_file(tensors, path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty folder": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), NO_CONFIG),
    "no config": (lambda folder: (folder / "config.json").unlink(), NO_CONFIG),
    "empty config": (lambda folder: cut(folder / "config.json", 0), "not JSON|must be a JSON file"),
    "cut config": (lambda folder: cut(folder / "config.json", 40), "not JSON|must be a JSON file"),
    "config without fields": (lambda folder: (folder / "config.json").write_text("{}"), NO_CLASS),
    "config of another kind": (
        lambda folder: (folder / "config.json").write_text("[]"),
        NO_CLASS + "|object",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), NO_WEIGHTS),
    "empty weights": (lambda folder: cut(folder / WEIGHTS, 0), CUT),
    "cut header": (lambda folder: cut(folder / WEIGHTS, 20), CUT),
    "cut weights": (lambda folder: cut(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2), CUT),
    "a text": (lambda folder: (folder / WEIGHTS).write_text("a text, and no weights at all\n"), CUT),
    "no tensors": (lambda folder: save_file({}, folder / WEIGHTS), OTHER),
    "a missing tensor": (
        lambda folder: changed(folder / WEIGHTS, lambda tensors, name: tensors.pop(name)),
        OTHER,
    ),
    "a wrong shape": (
        lambda folder: changed(folder / WEIGHTS, lambda tensors, name: tensors.update({name: torch.ones(3)})),
        OTHER,
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_regen().save_pretrained(folder / "regen")
    wan().save_pretrained(folder / "wan")
    return folder


def refused(load: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load()
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 400, text
    assert text.count("is damaged") <= 1, text
    for jargon in ("deserializing", "Expecting value", "torch.Size", "Error no file", "low_cpu_mem"):
        assert jargon not in text.replace("can't be parsed: Expecting value", ""), text


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models_are_refused_in_one_sentence(models: Path, tmp_path: Path, damage: str) -> None:
    destroy, words = DAMAGES[damage]
    for model in ("regen", "wan"):
        folder = shutil.copytree(models / model, tmp_path / model)
        destroy(folder)
        name = str(folder)
        refused(lambda name=name: load_embedder(name, *CPU), words)
        refused(lambda name=name: load_frozen_encoder(name, *CPU), words + "|no autoencoder")
    name = str(tmp_path / "regen")
    refused(lambda: AutoencoderRegen.from_pretrained(name), words)
    refused(lambda: load_video_generator(name, *CPU), words + "|no generator|is an embedder")
    if words in (NO_CONFIG, CUT):
        refused(lambda: weights_hash(name), words)
    if damage == "empty folder":
        refused(lambda: RegenDecoder.from_pretrained(name), words)
        refused(lambda: RegenTextToVideoPipeline.from_pretrained(name), "it has no model_index.json")


def test_no_model_gets_random_weights(models: Path, tmp_path: Path) -> None:
    """Where a tensor has another shape on purpose, the rest is loaded, as diffusers does."""
    folder = shutil.copytree(models / "regen", tmp_path / "regen")
    changed(folder / WEIGHTS, lambda tensors, name: tensors.pop(name))
    refused(lambda: AutoencoderRegen.from_pretrained(folder), "no weights for 1 tensors, such as")
    assert AutoencoderRegen.from_pretrained(folder, ignore_mismatched_sizes=True) is not None
    model, info = AutoencoderRegen.from_pretrained(models / "regen", output_loading_info=True)
    assert not info["missing_keys"] and model.state_dict().keys() == tiny_regen().state_dict().keys()


def test_wrong_options_are_not_called_damage(models: Path) -> None:
    with pytest.raises(ValueError, match="device_map") as caught:
        AutoencoderRegen.from_pretrained(models / "regen", device_map="nonsense")
    assert "damaged" not in str(caught.value)
    assert json.loads((models / "regen" / "config.json").read_text())["_class_name"] == "AutoencoderRegen"
