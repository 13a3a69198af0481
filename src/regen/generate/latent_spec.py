"""What a generator has to know of the latents that it learns to make."""

from collections.abc import Sequence

import numpy as np

from regen.corpus.dataset import LatentDataset
from regen.corpus.shards import LatentManifest
from regen.generate.generator import LatentSpec
from regen.generate.latent_batches import LatentStage
from regen.pretrained.models import encoder_hash, find_model, stored_config, weights_hash

MAX_LENGTH_SAMPLES = 2000  # samples, for how many 1D latents regions have


def class_names(dataset: LatentDataset) -> list[str]:
    """The names of the classes by their numbers; a class without a name is called by its number."""
    count = int(dataset.column("label").max(initial=-1)) + 1
    if count == 0:
        raise ValueError(
            f"The latents in {dataset.folder} have no classes; put NAME.cls beside the videos and export "
            "again, or train with --data.condition text or none."
        )
    names = {number: name for name, number in dataset.manifest.classes.items()}
    return [names.get(number, str(number)) for number in range(max([count, *(one + 1 for one in names)]))]


def make_latent_spec(dataset: LatentDataset, stages: Sequence[LatentStage], by_class: bool) -> LatentSpec:
    """What a generator has to know of these latents, of which its training takes those of `stages`."""
    manifest, column = dataset.manifest, dataset.column
    videos = column("frames") > 1
    chosen = videos if videos.any() else ~videos
    kinds, numbers = np.unique(
        np.stack([column("height"), column("width")], 1)[chosen], axis=0, return_counts=True
    )
    wanted = {size for stage in stages for size in stage.sizes}
    sizes = [tuple(kinds[i].tolist()) for i in np.argsort(-numbers, kind="stable")]
    hybrid = bool((column("tokens") >= 0).any())
    embedder = stored_config(find_model(manifest.model)) if hybrid else {}
    return LatentSpec(
        embedder=manifest.model,
        weights_hash=manifest.weights,
        encoder_hash=encoder_of(manifest),
        channels=manifest.latent_channels,
        chunk_frames=manifest.chunk_frames if videos.any() else 1,
        chunk_latents=int(column("latent_frames").max()),
        spatial_compression_ratio=manifest.spatial_compression_ratio,
        has_sequence=hybrid,
        region_size=embedder.get("region_size"),
        num_queries=embedder.get("num_queries"),
        length_counts=length_counts(dataset, by_class) if hybrid else (),
        frame_rate=float(np.median(column("frame_rate")[videos])) if videos.any() else 25.0,
        sizes=tuple(size for size in sizes if not wanted or size in wanted),
        max_chunks=max(number for stage in stages for number in stage.chunks),
    )


def encoder_of(manifest: LatentManifest) -> str:
    """The hash of the embedder's encoder; "" where it is not at hand any more."""
    try:
        return encoder_hash(manifest.model) if weights_hash(manifest.model) == manifest.weights else ""
    except ValueError:
        return ""


def length_counts(dataset: LatentDataset, by_class: bool) -> tuple[tuple[int, ...], ...]:
    """How many regions have 0, 1, 2 ... 1D latents, of each class or of all, over some of the videos.

    Images count where there are no videos, samples without a class where none has one.
    """
    labels = dataset.column("label") if by_class else np.zeros(len(dataset), dtype=int)
    videos = dataset.column("frames") > 1
    chosen = videos if videos.any() else ~videos
    numbers = np.flatnonzero(chosen & (labels >= 0) if (chosen & (labels >= 0)).any() else chosen)
    step = max(1, len(numbers) // MAX_LENGTH_SAMPLES)
    found: list[tuple[int, np.ndarray]] = []
    for number in numbers[::step].tolist():
        latents = dataset.latents(number)
        found.append((max(0, int(labels[number])), latents.lengths.flatten().numpy()))
    longest = max(int(lengths.max(initial=0)) for _, lengths in found) + 1
    table = np.zeros((max(label for label, _ in found) + 1, longest), dtype=int)
    for label, lengths in found:
        table[label] += np.bincount(lengths, minlength=longest)
    return tuple(tuple(row) for row in table.tolist())
