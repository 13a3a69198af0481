"""Prompts unlike the captions of a generator's training."""

import re
from collections.abc import Iterable

from regen.data.shape_world import EXAMPLE, VOCABULARY, parse_caption

MAX_WORDS = 200  # distinct words of captions in a closed language, such as that of the shape world


def caption_words(captions: Iterable[str]) -> list[str] | None:
    """The distinct words of captions, sorted; None for more than MAX_WORDS, as in natural language."""
    words: set[str] = set()
    for caption in captions:
        words |= _words(caption)
        if len(words) > MAX_WORDS:
            return None
    return sorted(words)


def unusual_prompt(prompt: str, words: Iterable[str]) -> str | None:
    """A warning about a prompt unlike the captions of the training, which had these words only.

    Captions of the shape world have a grammar, too. None without `words`, and for an empty prompt.
    """
    known = set(words)
    if not known or not prompt:
        return None
    if known <= VOCABULARY and parse_caption(prompt.strip().rstrip(".").lower()) is None:
        return f'"{prompt}" is unlike the captions of the training, such as "{EXAMPLE}"; expect anything.'
    unseen = sorted(_words(prompt) - known)
    if unseen:
        return f'"{prompt}" has words of no caption of the training ({", ".join(unseen)}); expect anything.'
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
