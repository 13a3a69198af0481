"""Training tasks: reconstruction, interpolation, extrapolation, images."""

import math
from dataclasses import dataclass, replace
from itertools import chain

import torch

SIDE_MULTIPLE = 8  # pixels on a side of one token of a frame
SPACINGS = 2, 4  # frames of the video from one encoded frame to the next in interpolation


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


def subsample_groups(task: Task, group: int, spacing: int, generator: torch.Generator) -> Task:
    """The task with `group` targets of each `spacing` * `group` after the first, at the same places."""
    length = group * spacing
    places = sorted((1 + torch.randperm(length, generator=generator)[:group]).tolist())
    chosen = [start + place for start in range(0, task.frames - 1, length) for place in places]
    return replace(task, targets=tuple(chosen), times=tuple(task.times[i] for i in chosen))


def draw_task(
    ratio: int,
    progress: float,
    config: TaskConfig,
    generator: torch.Generator,
    spacings: tuple[int, ...] = SPACINGS,
    group: int | None = None,
) -> Task:
    """The task of a step, for the whole batch; `progress` runs from 0 to 1 over the training.

    Interpolation encodes every second or fourth frame, one of `spacings`, and decodes 1 + k of all frames,
    drawn at random: any set of times, a fourth of a frame apart or more, is one that training decodes. A
    decoder of groups of `group` frames does not extrapolate, and interpolates as many frames in each group.
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
    if group is not None and kind < share:
        spacing = spacings[draw(len(spacings))]
        return subsample_groups(interpolation(ratio, spacing), group, spacing, generator)
    if kind < share:
        every_frame = interpolation(ratio, spacings[draw(len(spacings))])
        return subsample_targets(every_frame, ratio + 1, generator)
    if kind < 2 * share and group is None:
        size = 1 + draw(max(1, ratio // 4))
        return chunk_overlap(ratio) if half < 0.5 else extrapolation(ratio, size if half < 0.75 else -size)
    return reconstruction(ratio)
