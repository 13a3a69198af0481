"""Toy videos: pixels match captions, captions are parsed back, all follows from the seed."""

import json
import math
from dataclasses import fields, replace
from itertools import islice, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import moving_shapes
from torch import Tensor
from world import draw_scene, render, scenes, write_shape_world

from regen.data import shape_world as world
from regen.data.shape_world import CLASSES, VALUES, ShapeScene, parse_caption
from regen.media.reader import VideoReader

SCENE = ShapeScene("one", "small", "plain", "red", "circle", "left", "quickly", "stays still", "dark")


def chroma(video: Tensor) -> Tensor:
    """How coloured each pixel is, in levels: 0 for the background."""
    return (video.amax(-1).int() - video.amin(-1).int()).float()


def centre(weight: Tensor, axis: int) -> float:
    """Mean place on the circle that the picture is along one axis, in turns."""
    angle = torch.arange(weight.shape[axis]) * (2 * math.pi / weight.shape[axis])
    mass = weight.sum(1 - axis)
    return math.atan2(float((mass * angle.sin()).sum()), float((mass * angle.cos()).sum())) / (2 * math.pi)


def test_every_word_has_its_field_and_captions_have_every_word():
    assert list(VALUES) == [field.name for field in fields(ShapeScene)]
    for scene, caption in scenes(50, seed=1):
        assert caption in (scene.caption(0), scene.caption(1))
        for wording in (0, 1):
            assert all(getattr(scene, name) in scene.caption(wording) for name in VALUES)
    assert len({caption.startswith("the camera") for _, caption in scenes(50, seed=1)}) == 2, "both wordings"
    assert SCENE.caption() == (
        "one small plain red circle moves left quickly on a dark background while the camera stays still"
    )
    assert "two small plain red crosses move left" in replace(SCENE, count="two", shape="cross").caption()


def test_unseen_is_one_combination_in_six_and_takes_no_word_away():
    combinations = list(product(world.COLOURS, world.SHAPES, world.DIRECTIONS))
    names = "colour", "shape", "direction"
    seen = [
        words
        for words in combinations
        if not replace(SCENE, **dict(zip(names, words, strict=True))).is_unseen
    ]
    assert (len(combinations), len(seen)) == (96, 80)
    values = [{*world.COLOURS}, {*world.SHAPES}, {*world.DIRECTIONS}]
    assert [{*words} for words in zip(*seen, strict=True)] == values


def test_splits_are_disjoint_and_draw_every_word():
    drawn = {
        split: {(scene.colour, scene.shape, scene.direction) for scene, _ in scenes(200, 3, split)}
        for split in ("train", "unseen")
    }
    assert not drawn["train"] & drawn["unseen"]
    assert len(drawn["unseen"]) > 12, "of 16"
    many = [draw_scene(seed) for seed in range(150)]
    assert all({getattr(scene, name) for scene in many} == set(words) for name, words in VALUES.items())


@pytest.mark.parametrize("seed", range(3))
def test_frames_follow_from_the_seed_alone(seed):
    scene = draw_scene(seed)
    whole = render(scene, 33, 48, 80, seed)
    for frames in (1, 2, 9):
        assert torch.equal(render(scene, frames, 48, 80, seed), whole[:frames])
    assert not torch.equal(render(scene, 1, 48, 80, seed + 1), whole[:1])


@given(st.integers(1, 4), st.integers(24, 71), st.integers(24, 71), st.integers(0, 1000))
def test_any_size(frames, height, width, seed):
    video = render(replace(draw_scene(seed), count="one"), frames, height, width, seed)
    assert video.shape == (frames, height, width, 3)
    assert video.dtype == torch.uint8
    assert chroma(video).amax((1, 2)).min() > 30, "a coloured shape in each frame"


@pytest.mark.parametrize("speed", world.SPEEDS)
@pytest.mark.parametrize("direction", world.DIRECTIONS)
def test_shapes_move_as_captioned(direction, speed):
    """The way of the centre over one second, added up from frame to frame, around the torus too."""
    video = chroma(render(replace(SCENE, direction=direction, speed=speed), 26, 64, 96, seed=5))
    way = []
    for axis, length in ((0, 1.0), (1, 96 / 64)):
        places = [centre(frame, axis) for frame in video]
        steps = [(b - a + 0.5) % 1 - 0.5 for a, b in pairwise(places)]
        way.append(sum(steps) * length)
    along = sum(a * b for a, b in zip(way, world.DIRECTIONS[direction], strict=True))
    aside = sum(a * b for a, b in zip(way, world.DIRECTIONS[direction][::-1], strict=True))
    assert 0.86 * world.SPEEDS[speed] < along < 1.14 * world.SPEEDS[speed]
    assert abs(aside) < 0.01


def test_what_leaves_on_one_side_comes_in_on_the_other():
    """Over five seconds it crosses the border, in two halves, and its area stays what it was."""
    video = chroma(render(SCENE, 126, 48, 64, seed=6))
    area = video.sum((1, 2))
    assert float((area / area[0] - 1).abs().max()) < 0.02
    edges = (video[:, :, 0] > 30).any(1) & (video[:, :, -1] > 30).any(1)
    assert edges.any() and not edges.all()


