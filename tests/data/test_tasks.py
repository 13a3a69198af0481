"""Training tasks and batches: shares, times, sizes, and that a batch depends on (seed, step) alone."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from movies import make_movie
from shapes import write_dataset

from regen.data.batches import TrainingBatches
from regen.data.clips import ClipDataset, ClipSpec
from regen.data.tasks import (
    SPACINGS,
    Stage,
    Task,
    TaskConfig,
    chunk_overlap,
    draw_task,
    extrapolation,
    image,
    interpolation,
    reconstruction,
    subsample_targets,
)
from regen.runtime import generator_for

RATIOS = st.sampled_from([4, 8, 16, 32])


def times_of(task: Task, ratio: int) -> list[float]:
    """The times that the targets' places among the inputs imply."""
    first, last = task.inputs[0], task.inputs[-1]
    return [(frame - first) / (last - first) for frame in task.targets]


@given(ratio=RATIOS, data=st.data())
def test_times_are_the_places_of_the_frames(ratio, data):
    shift = data.draw(st.integers(1, ratio // 4)) * data.draw(st.sampled_from([-1, 1]))
    count = data.draw(st.integers(1, ratio + 1))
    between = [interpolation(ratio, spacing) for spacing in SPACINGS]
    for task in (
        reconstruction(ratio),
        *between,
        *(subsample_targets(task, count, torch.Generator()) for task in between),
        extrapolation(ratio, shift),
        chunk_overlap(ratio),
    ):
        assert task.times == pytest.approx(times_of(task, ratio))
        assert len(task.inputs) == ratio + 1
        assert len(task.targets) == len(task.times)
        used = {*task.inputs, *task.targets}
        assert min(used) >= 0
        assert max(used) < task.frames


def test_frames_and_times_of_tasks_at_ratio_4():
    assert image() == Task("image", 1, (0,), (0,), (0.0,))
    assert chunk_overlap(4).times == (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    assert interpolation(4, 2).times == tuple(i / 8 for i in range(9))
    assert interpolation(4, 2).inputs == (0, 2, 4, 6, 8)
    assert (interpolation(4, 4).frames, interpolation(4, 4).inputs) == (17, (0, 4, 8, 12, 16))


def test_interpolation_draws_times_of_any_distance_in_order():
    """1 + k of all frames: at every fourth of a frame, next to each other or far apart, of both spacings."""
    config, generator = TaskConfig(0.0, 0.0, share_start=0.5, share_end=0.5), torch.Generator().manual_seed(0)
    drawn = [draw_task(8, 0.5, config, generator) for _ in range(200)]
    tasks = [task for task in drawn if task.name == "interpolation"]
    assert all(list(task.times) == sorted({*task.times}) and len(task.times) == 9 for task in tasks)
    assert {task.frames for task in tasks} == {17, 33}
    assert {time for task in tasks for time in task.times} == {i / 32 for i in range(33)}
    gaps = {round(32 * (after - before)) for task in tasks for before, after in pairwise(task.times)}
    assert gaps >= {1, 2, 3, 4, 6, 8}
    only = [draw_task(8, 0.5, config, generator, (2,)).frames for _ in range(50)]
    assert 17 in only and 33 not in only


def shares(progress: float, config: TaskConfig, draws: int = 50) -> Counter:
    generator = torch.Generator().manual_seed(0)
    return Counter(draw_task(8, progress, config, generator).name for _ in range(draws))


def test_shares_follow_the_schedule():
    """300 draws: 3.5 standard deviations of a share of 0.2 are 0.08."""
    config = TaskConfig()
    early, middle, late = (shares(progress, config, 300) for progress in (0.0, 0.525, 1.0))
    assert set(early) == {"image", "reconstruction"}
    assert abs(early["image"] / 300 - 0.2) < 0.08
    assert abs(middle["interpolation"] / 300 - 0.8 * 0.15) < 0.08
    assert abs(late["interpolation"] / 300 - 0.2) < 0.08
    assert abs(late["extrapolation"] / 300 - 0.2) < 0.08


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (TaskConfig(image_share=1.0), {"image"}),
        (TaskConfig(image_share=0.0, warmup_fraction=1.0), {"reconstruction"}),
        (TaskConfig(image_share=0.0, share_start=0.0, share_end=0.0), {"reconstruction"}),
        (
            TaskConfig(0.0, warmup_fraction=0.0, share_start=0.5, share_end=0.5),
            {"interpolation", "extrapolation"},
        ),
    ],
)
def test_every_field_of_the_schedule_acts(config, names):
    assert set(shares(0.5, config)) == names


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> ClipDataset:
    folder = tmp_path_factory.mktemp("clips")
    write_dataset(folder, videos=2, frames=12, height=40, width=48, seed=0)
    return ClipDataset([folder])


def batches(clips: ClipDataset, seed: int = 0, tasks: TaskConfig | None = None) -> TrainingBatches:
    stages = (
        Stage(16, 24, video_batch_size=3, image_batch_size=5, until=0.5),
        Stage(32, 32, video_batch_size=1, image_batch_size=2),
    )
    return TrainingBatches(clips, 4, tasks or TaskConfig(), stages, (0.5, 1.0), steps=10, seed=seed)


def test_a_batch_is_a_function_of_seed_and_step(clips):
    whole = (3, 0, 1)
    first, again, other = (batches(clips, seed)[whole] for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["clip"], other["clip"])
    assert len(batches(clips)) == 10


def test_conditions_are_those_of_the_samples_of_each_part(clips):
    """Of the media that were drawn, in the order of the rows."""
    plain, batch = batches(clips), batches(clips)
    batch.conditions = lambda numbers: {"label": torch.tensor(numbers) + 100}
    assert "label" not in plain[0, 0, 1]
    for step in range(5):
        whole = batch[step, 0, 1]
        count, stride = int(whole["batch_size"]), batch.stride
        task = draw_task(4, step / batch.steps, batch.tasks, generator_for(0, -2, step), batch.spacings)
        for row, label in enumerate(whole["label"].tolist()):
            cut = ClipSpec(task.frames, whole["clip"].shape[-2:], batch.scale)
            assert label == 100 + clips.draw(step * stride + row, cut, 0).number
        parts = torch.cat([batch[step, part, 2]["label"] for part in range(2)])
        assert torch.equal(parts, whole["label"]) and len(parts) == count
        assert all(torch.equal(value, whole[name]) for name, value in plain[step, 0, 1].items())


def test_stages_change_size_and_count(clips):
    data = batches(clips, tasks=TaskConfig(image_share=0.0, warmup_fraction=1.0))
    assert data[4, 0, 1]["clip"].shape == (3, 3, 5, 16, 24)
    assert data[5, 0, 1]["clip"].shape == (1, 3, 5, 32, 32)
    assert torch.equal(data[4, 0, 1]["clip"], data[4, 0, 1]["target"])
    stills = batches(clips, tasks=TaskConfig(image_share=1.0))
    assert stills[0, 0, 1]["clip"].shape == (5, 3, 1, 16, 24)
    assert stills[9, 0, 1]["times"].tolist() == [0.0]


def test_a_margin_is_read_around_each_crop(clips):
    """For videos and images, in any bucket; the batch says how wide it is."""
    for share, frames in ((0.0, 5), (1.0, 1)):
        tasks = TaskConfig(image_share=share, warmup_fraction=1.0)
        stages = (
            Stage(8, 16, 2, image_batch_size=2, until=0.5, margin=8),
            Stage(8, 16, 2, buckets=((16, 16),), image_buckets=((16, 24),), image_batch_size=2, margin=8),
        )
        data = TrainingBatches(clips, 4, tasks, stages, (0.5, 1.0), steps=2, seed=0)
        assert data[0, 0, 1]["clip"].shape == data[0, 0, 1]["target"].shape == (2, 3, frames, 24, 32)
        assert data[1, 0, 1]["clip"].shape == (2, 3, frames, 32, 40 if share else 32)
        assert [int(data[step, 0, 1]["margin"]) for step in range(2)] == [8, 8]
    assert int(batches(clips)[0, 0, 1]["margin"]) == 0
    for margin in (-8, 4):
        with pytest.raises(ValueError, match=f"multiple of 8, got {margin}"):
            Stage(16, 16, 1, margin=margin)


def test_neighbouring_steps_share_no_sample(clips):
    data = batches(clips, tasks=TaskConfig(image_share=1.0))
    seen = torch.cat([data[step, 0, 1]["clip"] for step in range(5)]).flatten(1).float()
    assert torch.cdist(seen, seen).fill_diagonal_(1).min() > 0


def test_impossible_batches(clips):
    with pytest.raises(ValueError, match="last be 1"):
        TrainingBatches(clips, 4, TaskConfig(), (Stage(16, 16, 1, 1, until=0.5),), (1.0, 1.0), 10, 0)
    with pytest.raises(ValueError, match="A batch of 5 samples can't be divided into 6 parts"):
        batches(clips, tasks=TaskConfig(image_share=1.0))[0, 0, 6]


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (Stage, {"height": 20}, "multiples of 8, got 20"),
        (Stage, {"video_batch_size": 0}, "at least 1 video"),
        (Stage, {"image_batch_size": 0}, "1 image"),
        (Stage, {"buckets": ((16, 16), (16, 20))}, "multiples of 8, got 20"),
        (Stage, {"image_buckets": ((4, 16),)}, "multiples of 8, got 4"),
        (TaskConfig, {"image_share": 1.2}, "from 0 to 1"),
        (TaskConfig, {"warmup_fraction": -0.1}, "from 0 to 1"),
        (TaskConfig, {"share_start": 0.6}, "at most 0.5"),
        (TaskConfig, {"share_end": 0.51}, "at most 0.5"),
        (TaskConfig, {"decoded_frames": 0}, "decoded_frames must be at least 1, got 0"),
    ],
)
def test_invalid_options(make, arguments, words):
    defaults = {"height": 16, "width": 16, "video_batch_size": 1} if make is Stage else {}
    with pytest.raises(ValueError, match=words):
        make(**(defaults | arguments))


