"""Prompts unlike the captions of the training get a warning."""

import json
from pathlib import Path

import pytest

from regen.data.shape_world import EXAMPLE, VOCABULARY
from regen.generate.prompts import MAX_WORDS, caption_words, unusual_prompt

CONFIG = Path(__file__).parents[2] / "checkpoints" / "t2v-world" / "config.json"


def test_words_of_captions_are_kept_while_they_are_few():
    assert caption_words(["The cat, the dog.", "", "a cat"]) == ["a", "cat", "dog", "the"]
    assert caption_words(f"word{number}" for number in range(MAX_WORDS)) is not None
    assert caption_words(f"word{number}" for number in range(MAX_WORDS + 1)) is None


@pytest.mark.parametrize("prompt", ["", EXAMPLE, f"{EXAMPLE.capitalize()}."])
def test_prompts_of_the_shape_world_are_fine(prompt):
    assert unusual_prompt(prompt, VOCABULARY) is None


@pytest.mark.parametrize("prompt", ["a dog on a beach", "one red circle", "circle"])
def test_other_prompts_see_an_example(prompt):
    warning = unusual_prompt(prompt, VOCABULARY)
    assert warning is not None and prompt in warning and EXAMPLE in warning


def test_other_languages_name_the_unknown_words():
    assert unusual_prompt("Cat and dog", ["and", "cat", "dog"]) is None
    assert unusual_prompt("cat and bird", ["and", "cat", "dog"]).count("(bird)") == 1
    assert unusual_prompt("anything goes", []) is None


def test_the_generator_of_the_world_knows_its_words():
    assert set(json.loads(CONFIG.read_text())["text_encoder"]["words"]) == VOCABULARY
