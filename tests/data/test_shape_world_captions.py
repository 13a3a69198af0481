"""Captions of the world: each tells its scene, in either wording, and nothing else does."""

from itertools import islice, product

import pytest

from regen.data.shape_world import VALUES, ShapeScene, draw_scene, parse_caption


def test_every_scene_is_read_back_from_its_caption() -> None:
    for words in islice(product(*VALUES.values()), 0, None, 7):
        scene = ShapeScene(*words)
        assert [parse_caption(scene.caption(wording)) for wording in (0, 1)] == [scene, scene]


def test_white_space_around_a_caption_does_not_matter() -> None:
    scene = draw_scene(5)
    assert parse_caption(f"  {scene.caption(1)}\n") == scene


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("two", "four"),
        ("circles", "circle"),
        ("move", "moves"),
        ("background", "wall"),
        ("stays still", "stays"),
        ("two", "a film of two"),
    ],
)
def test_another_text_is_no_scene(old: str, new: str) -> None:
    scene = ShapeScene("two", "small", "plain", "red", "circle", "left", "slowly", "stays still", "dark")
    for wording in (0, 1):
        assert parse_caption(scene.caption(wording).replace(old, new, 1)) is None
    assert parse_caption("") is None
