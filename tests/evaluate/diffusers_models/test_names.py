"""Names of models: our own, folders, pipelines, and repositories on the Hub."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from tiny_diffusers_models import ltx_2, ltx_2_diffusion_decoder, wan

from regen.embedders.linear import AutoencoderLinear
from regen.evaluate import diffusers_models
from regen.evaluate.diffusers_models import load_embedder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, and a pipeline with two decoders."""
    place = tmp_path_factory.mktemp("names")
    wan().save_pretrained(place / "wan")
    ltx_2().save_pretrained(place / "pipeline" / "vae")
    ltx_2_diffusion_decoder().save_pretrained(place / "pipeline" / "diffusion_decoder")
    return place


def test_own_models(tmp_path: Path) -> None:
    AutoencoderLinear(2, 4).save_pretrained(tmp_path / "run" / "model")
    assert isinstance(load_embedder(str(tmp_path / "run"), CPU, torch.float32), AutoencoderLinear)
    assert isinstance(load_embedder("linear-4x", CPU, torch.float32), AutoencoderLinear)
    with pytest.raises(ValueError, match="There is no model nothing"):
        load_embedder("nothing", CPU, torch.float32)
    with pytest.raises(ValueError, match="holds no model"):
        load_embedder(str(tmp_path), CPU, torch.float32)


def test_damaged_and_unknown_models(folder: Path, tmp_path: Path) -> None:
    def error() -> str:
        with pytest.raises(ValueError, match="model") as caught:
            load_embedder(str(tmp_path / "model"), CPU, torch.float32)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    shutil.copytree(folder / "wan", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    stored = json.loads(config.read_text())
    config.write_text(json.dumps(stored | {"_class_name": "AutoencoderKLFlux2"}))
    assert "got AutoencoderKLFlux2" in error() and "AutoencoderRegen" in error() and "Mochi" in error()
    config.write_text(json.dumps(stored | {"base_dim": 8}))
    assert "can't be loaded" in error()
    config.write_text("{")
    assert "can't be loaded" in error()
    config.write_text(json.dumps(stored))
    (tmp_path / "model" / "diffusion_pytorch_model.safetensors").unlink()
    assert "can't be loaded" in error()
    shutil.copytree(folder / "pipeline" / "diffusion_decoder", tmp_path / "alone" / "diffusion_decoder")
    with pytest.raises(ValueError, match="needs an AutoencoderKLLTX2Video"):
        load_embedder(str(tmp_path / "alone" / "diffusion_decoder"), CPU, torch.float32)


def test_hub_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration alone is fetched until the class is known; then only the folder of the model."""
    fetched = []

    def fetch(repository: str, file: str) -> str:
        fetched.append(f"{repository}/{file}")
        if not (folder / "pipeline" / file).is_file():
            raise EntryNotFoundError("none")
        return str(folder / "pipeline" / file)

    monkeypatch.setattr(diffusers_models, "hf_hub_download", fetch)
    place = diffusers_models._find("some/pipeline")
    assert str(place) == "some/pipeline/vae" and place.class_name == "AutoencoderKLLTX2Video"
    assert fetched == ["some/pipeline/config.json", "some/pipeline/vae/config.json"]
    decoder = diffusers_models._find("some/pipeline/diffusion_decoder")
    assert decoder.class_name == "LTX2VideoDiffusionDecoderModel"
    with pytest.raises(ValueError, match="no config.json in unet"):
        load_embedder("some/pipeline/unet", CPU, torch.float32)


@pytest.mark.parametrize(
    ("problem", "words"),
    [(LocalEntryNotFoundError("offline"), "unreachable"), (OSError("401"), "neither a local folder")],
)
def test_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, problem: Exception, words: str) -> None:
    def fail(repository: str, file: str) -> str:
        raise problem

    monkeypatch.setattr(diffusers_models, "hf_hub_download", fail)
    with pytest.raises(ValueError, match=words):
        load_embedder("some/model", CPU, torch.float32)
