"""Folders for the Hub: loaded by diffusers alone, with this package and without it; cards; failed uploads."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError
from tiny_evaluation import make_generator
from tiny_media import tiny_magvit2, tiny_onedva, tiny_regen

import regen
from regen import hub, names
from regen.embedders.linear import AutoencoderLinear
from regen.generate.load import load_video_generator
from regen.names import WEIGHTS

EMBEDDERS = {
    "AutoencoderRegen": tiny_regen,
    "AutoencoderMagvit2": tiny_magvit2,
    "AutoencoderOneDVA": tiny_onedva,
    "AutoencoderLinear": lambda: AutoencoderLinear(2, 4),
}
CARD = "---\nlicense: mit\nbase_model: me/first\ntags: [mine]\n---\n# Mine\n\nMy model.\n\n## Data\n\nclips\n"
# Packages of this project that diffusers doesn't need; None hides one from all imports.
HIDDEN = ("regen", "av", "rich", "torchmetrics", "tyro")
LOADED_BY_DIFFUSERS = """
import json, sys
sys.modules.update(dict.fromkeys({hidden}))
import torch
from diffusers import AutoModel, DiffusionPipeline
found = {{}}
for folder in {folders}:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    clip = torch.linspace(-1, 1, 3 * model.chunk_frames * 32 * 32).reshape(1, 3, model.chunk_frames, 32, 32)
    latents = model.encode(clip).latent_dist.mode()
    found[folder] = [type(model).__name__, float(model.decode(latents).sample.double().sum())]
for folder in {pipelines}:
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    frames = pipeline(
        "a red ball", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(1)
    ).frames
    found[folder] = [type(pipeline).__name__, float(frames.double().sum())]
    for part in ("generator", "vae", "text_encoder"):
        model = AutoModel.from_pretrained(folder, subfolder=part, trust_remote_code=True)
        loaded = pipeline.components[part]
        assert type(model).__name__ == type(loaded).__name__, part
        assert all(map(torch.equal, model.state_dict().values(), loaded.state_dict().values())), part
