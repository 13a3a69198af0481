"""Model names: where they are looked for, what is loaded, and what a damaged folder leads to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from movies import truncate

from regen import names
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.regen import AutoencoderRegen
from regen.generate.generator import LatentGenerator
from regen.pretrained.listing import available, available_generators, find_model
from regen.pretrained.models import load, weights_hash

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model in each place: linear-2x bundled, linear-4x in checkpoints/, tiny in a folder."""
    monkeypatch.setattr(names, "BUNDLED", tmp_path / "bundled")
    monkeypatch.setattr(names, "CHECKPOINTS", tmp_path / "checkpoints")
    AutoencoderLinear(2, 4).save_pretrained(tmp_path / "bundled" / "linear-2x")
    AutoencoderLinear(4, 4).save_pretrained(tmp_path / "checkpoints" / "linear-4x")
    monkeypatch.chdir(tmp_path)
    tiny().save_pretrained(tmp_path / "tiny")


def tiny() -> AutoencoderRegen:
    return AutoencoderRegen(
        latent_channels=4, encoder_widths=(8, 8, 8, 8), encoder_blocks=1, width=32, depth=1, heads=2,
        siren_width=16,
    )  # fmt: skip


def test_every_place_is_found_in_order(tmp_path: Path) -> None:
    assert find_model("linear-4x") == tmp_path / "checkpoints" / "linear-4x"
    assert find_model("tiny").resolve() == tmp_path / "tiny"
    shutil.copytree("tiny", tmp_path / "checkpoints" / "linear-2x")
    assert find_model("linear-2x") == tmp_path / "bundled" / "linear-2x"


def test_available_models_are_described_without_loading() -> None:
    bundled, checkpoint = available()
    assert (bundled.name, bundled.where, bundled.ratio, bundled.latent_channels) == (
        "linear-2x", "in the package", 2, 4,
    )  # fmt: skip
    assert (checkpoint.name, checkpoint.where, checkpoint.ratio) == ("linear-4x", "checkpoints/", 4)
    tensors = AutoencoderLinear(2, 4).state_dict().values()
    assert bundled.parameters == sum(tensor.numel() for tensor in tensors)
    assert bundled.megabytes == pytest.approx(4e-6 * bundled.parameters, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_load_gives_the_class_weights_and_precision(dtype: torch.dtype) -> None:
    model = load("tiny", CPU, dtype)
    assert isinstance(model, AutoencoderRegen)
    assert model.dtype == dtype and not model.training
    stored = AutoencoderRegen.from_pretrained("tiny").state_dict()
    for name, value in model.state_dict().items():
        expected = torch.float32 if ".siren." in name else dtype
        assert torch.equal(value, stored[name].to(expected)), name
    assert isinstance(load("linear-4x", CPU, dtype), AutoencoderLinear)


def test_hash_belongs_to_the_weights_alone(tmp_path: Path) -> None:
    first = weights_hash("tiny")
    assert len(first) == 16
    shutil.copytree("tiny", "copy")
    assert weights_hash("copy") == first
    AutoencoderRegen.from_pretrained("tiny").save_pretrained("shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert weights_hash("shards") == first
    torch.manual_seed(9)
    tiny().save_pretrained("other")
    assert weights_hash("other") != first


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", "../nothing", "checkpoints"])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    empty = name == "checkpoints"  # a folder without a model
    message = "holds no model" if empty else r"There is no model .*linear-2x, linear-4x"
    with pytest.raises(ValueError, match=message):
        find_model(name)


def test_hub_models_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "snapshot_download", lambda name, **patterns: str(tmp_path / "tiny"))
    assert isinstance(load("owner/name", CPU, torch.float32), AutoencoderRegen)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("offline"), "could not be reached"),
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "has none of this name"),
    ],
)
def test_failed_download_is_one_sentence(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, **patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr(names, "snapshot_download", fail)
    with pytest.raises(ValueError, match=message):
        find_model("owner/name")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "truncated": lambda folder: truncate(folder / WEIGHTS, 0.9),
    "no tensors": lambda folder: (folder / WEIGHTS).write_text("not tensors"),
    "bad JSON": lambda folder: (folder / "config.json").write_text("{"),
    "a JSON list": lambda folder: (folder / "config.json").write_text("[]"),
    "another width": lambda folder: change_config(folder, width=64),
    "another depth": lambda folder: change_config(folder, depth=2),
    "too few stages": lambda folder: change_config(folder, encoder_widths=[8, 8]),
    "a wrong type": lambda folder: change_config(folder, width="wide"),
}


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_models_are_one_sentence(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    damage(tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"tiny is damaged \(.*\); .*\.$") as caught:
        load("tiny", CPU, torch.float32)
    assert "\n" not in str(caught.value)


def test_class_that_is_not_ours(tmp_path: Path) -> None:
    change_config(tmp_path / "tiny", _class_name="AutoencoderKL")
    with pytest.raises(ValueError, match="must be one of .*, got AutoencoderKL"):
        load("tiny", CPU, torch.float32)


def test_a_run_is_found_once_it_is_finished(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text('{"model": {}}')
    with pytest.raises(ValueError, match="has no model yet"):
        load(str(tmp_path / "run"), CPU, torch.float32)
    tiny().save_pretrained(tmp_path / "run" / "model")
    assert find_model(str(tmp_path / "run")) == find_model("run").resolve() == tmp_path / "run" / "model"


def test_generators_are_described_apart_from_embedders(tmp_path: Path) -> None:
    before = available()
    source = {"embedder": "linear-4x", "channels": 4}
    for name, place, condition in (
        ("of-classes", "bundled", {"classes": ["cat", "dog"]}),
        ("of-text", "checkpoints", {"text_width": 6}),
        ("of-nothing", "checkpoints", {}),
    ):
        model = LatentGenerator(8, 1, 1, latent_spec=source, **condition)
        model.save_pretrained(tmp_path / place / name)
    assert available() == before
    found = {one.name: one for one in available_generators()}
    assert {name: (one.where, one.condition) for name, one in found.items()} == {
        "of-classes": ("in the package", "2 classes"),
        "of-text": ("checkpoints/", "text"),
        "of-nothing": ("checkpoints/", "nothing"),
    }
    last = found["of-nothing"]
    assert last.embedder == "linear-4x" and last.parameters == sum(p.numel() for p in model.parameters())
    assert last.megabytes == pytest.approx(4e-6 * last.parameters, rel=0.2)
    with pytest.raises(ValueError, match="of-text is a generator"):
        load("of-text", CPU, torch.float32)
    assert len(weights_hash("of-text")) == 16
