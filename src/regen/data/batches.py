"""TrainingBatches: the batches of a training, as a function of (seed, step, row)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regen.console import warn
from regen.data.catalog import Collection
from regen.data.clips import ClipSample, ClipSpec
from regen.data.tasks import (
    SPACINGS,
    Stage,
    Task,
    TaskConfig,
    draw_task,
    image,
    reconstruction,
    subsample_targets,
)
from regen.runtime import generator_for

# Samples have no negative index, so tasks and samples never share random numbers.
TASK_STREAM = -2

# A part of a batch: (step, part, number of parts).
BatchKey = tuple[int, int, int]
# Numbers of samples in a collection -> tensors with an entry for each, such as `label`, for a batch.
SampleConditions = Callable[[Sequence[int]], dict[str, Tensor]]
# (collection, folder for what is computed once) -> the conditions of its samples; None for none.
MediaConditions = Callable[[Collection, Path], SampleConditions | None]


@runtime_checkable
class Clips(Protocol):
    """Random clips, such as those of a `ClipDataset`: what batches and evaluations need of them."""

    @property
    def skipped(self) -> dict[str, str]: ...

    def __len__(self) -> int: ...

    def sample(self, sample_index: int, spec: ClipSpec, seed: int) -> ClipSample: ...

    def weight(self, spec: ClipSpec) -> float: ...

    def require_length(self, frames: int, frame_rate: float | None = None) -> None: ...

    def split(self: "C", num_val: int, frames: int = 1) -> "tuple[C, C]": ...

    def fingerprint(self) -> str: ...

    def fill_cache(self) -> None: ...


C = TypeVar("C", bound=Clips)


class TrainingBatches(Dataset):
    """Batches of a training, as a function of (seed, step, row) alone.

    The key (step, part, parts) stands for the rows from count * part // parts up to those of the next part.
    An item has
        clip        "b 3 t h w" to encode, and target "b 3 T h w" to decode, both in 8 bits
        latents     "b c n y x" in place of a clip, where they were exported, and begin (b): in their chunk
        times       (T) of the target
        rows        (b) numbers of its samples in the whole batch
        batch_size  samples of the whole batch
        least       samples of its smallest part
        progress    fraction of the training that is over
        margin      pixels on each side of the clip that do not count in the loss
        replaced    (3) samples that were damaged, too slow or gone, and drawn anew
    and what `conditions`, by default None, gives for its samples.
    """

    def __init__(
        self,
        clips: Clips,
        ratio: int,
        tasks: TaskConfig,
        stages: tuple[Stage, ...],
        scale: tuple[float, float] | None,
        steps: int,
        seed: int,
        frame_rate: float | None = None,
        group: int | None = None,
    ):
        ends = [stage.until for stage in stages]
        if not stages or ends != sorted(ends) or ends[-1] != 1.0:
            raise ValueError(f"The ends of training stages must rise and the last be 1, got {ends}.")
        self.clips, self.ratio, self.tasks, self.stages = clips, ratio, tasks, stages
        self.scale, self.steps, self.seed, self.frame_rate = scale, steps, seed, frame_rate
        self.conditions: SampleConditions | None = None
        self.group = group
        kinds = image(), reconstruction(ratio)
        self.stride = max(stage.batch_size(task, ratio) for stage in stages for task in kinds)
        interpolates = tasks.warmup_fraction < 1 and max(tasks.share_start, tasks.share_end) > 0
        longest = 1 if tasks.image_share == 1 else (2 if interpolates else 1) * ratio + 1
        clips.require_length(longest, frame_rate)
        specs = {
            spacing: ClipSpec(spacing * ratio + 1, (1, 1), frame_rate=frame_rate) for spacing in SPACINGS
        }
        self.spacings = tuple(spacing for spacing, spec in specs.items() if clips.weight(spec) > 0)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, key: BatchKey) -> dict[str, Tensor]:
        step, part, parts = key
        assert 0 <= step < self.steps and 0 <= part < parts, key
        progress = step / self.steps
        generator = generator_for(self.seed, TASK_STREAM, step)
        task = draw_task(self.ratio, progress, self.tasks, generator, self.spacings, self.group)
        if self.tasks.decoded_frames is not None:
            task = subsample_targets(task, self.tasks.decoded_frames, generator)
        stage = next(stage for stage in self.stages if progress < stage.until)
        cut = self._clip_spec(task, stage, float(torch.rand((), generator=generator, dtype=torch.float64)))
        count = stage.batch_size(task, self.ratio)
        if count < parts:
            raise ValueError(f"A batch of {count} samples can't be divided into {parts} parts; enlarge it.")
        rows = range(count * part // parts, count * (part + 1) // parts)
        samples = [self.clips.sample(step * self.stride + row, cut, self.seed) for row in rows]
        clip = target = torch.stack([sample.video for sample in samples])
        every = tuple(range(task.frames))
        if (task.inputs, task.targets) != (every, every):
            clip, target = clip[:, :, list(task.inputs)], target[:, :, list(task.targets)]
        numbers = [sample.number for sample in samples]
        conditions = {} if self.conditions is None else self.conditions(numbers)
        return (
            conditions
            | (_latents(samples) or {"clip": clip})
            | {
                "target": target,
                "times": torch.tensor(task.times),
                "rows": torch.tensor(rows),
                "batch_size": torch.tensor(count),
                "least": torch.tensor(count // parts),
                "progress": torch.tensor(progress),
                "margin": torch.tensor(stage.margin),
                "replaced": torch.tensor([sample.replaced for sample in samples]).sum(0),
            }
        )

    def _clip_spec(self, task: Task, stage: Stage, draw: float) -> ClipSpec:
        """Size for a whole batch; buckets are drawn by the weight of their media."""
        sizes = stage.sizes(task)
        ratios = tuple(width / height for height, width in sizes) if len(sizes) > 1 else ()
        specs = [
            ClipSpec(task.frames, size, self.scale, self.frame_rate, ratios, bucket)
            for bucket, size in enumerate(sizes)
        ]
        if len(specs) == 1:
            return specs[0]
        total = torch.tensor([self.clips.weight(spec) for spec in specs], dtype=torch.float64).cumsum(0)
        return specs[int(torch.searchsorted(total, draw * total[-1], right=True))]


def _latents(samples: Sequence[ClipSample]) -> dict[str, Tensor]:
    """The exported latents of a batch; empty without."""
    found = [sample.latents for sample in samples if sample.latents is not None]
    begin = torch.tensor([sample.begin for sample in samples])
    return {"latents": torch.stack(found), "begin": begin} if found else {}


def hold_out(clips: C, count: int, frames: int, warns: bool) -> tuple[C, C]:
    """(training, validation); both are all clips where too few could be held out, with a warning."""
    try:
        return clips.split(count, frames) if count else (clips, clips)
    except ValueError as error:
        if warns:
            warn(f"none is held out, so evaluations use the training videos: {error}")
        return clips, clips