@pytest.mark.parametrize(
    ("camera", "speed"), [("stays still", 0.0), ("pans left", 0.2), ("pans right", -0.2)]
)
def test_the_background_goes_the_other_way_than_the_camera(camera, speed):
    """After a second it looks like the first frame, shifted; the rows of the shape are left out."""
    video = render(replace(SCENE, camera=camera, direction="right"), 26, 100, 160, seed=7)
    clear = chroma(video).amax((0, 2)) == 0
    shifted = video[0].roll(round(speed * 100), 1)[clear]
    assert clear.sum() > 50
    assert int((video[25][clear].int() - shifted.int()).abs().max()) <= 1
    if speed:
        assert int((video[25][clear].int() - video[0][clear].int()).abs().max()) > 8


def test_backgrounds_colours_sizes_and_textures_match_the_caption():
    for word, level in world.BACKGROUNDS.items():
        median = render(replace(SCENE, background=word), 1, 96, 160, seed=8).median() / 255
        assert float(median) == pytest.approx(level, abs=0.05)
    for word, colour in world.COLOURS.items():
        video = render(replace(SCENE, colour=word), 1, 96, 160, seed=9)
        shape = video[chroma(video) > 0.9 * chroma(video).max()].float().mean(0) / 255
        assert torch.allclose(shape, torch.tensor(colour), atol=0.05)
    for word, size in world.SIZES.items():
        rows = (chroma(render(replace(SCENE, size=word), 1, 192, 320, seed=10)) > 60).any(2).sum()
        assert int(rows) / 192 / 2 == pytest.approx(size, rel=0.1)
    textures = (replace(SCENE, texture=texture) for texture in ("plain", "striped"))
    plain, striped = (chroma(render(scene, 1, 96, 160, seed=11)) for scene in textures)
    dark = (striped < 0.6 * plain) & (plain > 0.9 * plain.max())
    assert 0.3 < float(dark.sum() / (plain > 0.9 * plain.max()).sum()) < 0.7


@pytest.mark.parametrize("shape", world.SHAPES)
def test_templates_cover_what_the_shape_does(shape):
    """The areas by geometry, in the square from -1 to 1; all are the same left and right."""
    area = {
        "circle": math.pi,
        "square": 1.9**2,
        "triangle": 1.85**2 * 0.95 / 1.8,
        "cross": 2 * 2 * 0.68 - 0.68**2,
    }[shape]
    picture = world.template(shape, 64)
    assert picture.shape == (64, 64) and picture.min() == 0 and picture.max() == 1
    assert torch.equal(picture, picture.flip(1))
    assert float(picture.mean()) * 4 == pytest.approx(area, rel=0.02)


def test_three_large_shapes_need_room():
    scene = replace(draw_scene(0), count="three", size="large")
    assert len(render(scene, 1, 64, 64, 0)) == 1
    with pytest.raises(ValueError, match="at least as wide"):
        render(scene, 1, 64, 24, 0)


def test_written_worlds_are_the_same_and_left_as_they_are(tmp_path):
    for name in ("a", "b"):
        write_shape_world(tmp_path / name, 3, 5, 32, 48, seed=12)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["classes.json", "world.json"] + [
        f"world_0000{i}.{end}" for i in range(3) for end in ("cls", "mp4", "txt")
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    for index, (scene, caption) in enumerate(scenes(3, seed=12)):
        stem = tmp_path / "a" / f"world_{index:05d}"
        assert stem.with_suffix(".txt").read_text() == caption + "\n"
        assert CLASSES[int(stem.with_suffix(".cls").read_text())] == scene.class_name
        with VideoReader(stem.with_suffix(".mp4")) as reader:
            assert sum(1 for _ in reader) == 5
    assert json.loads((tmp_path / "a" / "classes.json").read_text()) == {n: i for i, n in enumerate(CLASSES)}

    marked = tmp_path / "a" / "world_00001.mp4"
    marked.write_bytes(b"mine")
    calls: list[tuple[int, int]] = []
    write_shape_world(
        tmp_path / "a", 4, 5, 32, 48, seed=12, on_progress=lambda done, total: calls.append((done, total))
    )
    assert marked.read_bytes() == b"mine"
    assert (tmp_path / "a" / "world_00003.mp4").exists()
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(ValueError, match="give another folder"):
        write_shape_world(tmp_path / "a", 4, 5, 32, 48, seed=13)


def test_every_scene_is_read_back_from_its_caption():
    for words in islice(product(*VALUES.values()), 0, None, 31):
        scene = ShapeScene(*words)
        assert [parse_caption(scene.caption(wording)) for wording in (0, 1)] == [scene, scene]
    assert parse_caption(f"  {SCENE.caption(1)}\n") == SCENE, "white space does not matter"


@pytest.mark.parametrize(
    ("old", "new"),
    [("two", "four"), ("circles", "circle"), ("move", "moves"), ("stays still", "stays"), ("two", "now two")],
)
def test_another_text_is_no_scene(old, new):
    scene = replace(SCENE, count="two")
    for wording in (0, 1):
        assert parse_caption(scene.caption(wording).replace(old, new, 1)) is None
    assert parse_caption("") is None


def test_shapes_follow_the_seed_and_move():
    video = moving_shapes(5, 33, 47, seed=1)
    assert video.shape == (5, 33, 47, 3)
    assert torch.equal(video, moving_shapes(5, 33, 47, seed=1))
    assert not torch.equal(video, moving_shapes(5, 33, 47, seed=2))
    assert (video[1:].float() - video[:-1].float()).abs().mean() > 1
    assert video.float().std() > 20
    assert torch.equal(video[:3], moving_shapes(3, 33, 47, seed=1)), "more frames continue the same video"