@pytest.mark.parametrize("parts", [2, 5])
@pytest.mark.parametrize(
    "tasks", [TaskConfig(image_share=1.0), TaskConfig(image_share=0.0, warmup_fraction=0.0)]
)
def test_parts_are_the_rows_of_the_whole_batch(clips, parts, tasks):
    stage = Stage(16, 24, video_batch_size=5, image_batch_size=7)
    data = TrainingBatches(clips, 4, tasks, (stage,), (0.5, 1.0), 4, 0)
    whole = data[2, 0, 1]
    count = int(whole["batch_size"])
    assert whole["rows"].tolist() == list(range(count))
    items = [data[2, part, parts] for part in range(parts)]
    for name in ("clip", "target", "rows"):
        assert torch.equal(torch.cat([item[name] for item in items]), whole[name])
    for name in ("times", "batch_size"):
        assert all(torch.equal(item[name], whole[name]) for item in items)
    sizes = [len(item["rows"]) for item in items]
    assert {int(item["least"]) for item in items} == {min(sizes)}
    assert max(sizes) - min(sizes) <= 1
    assert whole["clip"].dtype == torch.uint8
    assert whole["replaced"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("stage", "ratio", "expected"),
    [
        (Stage(192, 320, video_batch_size=6, image_buckets=((256, 256),)), 4, 28),
        (Stage(64, 64, video_batch_size=1, image_buckets=((512, 512),)), 4, 1),
        (Stage(16, 24, video_batch_size=3), 8, 27),
        (Stage(16, 24, video_batch_size=3, image_batch_size=5), 8, 5),
    ],
)
def test_images_have_the_tokens_of_the_clips(stage, ratio, expected):
    """28 images of 256x256 for 6 clips of 5 frames of 192x320."""
    assert stage.batch_size(image(), ratio) == expected
    assert stage.batch_size(reconstruction(ratio), ratio) == stage.video_batch_size


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> ClipDataset:
    """Wide, square and tall media; each has a colour of its own, and the tall ones are short."""
    folder = tmp_path_factory.mktemp("shapes")
    for index, (size, frames) in enumerate([((32, 64), 12), ((40, 44), 6), ((64, 32), 3)]):
        images = [np.full((*size, 3), 60 + 60 * index, np.uint8)] * frames
        make_movie(folder / f"{index}.mp4", images)
    return ClipDataset([folder])


