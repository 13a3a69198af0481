"""Model cards: what a run knows, with metadata as the Hub reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from tiny_generator import PLAIN, awake
from tiny_media import tiny_magvit2, tiny_onedva, tiny_regen

from regen.embedders.linear import AutoencoderLinear
from regen.train.card import PAPERS, CardOptions, card_metadata, model_card, read_card, usage
from regen.train.distributed import DistributedContext

CPU = DistributedContext(torch.device("cpu"))
MODELS: dict[str, Any] = {
    "AutoencoderRegen": tiny_regen,
    "AutoencoderMagvit2": tiny_magvit2,
    "AutoencoderOneDVA": tiny_onedva,
    "AutoencoderLinear": lambda: AutoencoderLinear(2, 4),
    "LatentGenerator": lambda: awake("class"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 40 updates in half an hour, with an evaluation."""
    folder = tmp_path / "first"
    folder.mkdir()
    config = {"loop": {"steps": 40}, "files": 12, "fingerprint": "0123456789abcdef"}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {"step": 20, "loss": 0.5, "seconds": 900.0},
        {"step": 40, "loss": 0.4, "seconds": 1800.0},
        {"step": 40, "evaluation/psnr": 21.5, "seconds": 1810.0},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "LICENCES.md").write_text("All clips: CC0\n")
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_every_class_has_a_card_that_the_hub_reads(name, run, data):
    model = MODELS[name]()
    text = model_card(model, run, [data], CPU, CardOptions("cc0-1.0"))
    card = ModelCard(text)
    is_generator = name == "LatentGenerator"
    assert (card.data.library_name, card.data.license) == ("regen", "cc0-1.0")
    assert card.data.pipeline_tag == ("text-to-video" if is_generator else "video-to-video")
    assert {"regen", *PAPERS[name].tags} == set(card.data.tags)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("psnr", 21.5)
    paper = PAPERS[name].arxiv
    assert paper is None or f"https://arxiv.org/abs/{paper}" in text
    assert f"{sum(value.numel() for value in model.parameters()):,} parameters" in text


def test_a_card_has_command_hardware_time_data_and_licences(run, data):
    options = CardOptions(command=("regen", "train", "toy", "--data", str(data), "--out", "first run"))
    text = model_card(tiny_regen(), run, [data, "ucf101:/sets/UCF-101"], CPU, options, "regen-small-8x")
    assert "    regen train toy --data clips --out 'first run'\n" in text
    hours = 1810 / 3600 * torch.get_num_threads()
    assert f"40 updates, 30.2 minutes ({hours:.2g} core-hours) on {torch.get_num_threads()} thread" in text
    assert "12 files" in text and "- clips" in text and "- UCF-101" in text and "> All clips: CC0" in text
    assert "Configuration 0123456789abcdef" in text and str(data.parent) not in text
    metadata = ModelCard(text).data
    assert metadata.license is None and metadata.base_model == "regen-video/regen-small-8x"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("owner/name", "owner/name"), ("/home/me/run", None), ("runs/a/model", None), (None, None)],
)
def test_the_base_model_is_entered_if_others_can_get_it(name, expected):
    assert card_metadata("AutoencoderRegen", "mine", None, name).base_model == expected


def test_runs_without_evaluation_or_times(run, data):
    (run / "log.jsonl").write_text('{"step": 3, "loss": 1.0}\n')
    card = ModelCard(model_card(tiny_regen(), run, [data], CPU, CardOptions()))
    assert card.data.eval_results is None and "Not evaluated" in card.text


def test_generators_name_their_embedder_and_condition(run, data):
    for kind, words in (("class", "from classes"), ("text", "from texts"), ("none", "from noise alone")):
        model = awake(kind, latent_spec=PLAIN | {"embedder": "regen-small-4x"})
        text = model_card(model, run, [data], CPU, CardOptions(), "regen-small-4x")
        assert f"latents of regen-small-4x {words}" in text
        assert "base_model: regen-video/regen-small-4x" in text


def test_usage_of_a_repository_also_shows_diffusers_alone():
    for name, loader in (("AutoencoderRegen", "AutoModel"), ("LatentGenerator", "DiffusionPipeline")):
        here, published = usage(name, "mine"), usage(name, "me/mine", as_published=True)
        assert loader not in here and 'from_pretrained("mine")' in here
        assert f'{loader}.from_pretrained("me/mine", trust_remote_code=True)' in published


def test_cards_that_can_not_be_read(tmp_path):
    assert read_card(tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlicense: [unclosed\n---\n# x\n")
    with pytest.raises(ValueError, match="must begin with metadata in YAML") as caught:
        read_card(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "README.md").write_text("# x\nno metadata\n")
    assert read_card(tmp_path).data.license is None