print(json.dumps([found, "regen" in sys.modules and sys.modules["regen"] is not None]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A tiny model of each class with a card, and a generator with its parts."""
    folder = tmp_path_factory.mktemp("models")
    for name, build in EMBEDDERS.items():
        build().save_pretrained(folder / name)
        (folder / name / "README.md").write_text(CARD)
    make_generator(folder / "made", "text")
    (folder / "made" / "generator" / "README.md").write_text(CARD)
    return folder


@pytest.mark.parametrize("self_contained", [False, True])
def test_diffusers_alone_loads_what_is_staged(models, tmp_path, self_contained):
    """In a process that imports diffusers; self-contained code works where this package can't be imported."""
    sources = {name: models / name for name in EMBEDDERS} | {"pipeline": models / "made" / "generator"}
    staged = {
        str(hub.stage(str(source), tmp_path / name, f"me/{name}", self_contained)): name
        for name, source in sources.items()
    }
    pipelines = [folder for folder, name in staged.items() if name == "pipeline"]
    embedders = [folder for folder in staged if folder not in pipelines]
    hidden = HIDDEN if self_contained else ()
    code = LOADED_BY_DIFFUSERS.format(hidden=hidden, folders=embedders, pipelines=pipelines)
    environment = {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(Path(regen.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "not expected" not in ran.stderr and "pip install" not in ran.stderr
    found, with_regen = json.loads(ran.stdout.splitlines()[-1])
    assert with_regen != self_contained
    for folder, (class_name, total) in found.items():
        name = staged[folder]
        assert class_name == ("RegenTextToVideoPipeline" if name == "pipeline" else name)
        assert total == pytest.approx(expected_total(models, name), rel=1e-4)


def expected_total(models: Path, name: str) -> float:
    """The same number as LOADED_BY_DIFFUSERS has, by this package."""
    if name == "pipeline":
        pipeline = regen.RegenTextToVideoPipeline.from_pretrained(models / "made" / "generator")
        generator = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": 2, "output_type": "pt", "generator": generator}
        return pipeline("a red ball", **options).frames.double().sum().item()
    model = getattr(regen, name).from_pretrained(models / name)
    frames = model.chunk_frames
    clip = torch.linspace(-1, 1, 3 * frames * 32 * 32).reshape(1, 3, frames, 32, 32)
    return model.decode(model.encode(clip).latent_dist.mode()).sample.double().sum().item()


def test_what_is_staged_is_also_loaded_by_this_package(models, tmp_path):
    """By folder and from a mirror, with equal weights; saved again it has no code."""
    hub.stage(str(models / "AutoencoderRegen"), tmp_path / "me" / "video", "me/video")
    hub.stage(str(models / "made" / "generator"), tmp_path / "me" / "world", "me/world", self_contained=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(names.MIRROR, tmp_path.as_uri())
        model = regen.AutoencoderRegen.from_pretrained("me/video")
        videos = load_video_generator("me/world", torch.device("cpu"), torch.float32)
        pipeline = regen.RegenTextToVideoPipeline.from_pretrained("me/world")
    assert videos.text_encoder is not None and type(pipeline.vae) is type(videos.embedder)
    first = regen.AutoencoderRegen.from_pretrained(models / "AutoencoderRegen").state_dict()
    assert all(torch.equal(value, first[name]) for name, value in model.state_dict().items())
    assert (tmp_path / "me" / "world" / "vae" / WEIGHTS).read_bytes() == (
        models / "made" / "embedder" / WEIGHTS
    ).read_bytes()
    model.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())
    hub.stage(str(tmp_path / "me" / "world"), tmp_path / "twice", "me/twice")
    assert regen.RegenTextToVideoPipeline.from_pretrained(tmp_path / "twice").tokenizer is not None


def test_code_is_added_to_a_saved_pipeline(models, tmp_path):
    pipeline = regen.RegenTextToVideoPipeline.from_pretrained(models / "made" / "generator")
    pipeline.save_pretrained(tmp_path / "saved")
    hub.write_code(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "RegenTextToVideoPipeline"]
    assert index["vae"] == ["part", "AutoencoderRegen"]
    assert (tmp_path / "saved" / "vae" / "part.py").is_file()
    assert regen.RegenTextToVideoPipeline.from_pretrained(tmp_path / "saved").vae is not None


def test_the_card_is_that_of_the_model_with_metadata_and_usage_of_the_repository(models, tmp_path):
    source = str(models / "AutoencoderRegen")
    card = ModelCard.load(hub.stage(source, tmp_path / "one", "me/video") / "README.md")
    assert (card.data.library_name, card.data.license, card.data.base_model) == ("regen", "mit", "me/first")
    assert card.data.pipeline_tag == "video-to-video" and card.data.tags == ["mine"]
    assert (
        card.text.index("My model")
        < card.text.index('from_pretrained("me/video")')
        < card.text.index("## Data")
    )
    again = ModelCard.load(
        hub.stage(str(tmp_path / "one"), tmp_path / "two", "you/other", license="cc0-1.0") / "README.md"
    )
    assert 'from_pretrained("you/other")' in again.text and "me/video" not in again.text
    assert again.data.license == "cc0-1.0" and again.text.count("<!-- usage -->") == 1


@pytest.mark.parametrize(
    ("source", "repository", "message"),
    [
        ("AutoencoderRegen", "video", "must be owner/name"),
        ("AutoencoderRegen", "me/a b", "must be owner/name"),
        ("AutoencoderRegen", "me/video/part", "must be owner/name"),
        ("nothing", "me/video", "There is no model .*nothing"),
        ("without", "me/video", "has no licence.*--license"),
    ],
)
def test_what_can_not_be_published_is_one_sentence(models, tmp_path, source, repository, message):
    if source == "without":
        tiny_regen().save_pretrained(models / source)
    with pytest.raises(ValueError, match=message) as caught:
        hub.stage(str(models / source), tmp_path / "out", repository)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_folder_in_use_is_kept(models, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be an empty or new folder"):
        hub.stage(str(models / "AutoencoderRegen"), tmp_path, "me/video")


@pytest.fixture
def uploads(monkeypatch) -> list[dict]:
    """The uploads to a Hub that is always there."""
    made: list[dict] = []

    def create(repository: str, private: bool, exist_ok: bool) -> str:
        made.append({"repository": repository, "private": private})
        return f"https://hub/{repository}"

    def upload(repo_id: str, folder_path: Path, commit_message: str) -> None:
        made.append({"files": sorted(path.name for path in folder_path.iterdir())})

    monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(create_repo=create, upload_folder=upload))
    monkeypatch.setattr(hub, "get_token", lambda: "token")
    return made


def test_push_uploads_the_staged_folder(models, uploads):
    url = hub.push(str(models / "AutoencoderRegen"), "me/video", private=True)
    assert url == "https://hub/me/video"
    assert uploads[0] == {"repository": "me/video", "private": True}
    assert uploads[1]["files"] == ["README.md", "autoencoder_regen.py", "config.json", WEIGHTS]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no network"), "The Hub can't be reached"),
        (HfHubHTTPError.__new__(HfHubHTTPError), "The Hub refuses me/video"),
    ],
)
def test_failed_uploads_are_one_sentence(models, uploads, monkeypatch, error, message):
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(create_repo=fail))
    with pytest.raises(ValueError, match=message) as caught:
        hub.push(str(models / "AutoencoderRegen"), "me/video")
    assert "\n" not in str(caught.value)


def test_push_needs_a_token(models, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match=r"needs a token .*hf auth login"):
        hub.push(str(models / "AutoencoderRegen"), "me/video")
