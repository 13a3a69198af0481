"""The reader of shape-world videos on known scenes: clean, degraded, small, large, empty."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from world import draw_scene, render

from regen.data.shape_world import DIRECTIONS, VALUES, ShapeScene
from regen.evaluate.shape_world_reader import Confusion, Reading, agreement, read_scene

SCENE = ShapeScene("two", "large", "plain", "green", "triangle", "left", "quickly", "pans right", "dark")
STILL = {"direction", "speed", "camera"}  # what one picture can't show


def degraded(video: Tensor, seed: int) -> Tensor:
    """Gaussian blur of 1 pixel and coloured noise of 8 levels."""
    bell = torch.exp(-(torch.arange(-3, 4) ** 2) / 2)
    kernel = bell / bell.sum()
    frames = functional.pad(video.permute(0, 3, 1, 2).float(), [3] * 4, mode="replicate").flatten(0, 1)
    soft = functional.conv2d(frames[:, None], kernel[None, None, None])
    soft = functional.conv2d(soft, kernel[None, None, :, None])
    image = soft[:, 0].unflatten(0, (len(video), 3)).permute(0, 2, 3, 1)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)) * 8
    return (image + noise).round().clamp(0, 255).byte()


@pytest.mark.parametrize(
    ("kind", "first", "videos", "size"),
    [
        ("clean", 0, 12, (17, 96, 160)),
        ("degraded", 1000, 10, (17, 96, 160)),
        ("small", 2000, 20, (17, 64, 96)),
        ("large", 3000, 1, (17, 192, 320)),
    ],
)
def test_attributes_are_read(kind, first, videos, size):
    """At 64 x 96 one mistake in 20 videos is allowed; hundreds of larger ones were read without any."""
    confusion = Confusion()
    for seed in range(first, first + videos):
        scene = draw_scene(seed, "unseen" if seed % 6 == 0 else "train")
        video = render(scene, *size, seed)
        confusion.update(scene, read_scene(degraded(video, seed) if kind == "degraded" else video))
    for name, accuracy in confusion.accuracy().items():
        assert accuracy >= (0.95 if kind == "small" else 1.0), name


def test_a_picture_shows_no_motion():
    reading = read_scene(render(SCENE, 1, 96, 160, seed=0))
    assert reading.visible
    assert {name for name in VALUES if getattr(reading, name) is None} == STILL
    assert {name for name, right in agreement(SCENE, reading).items() if not right} == STILL


def test_grey_videos_have_a_background_only():
    for level, word in ((60, "dark"), (180, "light")):
        grey = torch.full((17, 96, 160, 3), level, dtype=torch.uint8)
        noise = torch.randn(grey.shape, generator=torch.Generator().manual_seed(0)) * 8
        assert read_scene(grey) == Reading(visible=False, background=word)
        assert read_scene((grey + noise).round().byte()) == Reading(visible=False, background=word)


def test_a_background_alone_shows_the_camera():
    video = render(SCENE, 33, 96, 160, seed=1)
    grey = video.float().mean(3, keepdim=True).expand_as(video).round().byte()
    assert read_scene(grey) == Reading(visible=False, camera=SCENE.camera, background=SCENE.background)


def test_noise_has_no_camera_and_does_not_fail():
    noise = torch.randint(0, 256, (9, 40, 56, 3), generator=torch.Generator().manual_seed(2)).byte()
    assert read_scene(noise).camera is None


def test_shapes_that_stand_still_have_no_direction():
    video = render(SCENE, 1, 96, 160, seed=3).expand(17, -1, -1, -1)
    reading = read_scene(video)
    assert (reading.direction, reading.speed, reading.camera) == (None, None, "stays still")
    assert reading.colour == SCENE.colour


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_another_direction_is_not_read_as_right(direction):
    scene = replace(SCENE, direction=direction)
    video = render(scene, 17, 96, 160, seed=4)
    reading = read_scene(video)
    for other in DIRECTIONS:
        correct = agreement(replace(SCENE, direction=other), reading)
        assert correct.pop("direction") == (other == direction)
        assert all(correct.values())
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}[direction]
    assert read_scene(video.flip(0)).direction == opposite


def test_position_on_the_torus_does_not_matter():
    video = render(SCENE, 9, 96, 160, seed=5)
    expected = read_scene(video)
    for down, across in ((48, 0), (0, 80), (17, 131)):
        assert read_scene(video.roll((down, across), (1, 2))) == expected


def test_tint_does_not_matter():
    """A decoder's wrong tint, half of what counts as coloured."""
    video = render(SCENE, 9, 96, 160, seed=6)
    tinted = (video.int() + torch.tensor([15, 0, -10])).clamp(0, 255).byte()
    assert all(agreement(SCENE, read_scene(tinted)).values())


def test_speed_is_by_the_second():
    """The same frames shown at a third of the rate move slowly."""
    video = render(replace(SCENE, camera="stays still"), 17, 96, 160, seed=7)
    assert read_scene(video).speed == "quickly"
    assert read_scene(video, frame_rate=Fraction(25, 3)).speed == "slowly"


def test_confusion_counts():
    """Three videos: all right, the colour wrong, nothing visible."""
    right = Reading(visible=True, **vars(SCENE))
    confusion = Confusion()
    for reading in (right, replace(right, colour="cyan"), Reading(visible=False)):
        confusion.update(SCENE, reading)
    accuracy = confusion.accuracy()
    assert accuracy["colour"] == accuracy["colour+shape+direction"] == pytest.approx(1 / 3)
    assert all(accuracy[name] == pytest.approx(2 / 3) for name in VALUES if name != "colour")
    table = json.loads(json.dumps(confusion.table()))
    assert {read: number for read, number in table["colour"]["green"].items() if number} == {
        "green": 1,
        "cyan": 1,
        "unknown": 1,
    }
    assert all(sum(sum(row.values()) for row in rows.values()) == 3 for rows in table.values())
    assert Confusion().accuracy() == {}
