"""The model in the package: small enough, with its card, and above a floor on an unseen clip."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from regen.codec.sessions import decode_chunks, encode_frames
from regen.io import file_sha256, read_json
from regen.media.pixels import parse_size, resize_center_crop
from regen.media.reader import VideoReader
from regen.metrics.psnr_ssim import Psnr
from regen.names import WEIGHTS, published_models
from regen.pretrained.listing import DEFAULT_MODEL, available, available_generators, find_model
from regen.pretrained.models import CLASSES, load
from regen.train.card import USAGE

ROOT = Path(__file__).parents[2]
NAMES = [model.name for model in available()]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_cards(name: str) -> None:
    folder = find_model(name)
    megabytes = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    assert megabytes <= (32 if name == DEFAULT_MODEL else 12)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("license: apache-2.0", "## Data", "## Results", "--data", "minutes"):
        assert part in card, part
    metadata = ModelCard(card).data
    assert (metadata.library_name, metadata.pipeline_tag) == ("regen", "video-to-video")
    assert f'from_pretrained("{name}")' in card and USAGE.search(card)


@pytest.mark.parametrize("name", NAMES)
def test_no_config_names_a_folder_of_the_machine_that_wrote_it(name: str) -> None:
    config = read_json(find_model(name) / "config.json")
    assert not Path(config.get("_name_or_path", "")).is_absolute()


def test_the_default_is_in_the_package() -> None:
    assert DEFAULT_MODEL in NAMES
    assert find_model(DEFAULT_MODEL).parent.name == "pretrained"


def test_the_manifest_has_the_checksums_of_all_models() -> None:
    """After a model was added or changed: python tools/manifest.py."""
    published = published_models()
    stored = [*NAMES, *(model.name for model in available_generators())]
    assert sorted(published) == sorted(stored)
    for name in stored:
        weights = find_model(name) / WEIGHTS
        assert published[name].size == weights.stat().st_size
        assert published[name].sha256 == file_sha256(weights), name
        assert published[name].class_name == read_json(find_model(name) / "config.json")["_class_name"]
        assert published[name].kind == ("embedder" if name in NAMES else "generator")


def psnr(name: str) -> float:
    """One-step PSNR of the middle of the example clip, 128 x 128 pixels, two chunks."""
    model = load(name, torch.device("cpu"), torch.float32)
    assert type(model) in CLASSES.values()
    size, measure = parse_size("128"), Psnr()
    with VideoReader(ROOT / "examples" / "butterfly.mp4") as reader:
        frames = [resize_center_crop(frame.image, size) for frame in islice(reader, 30, 40)]
    again = list(decode_chunks(model, encode_frames(model, frames), height=128, width=128))
    measure.update(torch.stack(frames), torch.stack(again))
    return measure.compute()


def test_it_reconstructs_a_clip_that_it_was_not_trained_on() -> None:
    assert psnr(DEFAULT_MODEL) > 26
