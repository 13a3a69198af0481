"""Names of models: every place in its order, the mirror, the cache, and one sentence where there is none."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from tiny_evaluation import make_generator
from tiny_generator import awake
from tiny_media import tiny_magvit2, tiny_onedva, tiny_regen

import regen
from regen import names
from regen.embedders.linear import AutoencoderLinear
from regen.generate.load import find_generator, load_video_generator
from regen.io import file_sha256, read_json, write_json
from regen.names import WEIGHTS, find_folder
from regen.pretrained.models import load, weights_hash

CPU, FP32 = torch.device("cpu"), torch.float32
MODELS: dict[str, Callable[[], Any]] = {
    "AutoencoderRegen": tiny_regen,
    "AutoencoderMagvit2": tiny_magvit2,
    "AutoencoderOneDVA": tiny_onedva,
    "AutoencoderLinear": lambda: AutoencoderLinear(2, 4),
    "LatentGenerator": lambda: awake("class"),
}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty places: package, checkout, two of $REGEN_MODELS, the working directory, a mirror, no Hub."""
    monkeypatch.setattr(names, "BUNDLED", tmp_path / "package")
    monkeypatch.setattr(names, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(names, "MANIFEST", tmp_path / "manifest.json")
    monkeypatch.setenv("REGEN_MODELS", f"{tmp_path / 'own'}{os.pathsep}{tmp_path / 'team'}")
    monkeypatch.setenv("REGEN_MIRROR", (tmp_path / "mirror").as_uri())
    monkeypatch.setattr(names, "snapshot_download", unreachable)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def unreachable(*_: object, **__: object) -> str:
    raise LocalEntryNotFoundError("no network")


def publish(folder: Path, name: str, place: Path, revision: str = "main") -> None:
    """Copy a model to the mirror and enter it into the manifest."""
    suffix = "" if revision == "main" else f"@{revision}"
    shutil.copytree(folder, place / "mirror" / "owner" / f"{name}{suffix}", dirs_exist_ok=True)
    weights = folder / WEIGHTS
    class_name = read_json(folder / "config.json")["_class_name"]
    entry = {
        "kind": "generator" if class_name == "LatentGenerator" else "embedder",
        "class_name": class_name,
        "repository": f"owner/{name}",
        "revision": revision,
        "sha256": file_sha256(weights),
        "size": weights.stat().st_size,
    }
    manifest = place / "manifest.json"
    before = read_json(manifest) if manifest.exists() else {}
    write_json(manifest, before | {name: entry})


def test_places_are_tried_in_order(places):
    publish(save(tiny_linear(), places / "model"), "tiny", places)
    found = [find_folder("tiny")]
    for place in ("here", "team", "own", "checkpoints", "package"):
        shutil.copytree(places / "model", places / place / "tiny")
        found.append(find_folder("tiny").resolve())
    order = ("mirror/owner", "here", "team", "own", "checkpoints", "package")
    assert found == [places / place / "tiny" for place in order]


def tiny_linear() -> AutoencoderLinear:
    return AutoencoderLinear(2, 4)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_every_class_is_loaded_by_name(name, places):
    """In a place without a path, published, and as a repository, with revision, subfolder and variant."""
    model_class, model = getattr(regen, name), MODELS[name]()
    folder = save(model, places / "own" / "mine")
    publish(folder, "public", places)
    publish(folder, "older", places, "v1")
    shutil.copytree(folder, places / "mirror" / "owner" / "many" / "part")
    model.half().save_pretrained(places / "mirror" / "owner" / "public", variant="fp16")
    hashes = {
        fingerprint(model_class.from_pretrained(found, **options))
        for found, options in (
            ("mine", {}),
            ("public", {}),
            ("owner/public", {}),
            ("older", {}),
            ("owner/older", {"revision": "v1"}),
            ("owner/older@v1", {}),
            ("owner/many", {"subfolder": "part"}),
        )
    }
    assert hashes == {fingerprint(model_class.from_pretrained(folder))}
    half = model_class.from_pretrained("owner/public", variant="fp16", torch_dtype=torch.float16)
    assert fingerprint(half) == fingerprint(model.half())


def fingerprint(model: torch.nn.Module) -> float:
    return sum(value.double().abs().sum().item() for value in model.state_dict().values())


def test_a_generator_finds_its_parts_by_name(places):
    """Embedder and text encoder by the names in the config of a generator that was itself found by name."""
    make_generator(places / "made", "text")
    for part in ("embedder", "generator"):
        publish(places / "made" / part, part, places)
    shutil.copytree(places / "made" / "text", places / "team" / "reader")
    config = places / "mirror" / "owner" / "generator" / "config.json"
    content = read_json(config)
    content["latent_spec"]["embedder"], content["text_encoder"]["name"] = "embedder", "reader"
    write_json(config, content)
    shutil.rmtree(places / "made")
    videos = load_video_generator("generator", CPU, FP32)
    assert videos.text_encoder is not None
    assert weights_hash("embedder") == content["latent_spec"]["weights_hash"]
    pipeline = regen.RegenTextToVideoPipeline.from_pretrained("generator", torch_dtype=torch.bfloat16)
    assert pipeline.vae.dtype == pipeline.generator.dtype == pipeline.text_encoder.dtype == torch.bfloat16


def test_the_cache_comes_before_the_hub(places, monkeypatch):
    """A published model in the cache needs no network; others try once, and the message says what to do."""
    folder = save(tiny_linear(), places / "cached")
    publish(folder, "tiny", places)
    monkeypatch.delenv("REGEN_MIRROR")
    calls = []

    def download(repository: str, revision: str | None, local_files_only: bool = False, **_: object) -> str:
        calls.append((repository, revision, local_files_only))
        return str(folder) if local_files_only else unreachable()

    monkeypatch.setattr(names, "snapshot_download", download)
    assert find_folder("tiny") == folder
    assert calls == [("owner/tiny", "main", True)]
    (folder / WEIGHTS).unlink()
    with pytest.raises(
        ValueError, match=r"could not be reached; put a folder tiny \(.* MB\) into .*REGEN_MODELS"
    ):
        find_folder("tiny")
    assert calls[1:] == [("owner/tiny", "main", True), ("owner/tiny", "main", False)]
    with pytest.raises(ValueError, match="could not be reached"):
        find_generator("tiny")


def test_weights_must_have_the_checksum_of_the_manifest(places):
    publish(save(tiny_linear(), places / "model"), "tiny", places)
    torch.manual_seed(9)
    other = tiny_linear()
    torch.nn.init.normal_(next(other.parameters()))
    other.save_pretrained(places / "mirror" / "owner" / "tiny")
    for use in (lambda: load("tiny", CPU, FP32), lambda: regen.AutoencoderLinear.from_pretrained("tiny")):
        with pytest.raises(ValueError, match="must have the SHA-256"):
            use()


@pytest.mark.parametrize(
    ("name", "mirror", "message"),
    [
        ("owner/none", "", "There is no model owner/none here, and the Hub could not be reached"),
        ("owner/none", "file:///nowhere", "no model owner/none in the mirror file:///nowhere"),
        ("owner/none@v2", "file:///nowhere", "no model owner/none@v2 in the mirror"),
        ("owner/none", "https://example.org", "must be the URL of a folder"),
        ("none", "", "There is no model none; give"),
        ("owner/none/part", "", "There is no model owner/none/part; give"),
    ],
)
def test_missing_models_are_one_sentence(name, mirror, message, monkeypatch):
    monkeypatch.setenv("REGEN_MIRROR", mirror)
    for use in (lambda: find_folder(name), lambda: regen.AutoencoderRegen.from_pretrained(name)):
        with pytest.raises(ValueError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_public_names():
    for name in regen.__all__:
        assert getattr(regen, name) is not None
    assert {"RegenTextToVideoPipeline", "LatentGenerator"} < {*dir(regen)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = regen.nothing
