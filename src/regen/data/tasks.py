"""Training tasks: reconstruction, interpolation, extrapolation, images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regen.console import warn
from regen.data.catalog import Collection
from regen.data.clips import ClipDataset, ClipSpec
from regen.runtime import generator_for

# Samples have no negative index, so tasks and samples never share random numbers.
TASK_STREAM = -2
SIDE_MULTIPLE = 8  # pixels on a side of one token of a frame
SPACINGS = 2, 4  # frames of the video from one encoded frame to the next in interpolation

# A part of a batch: (step, part, number of parts).
BatchKey = tuple[int, int, int]
# Numbers of samples in a collection -> tensors with an entry for each, such as `label`, for a batch.
SampleConditions = Callable[[Sequence[int]], dict[str, Tensor]]
# (collection, folder for what is computed once) -> the conditions of its samples; None for none.
MediaConditions = Callable[[Collection, Path], SampleConditions | None]


@dataclass(frozen=True)
class Task:
    """Consecutive frames to read, those to encode, those to decode, and the times of the latter."""

    name: str
    frames: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class TaskConfig:
    """Shares of the tasks. Interpolation and extrapolation grow linearly after a warmup."""

    image_share: float = 0.2
    """Share of steps whose batch is images."""
    warmup_fraction: float = 0.05
    """Fraction of the training, at its start, in which videos are only reconstructed."""
    share_start: float = 0.05
    share_end: float = 0.25
    """Share of video steps for interpolation, and for extrapolation, after the warmup and at the end."""
    decoded_frames: int | None = None
    """Frames of a chunk that are decoded, drawn at each step; None: all. The decoder is conditioned on times
    and learns as much from a few frames, at a fraction of the cost."""

    def __post_init__(self) -> None:
        shares = self.image_share, self.warmup_fraction, 2 * self.share_start, 2 * self.share_end
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("Shares of tasks must be from 0 to 1, share_start and share_end at most 0.5.")
        if self.decoded_frames is not None and self.decoded_frames < 1:
            raise ValueError(f"tasks.decoded_frames must be at least 1, got {self.decoded_frames}.")


@dataclass(frozen=True)
class Stage:
    """A part of the training, with crops of `height` x `width` pixels. Batches count all processes."""

    height: int
    width: int
    video_batch_size: int
    image_batch_size: int | None = None
    """Images in a batch; None: as many as have the tokens of the videos."""
    until: float = 1.0
    """End of the stage as a fraction of all steps."""
    buckets: tuple[tuple[int, int], ...] = ()
    """Sizes (height, width) of the crops in place of the one: a batch has one of them and only media whose
    aspect ratio is nearest to its own, drawn by the weight of those media."""
    image_buckets: tuple[tuple[int, int], ...] = ()
    """Sizes of the crops of images; none: those of the videos."""
    margin: int = 0
    """Pixels around each crop that are read, encoded and decoded with it, but do not count in the loss:
    a model that looks beyond its patches then learns nothing about the borders of crops."""

    def __post_init__(self) -> None:
        if self.margin < 0 or self.margin % SIDE_MULTIPLE:
            raise ValueError(
                f"The margin of training crops must be 0 or a multiple of {SIDE_MULTIPLE}, got {self.margin}."
            )
        for side in (self.height, self.width, *chain(*self.buckets, *self.image_buckets)):
            if side < SIDE_MULTIPLE or side % SIDE_MULTIPLE:
                raise ValueError(f"Sides of training crops must be multiples of {SIDE_MULTIPLE}, got {side}.")
        if min(self.video_batch_size, 1 if self.image_batch_size is None else self.image_batch_size) < 1:
            raise ValueError("A training stage needs batches of at least 1 video and 1 image.")

    def sizes(self, task: "Task") -> tuple[tuple[int, int], ...]:
        """The sizes (height, width) of the crops with their margin; a batch has one of them."""
        sizes = self.buckets or ((self.height, self.width),)
        if task.name == "image" and self.image_buckets:
            sizes = self.image_buckets
        return tuple((height + 2 * self.margin, width + 2 * self.margin) for height, width in sizes)

    def batch_size(self, task: "Task", ratio: int) -> int:
        """Samples in a batch of `task`, for chunks of 1 + `ratio` frames."""
        if task.name != "image":
            return self.video_batch_size
        if self.image_batch_size is not None:
            return self.image_batch_size
        video = (self.height + 2 * self.margin) * (self.width + 2 * self.margin)
        tokens = self.video_batch_size * reconstruction(ratio).frames * video
        return max(1, round(tokens / math.prod(self.sizes(task)[0])))


def image() -> Task:
    """One frame at time 0."""
    return Task("image", 1, (0,), (0,), (0.0,))


def reconstruction(ratio: int) -> Task:
    """Decode the 1 + k frames that are encoded."""
    frames = tuple(range(ratio + 1))
    return Task("reconstruction", ratio + 1, frames, frames, tuple(i / ratio for i in frames))


def interpolation(ratio: int, spacing: int) -> Task:
    """Encode every `spacing`-th frame, and decode all of them: those between have times between."""
    frames = tuple(range(spacing * ratio + 1))
    times = tuple(i / frames[-1] for i in frames)
    return Task("interpolation", len(frames), frames[::spacing], frames, times)


def extrapolation(ratio: int, shift: int) -> Task:
    """Decode the frames `shift` later than the encoded ones (earlier where negative)."""
    assert shift != 0
    first = max(0, -shift)
    inputs = tuple(range(first, first + ratio + 1))
    targets = tuple(range(first + shift, first + shift + ratio + 1))
    times = tuple((i + shift) / ratio for i in range(ratio + 1))
    return Task("extrapolation", ratio + 1 + abs(shift), inputs, targets, times)


def chunk_overlap(ratio: int) -> Task:
    """Decode the chunk and the frame before it, as latent extension does (REGEN, Sec. 3.4)."""
    times = tuple((i - 1) / ratio for i in range(ratio + 2))
    return Task("extrapolation", ratio + 2, tuple(range(1, ratio + 2)), tuple(range(ratio + 2)), times)


def subsample_targets(task: Task, count: int, generator: torch.Generator) -> Task:
    """The task with `count` of its targets, drawn at random, in their order."""
    chosen = sorted(torch.randperm(len(task.targets), generator=generator)[:count].tolist())
    targets, times = (tuple(values[i] for i in chosen) for values in (task.targets, task.times))
    return replace(task, targets=targets, times=times)


def draw_task(
    ratio: int,
    progress: float,
    config: TaskConfig,
    generator: torch.Generator,
    spacings: tuple[int, ...] = SPACINGS,
) -> Task:
    """The task of a step, for the whole batch; `progress` runs from 0 to 1 over the training.

    Interpolation encodes every second or fourth frame, one of `spacings`, and decodes 1 + k of all frames,
    drawn at random: any set of times, a fourth of a frame apart or more, is one that training decodes.
    """

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    modality, kind, half = torch.rand(3, generator=generator).tolist()
    if modality < config.image_share:
        return image()
    share, warmup = 0.0, config.warmup_fraction
    if warmup <= progress and warmup < 1:
        growth = config.share_end - config.share_start
        share = config.share_start + (progress - warmup) / (1 - warmup) * growth
    if kind < share:
        every_frame = interpolation(ratio, spacings[draw(len(spacings))])
        return subsample_targets(every_frame, ratio + 1, generator)
    if kind < 2 * share:
        size = 1 + draw(max(1, ratio // 4))
        return chunk_overlap(ratio) if half < 0.5 else extrapolation(ratio, size if half < 0.75 else -size)
    return reconstruction(ratio)


class TrainingBatches(Dataset):
    """Batches of a training, as a function of (seed, step, row) alone.

    The key (step, part, parts) stands for the rows from count * part // parts up to those of the next part.
    An item has
        clip        "b 3 t h w" to encode, and target "b 3 T h w" to decode, both in 8 bits
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
        clips: ClipDataset,
        ratio: int,
        tasks: TaskConfig,
        stages: tuple[Stage, ...],
        scale: tuple[float, float] | None,
        steps: int,
        seed: int,
        frame_rate: float | None = None,
    ):
        ends = [stage.until for stage in stages]
        if not stages or ends != sorted(ends) or ends[-1] != 1.0:
            raise ValueError(f"The ends of training stages must rise and the last be 1, got {ends}.")
        self.clips, self.ratio, self.tasks, self.stages = clips, ratio, tasks, stages
        self.scale, self.steps, self.seed, self.frame_rate = scale, steps, seed, frame_rate
        self.conditions: SampleConditions | None = None
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
        task = draw_task(self.ratio, progress, self.tasks, generator, self.spacings)
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
        return conditions | {
            "clip": clip,
            "target": target,
            "times": torch.tensor(task.times),
            "rows": torch.tensor(rows),
            "batch_size": torch.tensor(count),
            "least": torch.tensor(count // parts),
            "progress": torch.tensor(progress),
            "margin": torch.tensor(stage.margin),
            "replaced": torch.tensor([sample.replaced for sample in samples]).sum(0),
        }

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


def hold_out(clips: ClipDataset, count: int, frames: int, warns: bool) -> tuple[ClipDataset, ClipDataset]:
    """(training, validation); both are all clips where too few could be held out, with a warning."""
    try:
        return clips.split(count, frames) if count else (clips, clips)
    except ValueError as error:
        if warns:
            warn(f"none is held out, so evaluations use the training videos: {error}")
        return clips, clips
