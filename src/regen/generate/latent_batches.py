"""Training batches of exported latents, and the spec of their generator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from regen.console import warn
from regen.corpus.dataset import LatentDataset
from regen.data.batches import BatchKey
from regen.generate.captions import CaptionStates
from regen.generate.generator import LatentSpec
from regen.generate.inputs import concat_chunks
from regen.latents import Latents, collate
from regen.pretrained.listing import find_model, stored_config
from regen.pretrained.models import encoder_hash, weights_hash
from regen.runtime import generator_for

BATCH_STREAM, SAMPLE_STREAM = -3, -4  # no sample has a negative index
CAUSAL = ("AutoencoderRegen", "AutoencoderMagvit2")  # the first latent frame of a video is that of an image
MAX_DRAWS = 20  # for one sample, when one after the other can't be read
MAX_LENGTH_SAMPLES = 2000  # for the histogram of numbers of 1D latents


@dataclass(frozen=True)
class LatentStage:
    """A stage of a training."""

    tokens_per_batch: int
    """Approximate latent positions of a batch over all processes, which sets its number of samples."""
    image_share: float = 0.2
    """Share of image batches; 1: images only."""
    chunks: tuple[int, ...] = (1,)
    """Numbers of consecutive chunks of videos; one is drawn for each batch."""
    until: float = 1.0
    """End of the stage as a fraction of all steps."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width in pixels of the samples to use; by default all."""

    def __post_init__(self) -> None:
        if self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch must be at least 1, got {self.tokens_per_batch}.")
        if not self.chunks or min(self.chunks) < 1:
            raise ValueError(f"chunks must be one or more numbers >= 1, got {self.chunks}.")
        if not 0 <= self.image_share <= 1:
            raise ValueError(f"image_share must be from 0 to 1, got {self.image_share}.")


@dataclass(frozen=True)
class Bucket:
    """Samples of one size with at least `chunks` chunks (0: images)."""

    chunks: int
    height: int
    width: int
    indices: np.ndarray


