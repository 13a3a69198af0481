"""Models of the app: the names that it offers, and the last ones used, which stay loaded."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from regen.embedders.hybrid import HybridAutoencoder
from regen.generate.load import find_generator, load_video_generator
from regen.generate.video_generator import VideoGenerator
from regen.pretrained.listing import (
    DEFAULT_MODEL,
    available,
    available_generators,
    class_name_of,
    find_model,
    is_generator,
    stored_config,
)
from regen.pretrained.models import CLASSES, Autoencoder, load

DEFAULT_GENERATOR = "t2v-world"
LOADED = 3  # models of a kind in memory


class AppModels:
    """The models that need no download, those of `names` first, and no others.

    Nothing else can be loaded by a visitor. Raises ValueError when there is no model of one of the names.
    """

    def __init__(self, names: Sequence[str], device: torch.device, dtype: torch.dtype) -> None:
        given = {name: is_generator(find_model(name, "generator")) for name in names}
        embedders = [DEFAULT_MODEL, *(info.name for info in available())]
        generators = [info.name for info in available_generators()] or [DEFAULT_GENERATOR]
        self.embedders = _distinct([name for name in names if not given[name]], embedders)
        self.generators = _distinct([name for name in names if given[name]], generators)
        self._load = lru_cache(LOADED)(lambda name: load(name, device, dtype))
        self._load_generator = lru_cache(LOADED)(lambda name: load_video_generator(name, device, dtype))
        classes = {name: CLASSES[class_name_of(find_model(name))] for name in self.embedders}
        self.adaptive = tuple(name for name in classes if issubclass(classes[name], HybridAutoencoder))
        """Embedders whose number of 1D latents can be chosen."""
        self.interpolating = tuple(name for name in classes if classes[name].extrapolates)
        """Embedders that generate frames at any time; others blend the frames around it."""

    def embedder(self, name: str | None) -> Autoencoder:
        """The embedder, in evaluation mode. Raises ValueError when it is not offered or damaged."""
        _check(name, self.embedders, "model")
        return self._load(name)

    def generator(self, name: str | None) -> VideoGenerator:
        """The generator with its parts. Raises ValueError when it is not offered or a part is missing."""
        _check(name, self.generators, "generator")
        return self._load_generator(name)

    def chunk_frames(self, generator: str) -> int:
        """Frames of a chunk of the generator, read from its config; 33 where it is not downloaded yet."""
        if generator not in [info.name for info in available_generators()]:
            return 33
        return int(stored_config(find_generator(generator))["latent_spec"]["chunk_frames"])


def _distinct(*lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _check(name: str | None, known: Sequence[str], what: str) -> None:
    if name not in known:
        given = f"There is no {what} {name} here" if name else f"No {what} was chosen"
        raise ValueError(f"{given}; choose one of {', '.join(known)}.")
