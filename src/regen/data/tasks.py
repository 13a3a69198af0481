"""What a training step asks for: reconstruct, interpolate, extrapolate or a still image (spec A7)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from regen.data.clips import ClipDataset
from regen.runtime import generator_for

# No sample has a negative index, so the draw of a task never repeats the numbers that drew a sample.
TASK_STREAM = -2


@dataclass(frozen=True)
class Task:
    """Which consecutive frames to read, which the encoder sees, which are decoded, and at what times."""

    name: str
    frames: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class TaskConfig:
    """Shares of the tasks; the last two grow linearly from `early` to `late`, after a part without them."""

    image_share: float = 0.2
    """Share of steps whose whole batch is still images."""
    hold: float = 0.05
    """Part of the training, at its beginning, in which videos are only reconstructed."""
    early: float = 0.05
    late: float = 0.25
    """Share of the video steps for interpolation, and again for extrapolation; the rest reconstruct."""

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.image_share, self.hold, 2 * self.early, 2 * self.late)):
            raise ValueError("Shares of tasks lie between 0 and 1, those that count twice between 0 and 0.5.")


@dataclass(frozen=True)
class Stage:
    """A part of the training: crops of `height` x `width` pixels in batches of this many, up to `until`."""

    height: int
    width: int
    clips: int
    images: int
    image_size: tuple[int, int] | None = None
    """Height and width of the crops of images, where they differ."""
    until: float = 1.0
    """End of the stage as a part of all steps."""

    def __post_init__(self) -> None:
        for side in (self.height, self.width, *(self.image_size or ())):
            if side < 8 or side % 8:
                raise ValueError(f"The sides of training crops must be multiples of 8, not {side}.")
        if min(self.clips, self.images) < 1:
            raise ValueError("A training stage needs at least 1 clip and 1 image in a batch.")


def image() -> Task:
    """One frame at time 0."""
    return Task("image", 1, (0,), (0,), (0.0,))


def reconstruction(ratio: int) -> Task:
    """The 1 + k frames that the encoder sees."""
    frames = tuple(range(ratio + 1))
    return Task("reconstruction", ratio + 1, frames, frames, tuple(i / ratio for i in frames))


def interpolation(ratio: int, start: int) -> Task:
    """The encoder sees every second of 2k + 1 frames; 1 + k consecutive ones from `start` on are decoded."""
    assert 0 <= start <= ratio, start
    targets = tuple(range(start, start + ratio + 1))
    inputs = tuple(range(0, 2 * ratio + 1, 2))
    return Task("interpolation", 2 * ratio + 1, inputs, targets, tuple(i / (2 * ratio) for i in targets))


def extrapolation(ratio: int, shift: int) -> Task:
    """The frames that lie `shift` frames later than those that the encoder sees (earlier where negative)."""
    assert shift != 0
    first = max(0, -shift)
    inputs = tuple(range(first, first + ratio + 1))
    targets = tuple(range(first + shift, first + shift + ratio + 1))
    times = tuple((i + shift) / ratio for i in range(ratio + 1))
    return Task("extrapolation", ratio + 1 + abs(shift), inputs, targets, times)


def overlap(ratio: int) -> Task:
    """The chunk and the frame before it, which is what joining chunks asks of the decoder (spec A9)."""
    times = tuple((i - 1) / ratio for i in range(ratio + 2))
    return Task("extrapolation", ratio + 2, tuple(range(1, ratio + 2)), tuple(range(ratio + 2)), times)


def draw_task(ratio: int, progress: float, config: TaskConfig, generator: torch.Generator) -> Task:
    """The task of one step, for the whole batch; `progress` runs from 0 to 1 over the training."""

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    modality, kind, half = torch.rand(3, generator=generator).tolist()
    if modality < config.image_share:
        return image()
    share = 0.0
    if progress >= config.hold and config.hold < 1:
        share = config.early + (progress - config.hold) / (1 - config.hold) * (config.late - config.early)
    if kind < share:
        return interpolation(ratio, draw(ratio + 1))
    if kind < 2 * share:
        size = 1 + draw(max(1, ratio // 4))
        return overlap(ratio) if half < 0.5 else extrapolation(ratio, size if half < 0.75 else -size)
    return reconstruction(ratio)


class TrainingBatches(Dataset):
    """Batch number `step` of a training, as a function of (seed, step) alone.

    An item has `clip` (b 3 t h w, what the encoder sees), `target` (b 3 T h w) and its `times` (T).
    """

    def __init__(
        self,
        clips: ClipDataset,
        ratio: int,
        tasks: TaskConfig,
        stages: tuple[Stage, ...],
        scale: tuple[float, float],
        steps: int,
        seed: int,
        frame_rate: float | None = None,
    ):
        ends = [stage.until for stage in stages]
        if not stages or ends != sorted(ends) or ends[-1] != 1.0:
            raise ValueError(
                f"The stages of a training must end in rising order and the last at 1, not {ends}."
            )
        self.clips, self.ratio, self.tasks, self.stages = clips, ratio, tasks, stages
        self.scale, self.steps, self.seed, self.frame_rate = scale, steps, seed, frame_rate
        clips.require(self.frames_needed(), frame_rate)

    def __len__(self) -> int:
        return self.steps

    def frames_needed(self) -> int:
        """The longest clip that some step may ask for: 2k + 1 frames where there is interpolation."""
        if self.tasks.image_share == 1:
            return 1
        other = self.tasks.hold < 1 and max(self.tasks.early, self.tasks.late) > 0
        return (2 if other else 1) * self.ratio + 1

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        progress = step / self.steps
        task = draw_task(self.ratio, progress, self.tasks, generator_for(self.seed, TASK_STREAM, step))
        stage = next(stage for stage in self.stages if progress < stage.until)
        count = stage.images if task.name == "image" else stage.clips
        stride = max(max(stage.clips, stage.images) for stage in self.stages)
        size = (stage.height, stage.width)
        if task.name == "image":
            size = stage.image_size or size
        video = torch.stack(
            [
                self.clips.read(step * stride + i, task.frames, size, self.scale, self.seed, self.frame_rate)
                for i in range(count)
            ]
        )
        clip = video if task.inputs == task.targets else video[:, :, list(task.inputs)]
        target = video if task.inputs == task.targets else video[:, :, list(task.targets)]
        return {"clip": clip, "target": target, "times": torch.tensor(task.times)}
