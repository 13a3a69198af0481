"""Models of the app: the names that it offers, and the last ones used, which stay loaded."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from regen.embedders.hybrid import HybridAutoencoder
from regen.generate.load import find_generator, load_video_generator
from regen.generate.video_generator import VideoGenerator
from regen.names import published_models
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

LOADED = 3  # models of a kind in memory


class AppModels:
    """Those of `names` first, then the models that need no download, then the published ones, no others.

    A published model is fetched when it is used for the first time; its weights must have the checksum of the
    manifest. Nothing else can be loaded by a visitor. Raises ValueError when there is no model of one of the
    names.
    """

    def __init__(self, names: Sequence[str], device: torch.device, dtype: torch.dtype) -> None:
        given = {name: is_generator(find_model(name, "generator")) for name in names}
        embedders = [name for name in names if not given[name]]
        embedders += [DEFAULT_MODEL, *(info.name for info in available())]
        generators = [name for name in names if given[name]]
        generators += [info.name for info in available_generators()]
        here = {*embedders, *generators}
        self.published = {name: model for name, model in published_models().items() if name not in here}
        """The models that are fetched when they are used."""
        self.embedders, self.generators = (
            _distinct(own, [name for name, model in self.published.items() if model.kind == kind])
            for own, kind in ((embedders, "embedder"), (generators, "generator"))
        )
        self._load = lru_cache(LOADED)(lambda name: load(name, device, dtype))
        self._load_generator = lru_cache(LOADED)(lambda name: load_video_generator(name, device, dtype))
        classes = {name: CLASSES[self._class_name(name)] for name in self.embedders}
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

    def choices(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """What a visitor reads for each name, and the name."""
        sizes = {name: f" (fetched, {model.size / 1e6:.0f} MB)" for name, model in self.published.items()}
        return [(name + sizes.get(name, ""), name) for name in names]

    def _class_name(self, embedder: str) -> str:
        published = self.published.get(embedder)
        return class_name_of(find_model(embedder)) if published is None else published.class_name

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk of the first generator, read from its config; 33 where it is not fetched yet."""
        first = next(iter(self.generators), None)
        if first is None or first in self.published:
            return 33
        return int(stored_config(find_generator(first))["latent_spec"]["chunk_frames"])


def _distinct(*lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _check(name: str | None, known: Sequence[str], what: str) -> None:
    if name not in known:
        given = f"There is no {what} {name} here" if name else f"No {what} was chosen"
        raise ValueError(f"{given}; choose one of {', '.join(known)}.")