class LatentBatches(Dataset):
    """Part `part` of `parts` of the batch of `step`, as a function of (seed, step, row) alone.

    Its key is (step, part, parts). An item has

        latents      "b c f y x" in fp32: an image (f = 1) or consecutive chunks; with 1D latents also
        sequence     "b c s" and lengths "b r"
        label        (b) the class, or -1; or
        text         "b m e" and text_mask "b m", the padded states of the caption
        rows, batch_size, progress    as in `regen.data.batches.TrainingBatches`

    Images are those of the data and, for causal embedders, the first latent frame of any chunk. A last chunk
    that the video did not fill is not used as video, because its frames repeat. All samples of a batch have
    one size, drawn in proportion to its samples. Raises ValueError for a stage without samples.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        indices: np.ndarray,
        stages: Sequence[LatentStage],
        steps: int,
        seed: int,
        captions: CaptionStates | None = None,
        class_conditional: bool = False,
    ):
        ends = [stage.until for stage in stages]
        if not stages or ends != sorted(ends) or ends[-1] != 1.0:
            raise ValueError(f"`until` of the stages must increase to 1.0, got {ends}.")
        self.dataset, self.indices, self.stages, self.steps = dataset, indices, tuple(stages), steps
        self.seed, self.captions, self.class_conditional = seed, captions, class_conditional
        self._damaged: set[str] = set()  # messages that were shown
        is_short = dataset.column("last_frames") < dataset.manifest.chunk_frames
        self.whole_chunks = dataset.column("chunks") - is_short
        self.buckets = {
            (stage, chunks): self._buckets(stage, chunks)
            for stage in self.stages
            for chunks in (0, *stage.chunks)
            if (stage.image_share < 1 if chunks else stage.image_share > 0)
        }

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, key: BatchKey) -> dict[str, Tensor]:
        step, part, parts = key
        assert 0 <= step < self.steps and 0 <= part < parts, key
        progress = step / self.steps
        stage = next(stage for stage in self.stages if progress < stage.until)
        generator = generator_for(self.seed, BATCH_STREAM, step)
        modality, which, where = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        chunks = 0 if modality < stage.image_share else stage.chunks[int(which * len(stage.chunks))]
        buckets = self.buckets[stage, chunks]
        ends = np.cumsum([len(bucket.indices) for bucket in buckets])
        bucket = buckets[int(np.searchsorted(ends, where * ends[-1], side="right"))]
        count = self.batch_size(stage, bucket)
        rows = range(count * part // parts, count * (part + 1) // parts)
        return self.samples(bucket, step, rows) | {
            "rows": torch.tensor(rows),
            "batch_size": torch.tensor(count),
            "progress": torch.tensor(progress),
        }

    def samples(self, bucket: Bucket, step: int, rows: range) -> dict[str, Tensor]:
        """The samples of these rows of a batch, drawn from a bucket: latents and conditions."""
        drawn = [self._draw(bucket, generator_for(self.seed, SAMPLE_STREAM, step, row)) for row in rows]
        latents = collate([latents for _, latents in drawn])
        return self._conditions([index for index, _ in drawn]) | latents.to(dtype=torch.float32).tensors()

    def _draw(self, bucket: Bucket, generator: torch.Generator) -> tuple[int, Latents]:
        """A sample's number and latents; of damaged ones each shard is named once and another is drawn."""
        for attempt in range(MAX_DRAWS):
            which, where = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            index = int(bucket.indices[int(which * len(bucket.indices))])
            try:
                return index, self._latents(index, bucket.chunks, where)
            except ValueError as error:
                if attempt == MAX_DRAWS - 1:
                    raise
                if str(error) not in self._damaged:
                    self._damaged.add(str(error))
                    warn(f"{error} Another sample is drawn instead.")
        raise AssertionError

    def _latents(self, index: int, chunks: int, where: float) -> Latents:
        """Consecutive chunks of a sample, or an image."""
        available = int((self.whole_chunks if chunks else self.dataset.column("chunks"))[index])
        start = int(where * (available - max(1, chunks) + 1))
        latents = concat_chunks(self.dataset.latents(index, slice(start, start + max(1, chunks))))
        if chunks == 0 and not latents.has_sequence:
            return Latents.of(latents.grid[:, :1])
        return latents

    def _conditions(self, indices: list[int]) -> dict[str, Tensor]:
        if self.class_conditional:
            return {"label": torch.from_numpy(self.dataset.column("label")[indices].astype(np.int64))}
        if self.captions is None:
            return {}
        return pad_text([self.captions.states(index) for index in indices], self.captions.longest)

    def _buckets(self, stage: LatentStage, chunks: int) -> list[Bucket]:
        column = self.dataset.column
        images = column("frames") == 1
        if chunks == 0:
            fits = images | (self.dataset.manifest.model_class in CAUSAL)
        else:
            fits = ~images & (self.whole_chunks >= chunks)
        fits = fits & np.isin(np.arange(len(self.dataset)), self.indices)
        sizes = np.stack([column("height"), column("width")], axis=1)
        found = [tuple(size) for size in np.unique(sizes[fits], axis=0).tolist()]
        used = [size for size in found if not stage.sizes or size in stage.sizes]
        if not used:
            what = "images" if chunks == 0 else f"videos with {chunks} whole chunks"
            raise ValueError(
                f"There are no latents of {what} for a stage in {self.dataset.folder}; export some, or "
                "change the stage, for example --data.stages.0.chunks."
            )
        return [
            Bucket(chunks, height, width, np.flatnonzero(fits & (sizes == (height, width)).all(axis=1)))
            for height, width in used
        ]

    def batch_size(self, stage: LatentStage, bucket: Bucket) -> int:
        """Samples of the batches drawn from a bucket."""
        scale = self.dataset.manifest.spatial_compression_ratio
        frames = int(self.dataset.column("latent_frames")[bucket.indices[0]]) * bucket.chunks or 1
        positions = -(-bucket.height // scale) * -(-bucket.width // scale) * frames
        return max(1, round(stage.tokens_per_batch / positions))


def pad_text(states: Sequence[Float[Tensor, "_ e"]], longest: int) -> dict[str, Tensor]:
    """A batch of texts, padded to `longest` tokens rounded up to a multiple of 8: `text` and `text_mask`."""
    length = max(8, -(-longest // 8) * 8)
    counts = torch.tensor([len(one) for one in states])
    text = torch.stack([F.pad(one, (0, 0, 0, length - len(one))) for one in states])
    return {"text": text, "text_mask": torch.arange(length) < counts[:, None]}


def class_names(dataset: LatentDataset) -> list[str]:
    """Class names by index; an unnamed class is called by its index. Raises ValueError without classes."""
    count = int(dataset.column("label").max(initial=-1)) + 1
    if count == 0:
        raise ValueError(
            f"The latents in {dataset.folder} have no classes; add NAME.cls beside the videos and export "
            "again, or train with --data.condition text or none."
        )
    names = {number: name for name, number in dataset.manifest.classes.items()}
    return [names.get(number, str(number)) for number in range(max([count, *(one + 1 for one in names)]))]


def make_latent_spec(dataset: LatentDataset, stages: Sequence[LatentStage], by_class: bool) -> LatentSpec:
    """The spec of a generator that is trained on these stages of a dataset."""
    manifest, column = dataset.manifest, dataset.column
    videos = column("frames") > 1
    used = videos if videos.any() else ~videos
    shapes = np.stack([column("height"), column("width")], 1)[used]
    distinct, counts = np.unique(shapes, axis=0, return_counts=True)
    sizes = [tuple(distinct[i].tolist()) for i in np.argsort(-counts, kind="stable")]
    stage_sizes = {size for stage in stages for size in stage.sizes}
    has_sequence = bool((column("sequence_length") >= 0).any())
    config = stored_config(find_model(manifest.model)) if has_sequence else {}
    try:
        same = weights_hash(manifest.model) == manifest.weights
        encoder = encoder_hash(manifest.model) if same else ""
    except ValueError:  # the embedder is gone
        encoder = ""
    return LatentSpec(
        embedder=manifest.model,
        weights_hash=manifest.weights,
        encoder_hash=encoder,
        channels=manifest.latent_channels,
        chunk_frames=manifest.chunk_frames if videos.any() else 1,
        chunk_latents=int(column("latent_frames").max()),
        spatial_compression_ratio=manifest.spatial_compression_ratio,
        has_sequence=has_sequence,
        region_size=config.get("region_size"),
        num_queries=config.get("num_queries"),
        length_counts=_length_counts(dataset, by_class) if has_sequence else (),
        frame_rate=float(np.median(column("frame_rate")[videos])) if videos.any() else 25.0,
        sizes=tuple(size for size in sizes if not stage_sizes or size in stage_sizes),
        max_chunks=max(number for stage in stages for number in stage.chunks),
    )


def _length_counts(dataset: LatentDataset, by_class: bool) -> tuple[tuple[int, ...], ...]:
    """Histogram of 1D latents per region over some videos, of each class or of all.

    Images count if there are no videos, and samples without a class if none has one.
    """
    labels = dataset.column("label") if by_class else np.zeros(len(dataset), dtype=int)
    videos = dataset.column("frames") > 1
    used = videos if videos.any() else ~videos
    indices = np.flatnonzero(used & (labels >= 0) if (used & (labels >= 0)).any() else used)
    step = max(1, len(indices) // MAX_LENGTH_SAMPLES)
    found: list[tuple[int, np.ndarray]] = []
    problem: ValueError | None = None
    for index in indices[::step].tolist():
        try:
            found.append((max(0, int(labels[index])), dataset.latents(index).lengths.flatten().numpy()))
        except ValueError as error:  # the training names it
            problem = error
    if problem is not None and not found:
        raise problem
    longest = max(int(lengths.max(initial=0)) for _, lengths in found) + 1
    table = np.zeros((max(label for label, _ in found) + 1, longest), dtype=int)
    for label, lengths in found:
        table[label] += np.bincount(lengths, minlength=longest)
    return tuple(tuple(row) for row in table.tolist())
