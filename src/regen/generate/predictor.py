"""Generators as predictors in the post-training of One-DVA, with the class or caption of each sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from regen.console import warn
from regen.curate.sources import read_sidecars
from regen.data.batches import SampleConditions
from regen.data.catalog import Collection, ShardCatalog
from regen.generate.captions import CaptionStates, embed_captions
from regen.generate.generator import LatentGenerator
from regen.generate.inputs import Condition
from regen.generate.latent_batches import pad_text
from regen.generate.load import load_generator, matches_embedder, text_encoder_spec
from regen.latents import Latents
from regen.losses.one_dva import Batch, denoised
from regen.train.distributed import DistributedContext

SHARD = 1024  # captions in a file of embeddings


class GeneratorPredictor:
    """A `Predictor` (`regen.losses.one_dva`) that denoises with the condition in the batch, never dropped.

    `name` is that of the generator in messages.
    """

    def __init__(self, model: LatentGenerator, name: str, context: DistributedContext) -> None:
        self.model, self.name, self.context = model, name, context

    def __call__(
        self, clean: Latents, t: Float[Tensor, " b"], generators: list[Generator], batch: Batch
    ) -> Latents:
        """ẑ_0 = z_t - t v(z_t, t, condition) of each clip. The batch must have the generator's condition."""
        return denoised(self._velocity)(clean, t, generators, batch)

    def _velocity(self, noisy: Latents, t: Float[Tensor, " b"], batch: Batch) -> Latents:
        return self.model.velocity(noisy, t, Condition.from_batch(batch))

    def conditions(self, collection: Collection, folder: Path) -> SampleConditions | None:
        """The conditions of the samples, by number; None for an unconditional generator. Collective.

        Captions are embedded into `folder` by the generator's text encoder, once. Raises ValueError when no
        sample has what the generator takes, for an unknown class, and for a missing text encoder.
        """
        if not self.model.is_conditional:
            return None
        numbers = range(len(collection.columns))
        captions, labels = zip(*(_caption_and_class(collection, number) for number in numbers), strict=True)
        classes = self.model.config.classes
        kind, suffix = ("class", ".cls") if classes else ("caption", ".txt")
        missing = sum(label < 0 for label in labels) if classes else captions.count("")
        if missing == len(numbers):
            raise ValueError(
                f"The generator {self.name} takes a {kind}, and no sample has one; add NAME{suffix} beside "
                "the media, or predict with another --losses.prediction.generator."
            )
        if missing and self.context.is_main:
            warn(f"{missing} of {len(numbers)} samples have no {kind}: theirs is predicted without.")
        if classes:
            if max(labels) >= len(classes):
                count = len(classes)
                raise ValueError(f"Classes must be below the {count} of {self.name}, got {max(labels)}.")
            return ClassConditions(torch.tensor(labels))
        spec = text_encoder_spec(self.model)
        assert spec is not None, "a generator that reads texts has a text encoder"
        folder.mkdir(parents=True, exist_ok=True)
        texts = MediaCaptions(folder, list(captions))
        rank, size = self.context.rank, self.context.size
        embed_captions(texts, spec, self.context.device, part=rank, parts=size)
        self.context.barrier()
        return TextConditions(CaptionStates(texts, spec.fingerprint))


@dataclass(frozen=True)
class ClassConditions:
    """`label` of a batch, from the classes of all samples."""

    labels: Tensor

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return {"label": self.labels[list(numbers)]}


@dataclass(frozen=True)
class TextConditions:
    """`text` and `text_mask` of a batch, from the embedded captions of all samples."""

    captions: CaptionStates

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        return pad_text([self.captions.states(number) for number in numbers], self.captions.longest)


class MediaCaptions:
    """The captions of all samples in shards, to be embedded (see `CaptionShards`)."""

    def __init__(self, folder: Path, texts: list[str]) -> None:
        self.folder, self.texts = folder, texts
        self.shard_names = [f"{start // SHARD:05}" for start in range(0, len(texts), SHARD)]

    def captions(self, shard: int) -> list[str]:
        return self.texts[shard * SHARD : (shard + 1) * SHARD]


def load_predictor(name: str, initial_model: str | None, context: DistributedContext) -> GeneratorPredictor:
    """A generator as the predictor of latents in post-training (One-DVA).

    `initial_model` names the model to post-train. Raises ValueError unless the generator makes its latents.
    """
    model = load_generator(name, context.device, torch.float32)
    if initial_model is None or not matches_embedder(model, initial_model):
        spec = model.latent_spec
        raise ValueError(
            f"The generator {name} makes latents of {spec.embedder} (hash {spec.weights_hash}), not of the "
            "model to post-train; give that one by --init.model."
        )
    return GeneratorPredictor(model, name, context)


def _caption_and_class(collection: Collection, number: int) -> tuple[str, int]:
    """The caption ("" for none) and the class (-1) of a sample. Raises ValueError for a damaged sidecar."""
    catalog, index = collection.find(number)
    if isinstance(catalog, ShardCatalog):
        info = catalog.shards.info(index)
        return info.caption, info.label
    return read_sidecars(Path(catalog.name(index)))