def test_a_batch_has_the_exact_size_of_a_bucket_and_only_media_near_to_it(shapes):
    videos, images = ((16, 32), (32, 32), (32, 16)), ((24, 48), (48, 48), (64, 32))
    stage = Stage(32, 32, 2, image_batch_size=3, buckets=videos, image_buckets=images)
    tasks = TaskConfig(image_share=0.5, warmup_fraction=1.0)
    data = TrainingBatches(shapes, 4, tasks, (stage,), None, 300, 0)
    drawn = Counter()
    for step in range(60):
        video = data[step, 0, 1]["clip"]
        brightness = video.float().mean(dim=(1, 2, 3, 4))
        assert brightness.max() - brightness.min() < 4, "all of one bucket"
        bucket = round((float(brightness.mean()) - 60) / 60)
        frames = video.shape[2]
        assert video.shape[-2:] == (images if frames == 1 else videos)[bucket]
        drawn[frames, bucket] += 1
    assert drawn.keys() == {(1, 0), (1, 1), (1, 2), (5, 0), (5, 1)}, "the tall video is too short for clips"
    assert 1.1 < drawn[5, 0] / drawn[5, 1] < 4, "12 frames weigh twice as much as 6"


def test_clips_at_a_frame_rate_of_their_own(clips):
    """At half the rate of the videos, a clip of 5 frames shows what 9 frames of the video show."""
    stage, tasks = Stage(16, 16, video_batch_size=1), TaskConfig(image_share=0.0, warmup_fraction=1.0)
    rate = float(clips.columns.frame_rate[0]) / 2
    slow = TrainingBatches(clips, 4, tasks, (stage,), (1.0, 1.0), 1, 0, rate)[0, 0, 1]["clip"]
    fast = TrainingBatches(clips, 4, tasks, (stage,), (1.0, 1.0), 1, 0)[0, 0, 1]["clip"]
    assert slow.shape == fast.shape
    assert not torch.equal(slow, fast)


