"""Names that lead nowhere, without a network: one sentence at once, and no waiting for the Hub."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants

from regen import AutoencoderRegen, LatentGenerator, RegenDecoder, RegenTextToVideoPipeline
from regen.embedders.frozen_encoder import load_frozen_encoder
from regen.generate.load import find_generator, load_video_generator
from regen.generate.text import find_text_encoder
from regen.hub import stage
from regen.pretrained.listing import find_model
from regen.pretrained.models import load_embedder, weights_hash

CPU = torch.device("cpu"), torch.float32
RESOLVERS: dict[str, Callable[[str], Any]] = {
    "find_model": find_model,
    "find_generator": find_generator,
    "find_text_encoder": find_text_encoder,
    "load_embedder": lambda name: load_embedder(name, *CPU),
    "load_frozen_encoder": lambda name: load_frozen_encoder(name, *CPU),
    "load_video_generator": lambda name: load_video_generator(name, *CPU),
    "weights_hash": weights_hash,
    "stage": lambda name: stage(name, Path("out"), "owner/name"),
    "AutoencoderRegen": AutoencoderRegen.from_pretrained,
    "RegenDecoder": RegenDecoder.from_pretrained,
    "LatentGenerator": LatentGenerator.from_pretrained,
    "RegenTextToVideoPipeline": RegenTextToVideoPipeline.from_pretrained,
}
NAMES = (
    *("a/b", "a/b@main", "a/b/c", "a/b/c/d", "diffusers:a/b", "diffusers:a/b/c", "a/b:c", "diffusers:"),
    *("", " ", "a", "a/", "/a", "/a/b", "a//b", "./a/b", "../a/b", "~/a/b", "a b/c", "a/b?", "-/-", "a--b/c"),
)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The Hub refuses all connections; whoever waits before another attempt fails."""

    def refuse(seconds: float) -> None:
        raise AssertionError(f"waits for {seconds} s")

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", refuse)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    close_session()
    yield
    close_session()


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_names_that_lead_nowhere_are_one_sentence_at_once(resolver: str) -> None:
    for name in NAMES:
        with pytest.raises(ValueError, match=r"\.$") as caught:
            RESOLVERS[resolver](name)
        text = str(caught.value)
        assert len(text) < 300 and "\n" not in text and text.count(". ") == 0, (name, text)
        assert name.strip() == "" or name.split("/")[-1].split(":")[-1].split("@")[0] in text, (name, text)


def test_an_empty_name_is_no_folder() -> None:
    Path("model").mkdir()
    Path("model", "config.json").write_text('{"_class_name": "AutoencoderRegen"}')
    for resolve in RESOLVERS.values():
        with pytest.raises(ValueError, match="must not be empty"):
            resolve("")
