"""Batches of exported latents for the training of a generator: images first, then images and videos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from regen.corpus.dataset import LatentDataset
from regen.data.tasks import BatchKey
from regen.generate.captions import CaptionStates
from regen.generate.tokens import concat_chunks
from regen.latents import Latents, collate
from regen.runtime import generator_for

BATCH_STREAM, SAMPLE_STREAM = -3, -4  # no sample has a negative index
CAUSAL = ("AutoencoderRegen", "AutoencoderMagvit2")  # the first latent frame of a video is that of an image


@dataclass(frozen=True)
class LatentStage:
    """A part of the training, up to `until`."""

    tokens_per_batch: int
    """Places of latents in a batch of all processes together, about: as many samples as have them."""
    image_share: float = 0.2
    """Share of the batches that are images; 1 for images alone."""
    chunks: tuple[int, ...] = (1,)
    """Chunks in a row of the videos of a batch: one of these, drawn for each batch."""
    until: float = 1.0
    """End of the stage as a part of all steps."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Height and width in pixels of the samples to take; without any, all."""

    def __post_init__(self) -> None:
        if (
            self.tokens_per_batch < 1
            or not self.chunks
            or min(self.chunks) < 1
            or not 0 <= self.image_share <= 1
        ):
            raise ValueError("A stage needs at least 1 token and 1 chunk, and a share of images from 0 to 1.")


@dataclass(frozen=True)
class Bucket:
    """Samples of one size with at least so many chunks; `chunks` is 0 for images."""

    chunks: int
    height: int
    width: int
    indices: np.ndarray


class LatentBatches(Dataset):
    """Part `part` of `parts` of batch number `step`, as a function of (seed, step, row) alone.

    Its key is (step, part, parts). An item has

        latents      "b c f y x" in fp32: of an image (f = 1) or some chunks in a row; with 1D latents also
        sequence     "b c s" and lengths "b r"
        label        (b) the class, -1 without one; or
        text         "b m e" and text_mask "b m", the states of the caption, filled up
        rows, batch_size, progress    as in `regen.data.tasks.TrainingBatches`

    Images are those of the data and, where the embedder is causal, the first latent frame of any chunk. A
    last chunk that the video did not fill is no video: its frames stand still from where it ended. All
    samples of a batch have one size; a size is drawn as often as it has samples. Raises ValueError when a
    stage finds nothing to take.
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
            raise ValueError(
                f"The stages of a training must end in rising order and the last at 1, not {ends}."
            )
        self.dataset, self.indices, self.stages, self.steps = dataset, indices, tuple(stages), steps
        self.seed, self.captions, self.class_conditional = seed, captions, class_conditional
        is_short = dataset.column("last_frames") < dataset.manifest.chunk_frames
        self.whole_chunks = dataset.column("chunks") - is_short
        self.buckets = {
            (stage, chunks): self._buckets(stage, chunks)
            for stage in self.stages
            for chunks in _chunk_counts(stage)
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
        count = self._batch_size(stage, bucket)
        if count < parts:
            raise ValueError(
                f"A batch of {count} samples can't be divided into {parts} parts; use fewer processes, fewer "
                "passes for each update, or more tokens in a batch."
            )
        rows = range(count * part // parts, count * (part + 1) // parts)
        return self.items(bucket, step, rows) | {
            "rows": torch.tensor(rows),
            "batch_size": torch.tensor(count),
            "progress": torch.tensor(progress),
        }

    def items(self, bucket: Bucket, step: int, rows: range) -> dict[str, Tensor]:
        """The samples of these rows of a batch, drawn from a bucket: latents with their conditions."""
        latents: list[Latents] = []
        chosen: list[int] = []
        for row in rows:
            draws = torch.rand(
                2, generator=generator_for(self.seed, SAMPLE_STREAM, step, row), dtype=torch.float64
            )
            number = int(bucket.indices[int(draws[0] * len(bucket.indices))])
            chosen.append(number)
            latents.append(self._latents(number, bucket.chunks, float(draws[1])))
        return self._conditions(chosen) | collate(latents).to(dtype=torch.float32).tensors()

    def _latents(self, number: int, chunks: int, draw: float) -> Latents:
        """Some chunks in a row of a sample, or an image of it."""
        there = int((self.whole_chunks if chunks else self.dataset.column("chunks"))[number])
        start = int(draw * (there - max(1, chunks) + 1))
        latents = concat_chunks(self.dataset.latents(number, slice(start, start + max(1, chunks))))
        if chunks == 0 and not latents.has_sequence:
            return Latents.of(latents.grid[:, :1])
        return latents

    def _conditions(self, numbers: list[int]) -> dict[str, Tensor]:
        if self.class_conditional:
            return {"label": torch.from_numpy(self.dataset.column("label")[numbers].astype(np.int64))}
        if self.captions is None:
            return {}
        states = [self.captions.states(number) for number in numbers]
        return pad_text(states, self.captions.longest)

    def _buckets(self, stage: LatentStage, chunks: int) -> list[Bucket]:
        column = self.dataset.column
        images = column("frames") == 1
        if chunks == 0:
            fits = images | (self.dataset.manifest.model_class in CAUSAL)
        else:
            fits = ~images & (self.whole_chunks >= chunks)
        fits = fits & np.isin(np.arange(len(self.dataset)), self.indices)
        sizes = np.stack([column("height"), column("width")], axis=1)
        kinds = np.unique(sizes[fits], axis=0)
        wanted = [tuple(size) for size in kinds.tolist() if not stage.sizes or tuple(size) in stage.sizes]
        if not wanted:
            what = "images" if chunks == 0 else f"videos with {chunks} whole chunks"
            raise ValueError(
                f"There are no latents of {what} for a stage of the training in {self.dataset.folder}; "
                "export some, or change --data.stages."
            )
        return [
            Bucket(chunks, height, width, np.flatnonzero(fits & (sizes == (height, width)).all(axis=1)))
            for height, width in wanted
        ]

    def min_batch_size(self) -> int:
        """Samples of the smallest batch that may come."""
        buckets = ((stage, bucket) for (stage, _), row in self.buckets.items() for bucket in row)
        return min(self._batch_size(stage, bucket) for stage, bucket in buckets)

    def _batch_size(self, stage: LatentStage, bucket: Bucket) -> int:
        side = self.dataset.manifest.spatial_compression_ratio
        frames = int(self.dataset.column("latent_frames")[bucket.indices[0]]) * bucket.chunks or 1
        places = -(-bucket.height // side) * -(-bucket.width // side) * frames
        return max(1, round(stage.tokens_per_batch / places))


def pad_text(states: Sequence[Float[Tensor, "_ e"]], longest: int) -> dict[str, Tensor]:
    """States of texts as one batch of `longest` tokens, or the next multiple of 8: `text` and `text_mask`."""
    length = max(8, -(-longest // 8) * 8)
    counts = torch.tensor([len(one) for one in states])
    text = torch.stack([F.pad(one, (0, 0, 0, length - len(one))) for one in states])
    return {"text": text, "text_mask": torch.arange(length) < counts[:, None]}


def _chunk_counts(stage: LatentStage) -> list[int]:
    images = [0] if stage.image_share > 0 else []
    return [*images, *(stage.chunks if stage.image_share < 1 else ())]