def test_some_frames_of_a_chunk_are_decoded(clips):
    """The encoder sees the whole chunk; the targets are some of it at their times, others in other steps."""
    config = TaskConfig(image_share=0.0, warmup_fraction=1.0)
    few, many, whole = (batches(clips, tasks=replace(config, decoded_frames=n)) for n in (2, 99, None))
    assert torch.equal(many[0, 0, 1]["target"], whole[0, 0, 1]["target"])
    stills = batches(clips, tasks=TaskConfig(image_share=1.0, decoded_frames=2))
    assert stills[0, 0, 1]["target"].shape[2] == 1
    drawn = set()
    for step in range(10):
        some, everything = few[step, 0, 1], whole[step, 0, 1]
        assert torch.equal(some["clip"], everything["clip"])
        chosen = (4 * some["times"]).long().tolist()
        assert chosen == sorted({*chosen}) and len(chosen) == 2
        assert torch.equal(some["target"], everything["target"][:, :, chosen])
        drawn.add(tuple(chosen))
    assert len(drawn) > 3
    assert {frame for chosen in drawn for frame in chosen} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("frames", "spacings"), [(40, (2, 4)), (16, (2,)), (5, ())])
def test_targets_are_the_frames_at_their_times(tmp_path, frames, spacings):
    """In a video that brightens steadily, brightness tells the time; a spacing of 4 needs longer videos."""
    images = [np.full((16, 16, 3), 40 + 4 * index, np.uint8) for index in range(frames)]
    make_movie(tmp_path / "brighter.mp4", images)
    tasks = TaskConfig(image_share=0.0, warmup_fraction=float(not spacings), share_start=0.5, share_end=0.5)
    stage = Stage(16, 16, video_batch_size=1)
    data = TrainingBatches(ClipDataset([tmp_path]), 4, tasks, (stage,), (1.0, 1.0), 60, 0)
    assert data.spacings == spacings
    slopes = set()
    for step in range(60):
        item = data[step, 0, 1]
        clip, target = (item[name].float().mean(dim=(0, 1, 3, 4)) for name in ("clip", "target"))
        assert len(clip) == 5
        slope = (clip[-1] - clip[0]) / 4
        assert (clip - clip[0] - slope * torch.arange(5)).abs().max() < 3, "8-bit, coded with loss"
        assert (target - clip[0] - 4 * slope * item["times"]).abs().max() < 3
        slopes.add(round(float(slope) / 4))
    assert slopes == {1, *spacings}
