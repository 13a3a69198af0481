"""What a step of training asks for, and that it depends on (seed, step) alone (spec A7)."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regen.data.clips import ClipDataset
from regen.data.synthetic import write_dataset
from regen.data.tasks import (
    Stage,
    Task,
    TaskConfig,
    TrainingBatches,
    draw_task,
    extrapolation,
    image,
    interpolation,
    overlap,
    reconstruction,
)

RATIOS = st.sampled_from([4, 8, 16, 32])


def times_of(task: Task, ratio: int) -> list[float]:
    """The times that the targets' places among the inputs imply."""
    first, last = task.inputs[0], task.inputs[-1]
    return [(frame - first) / (last - first) for frame in task.targets]


@given(ratio=RATIOS, data=st.data())
def test_times_are_the_places_of_the_frames(ratio, data):
    shift = data.draw(st.integers(1, ratio // 4)) * data.draw(st.sampled_from([-1, 1]))
    start = data.draw(st.integers(0, ratio))
    for task in (
        reconstruction(ratio),
        interpolation(ratio, start),
        extrapolation(ratio, shift),
        overlap(ratio),
    ):
        assert task.times == pytest.approx(times_of(task, ratio))
        assert len(task.inputs) == ratio + 1
        assert len(task.targets) == len(task.times)
        used = {*task.inputs, *task.targets}
        assert min(used) >= 0
        assert max(used) < task.frames


def test_the_special_cases():
    assert image() == Task("image", 1, (0,), (0,), (0.0,))
    assert overlap(4).times == (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    assert interpolation(4, 1).times == (0.125, 0.25, 0.375, 0.5, 0.625)
    assert interpolation(4, 1).inputs == (0, 2, 4, 6, 8)


def shares(progress: float, config: TaskConfig) -> Counter:
    generator = torch.Generator().manual_seed(0)
    return Counter(draw_task(8, progress, config, generator).name for _ in range(600))


def test_shares_follow_the_schedule():
    config = TaskConfig()
    early, late = shares(0.0, config), shares(1.0, config)
    assert set(early) == {"image", "reconstruction"}
    assert abs(early["image"] / 600 - 0.2) < 0.06
    assert abs(late["interpolation"] / 600 - 0.2) < 0.06
    assert abs(late["extrapolation"] / 600 - 0.2) < 0.06
    middle = shares(0.525, config)
    assert abs(middle["interpolation"] / 600 - 0.8 * 0.15) < 0.05


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (TaskConfig(image_share=1.0), {"image"}),
        (TaskConfig(image_share=0.0, hold=1.0), {"reconstruction"}),
        (TaskConfig(image_share=0.0, hold=0.0, early=0.5), {"interpolation", "extrapolation"}),
        (TaskConfig(image_share=0.0, early=0.0, late=0.0), {"reconstruction"}),
    ],
)
def test_every_field_of_the_schedule_acts(config, names):
    assert set(shares(0.0 if config.hold == 0 else 0.5, config)) == names


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> ClipDataset:
    folder = tmp_path_factory.mktemp("clips")
    write_dataset(folder, videos=2, frames=12, height=40, width=48, seed=0)
    return ClipDataset([folder])


def batches(clips: ClipDataset, seed: int = 0, tasks: TaskConfig | None = None) -> TrainingBatches:
    stages = (Stage(16, 24, clips=3, images=5, until=0.5), Stage(32, 32, clips=1, images=2))
    return TrainingBatches(clips, 4, tasks or TaskConfig(), stages, (0.5, 1.0), steps=10, seed=seed)


def test_a_batch_is_a_function_of_seed_and_step(clips):
    first, again, other = batches(clips)[3], batches(clips)[3], batches(clips, seed=1)[3]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["clip"].shape != other["clip"].shape or not torch.equal(first["clip"], other["clip"])
    assert len(batches(clips)) == 10


def test_stages_change_size_and_count(clips):
    data = batches(clips, tasks=TaskConfig(image_share=0.0, hold=1.0))
    assert data[4]["clip"].shape == (3, 3, 5, 16, 24)
    assert data[5]["clip"].shape == (1, 3, 5, 32, 32)
    assert torch.equal(data[4]["clip"], data[4]["target"])
    stills = batches(clips, tasks=TaskConfig(image_share=1.0))
    assert stills[0]["clip"].shape == (5, 3, 1, 16, 24)
    assert stills[9]["times"].tolist() == [0.0]


def test_neighbouring_steps_share_no_sample(clips):
    data = batches(clips, tasks=TaskConfig(image_share=1.0))
    seen = torch.cat([data[step]["clip"] for step in range(5)]).flatten(1)
    assert torch.cdist(seen, seen).fill_diagonal_(1).min() > 0


def test_stages_must_cover_the_training(clips):
    with pytest.raises(ValueError, match="last at 1"):
        TrainingBatches(clips, 4, TaskConfig(), (Stage(16, 16, 1, 1, until=0.5),), (1.0, 1.0), 10, 0)


@pytest.mark.parametrize("stage", [(20, 16, 1, 1), (16, 0, 1, 1), (16, 16, 0, 1), (16, 16, 1, 0)])
def test_impossible_stages_are_told(stage):
    with pytest.raises(ValueError, match="training"):
        Stage(*stage)


@pytest.mark.parametrize("shares", [{"image_share": 1.2}, {"hold": -0.1}, {"early": 0.6}, {"late": 0.51}])
def test_impossible_shares_are_told(shares):
    with pytest.raises(ValueError, match="between 0 and 1"):
        TaskConfig(**shares)


def test_images_may_have_a_size_of_their_own(clips):
    stage = Stage(16, 24, clips=1, images=2, image_size=(32, 8))
    data = TrainingBatches(clips, 4, TaskConfig(image_share=1.0), (stage,), (1.0, 1.0), 1, 0)
    assert data[0]["clip"].shape == (2, 3, 1, 32, 8)


def test_clips_at_a_frame_rate_of_their_own(clips):
    """At half the rate of the videos, a clip of 5 frames shows what 9 frames of the video show."""
    stage, tasks = Stage(16, 16, clips=1, images=1), TaskConfig(image_share=0.0, hold=1.0)
    rate = clips.media[0].frame_rate / 2
    slow = TrainingBatches(clips, 4, tasks, (stage,), (1.0, 1.0), 1, 0, rate)[0]["clip"]
    fast = TrainingBatches(clips, 4, tasks, (stage,), (1.0, 1.0), 1, 0)[0]["clip"]
    assert slow.shape == fast.shape
    assert not torch.equal(slow, fast)
