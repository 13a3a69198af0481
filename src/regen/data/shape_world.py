"""Shape world: captions and classes of toy videos of moving shapes.

Every video (`benchmarks/world.py` makes them) shows one to three equal shapes that move the same way over a
grey background, while the camera stays or pans. All words of a caption come from a short list, so a program
can check generated videos (`regen.evaluate.shape_world_reader`). The picture is a torus.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

FRAME_RATE = Fraction(25)
COUNTS = ("one", "two", "three")
SIZES = {"small": 0.1, "large": 0.17}  # half a shape's height, in heights of the picture
COLOURS = {
    "red": (0.86, 0.16, 0.16),
    "yellow": (0.92, 0.80, 0.14),
    "green": (0.18, 0.70, 0.26),
    "cyan": (0.20, 0.78, 0.86),
    "blue": (0.18, 0.30, 0.86),
    "purple": (0.68, 0.22, 0.80),
}
TEXTURES = ("plain", "striped")
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (y, x)
SPEEDS = {"slowly": 0.1, "quickly": 0.32}  # heights a second, give or take an eighth
CAMERAS = {"stays still": 0.0, "pans left": -0.2, "pans right": 0.2}  # heights a second
BACKGROUNDS = {"dark": 0.2, "light": 0.72}


@dataclass(frozen=True)
class ShapeScene:
    """The content of a caption; the fields are words of the lists above."""

    count: str
    size: str
    texture: str
    colour: str
    shape: str
    direction: str
    speed: str
    camera: str
    background: str

    def caption(self, wording: int = 0) -> str:
        """The caption; `wording` 0 and 1 are two orders of the same words."""
        ending = "" if self.count == "one" else "es" if self.shape.endswith("s") else "s"
        subject = f"{self.count} {self.size} {self.texture} {self.colour} {self.shape}{ending}"
        motion = f"{'moves' if self.count == 'one' else 'move'} {self.direction} {self.speed}"
        if wording == 0:
            return f"{subject} {motion} on a {self.background} background while the camera {self.camera}"
        return f"the camera {self.camera}: on a {self.background} background {subject} {motion}"

    @property
    def label(self) -> int:
        """The class: the number of `class_name` in `CLASSES`."""
        return CLASSES.index(self.class_name)

    @property
    def class_name(self) -> str:
        """Shape and direction, such as "circle moving left"."""
        return f"{self.shape} moving {self.direction}"

    @property
    def is_unseen(self) -> bool:
        """Whether this colour, shape and direction are held out of the training (one in six is)."""
        i, j, k = (VALUES[name].index(getattr(self, name)) for name in ("colour", "shape", "direction"))
        return (i + 2 * j + k) % 6 == 0


VALUES: dict[str, tuple[str, ...]] = {
    "count": COUNTS,
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "direction": tuple(DIRECTIONS),
    "speed": tuple(SPEEDS),
    "camera": tuple(CAMERAS),
    "background": tuple(BACKGROUNDS),
}
EXAMPLE = ShapeScene(*(words[-1] for words in VALUES.values())).caption()
CLASSES = tuple(f"{shape} moving {direction}" for shape, direction in product(SHAPES, DIRECTIONS))

_SCENES = [
    replace(ShapeScene(*(words[0] for words in VALUES.values())), **{name: word}, count=count)
    for name, words in VALUES.items()
    if name != "count"
    for word in words
    for count in COUNTS
]
VOCABULARY = frozenset(re.findall(r"\w+", " ".join(scene.caption(1) for scene in _SCENES))) | {"while"}
"""The words of all captions."""


def parse_caption(caption: str) -> ShapeScene | None:
    """The scene of a caption in either wording, the inverse of `ShapeScene.caption`, or None."""
    text, groups = caption.strip(), {name: f"(?P<{name}>{'|'.join(words)})" for name, words in VALUES.items()}
    subject = "{count} {size} {texture} {colour} {shape}(e?s)? moves? {direction} {speed}"
    where, camera = "on a {background} background", "the camera {camera}"
    for wording, order in enumerate((f"{subject} {where} while {camera}", f"{camera}: {where} {subject}")):
        match = re.fullmatch(order.format(**groups), text)
        scene = ShapeScene(**match.groupdict()) if match else None
        if scene is not None and scene.caption(wording) == text:
            return scene
    return None


def template(shape: str, side: int) -> Float[Tensor, "{side} {side}"]:
    """Coverage in [0, 1] of each pixel by a shape that fills a square picture."""
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    return (0.5 - shape_distance(shape, axis[:, None], axis[None, :]) * side / 2).clamp(0, 1)


def shape_distance(shape: str, v: Float[Tensor, "..."], u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Signed distance to the edge of a shape from -1 to 1, negative inside; v down, u across."""
    if shape == "circle":
        return torch.sqrt(v * v + u * u) - 1
    if shape == "square":
        return torch.maximum(v.abs(), u.abs()) - 0.95
    if shape == "triangle":
        return torch.maximum(v - 0.9, (1.8 * u.abs() - 0.95 * (v + 0.95)) / 2.035)
    assert shape == "cross", shape
    upright, lying = torch.maximum(v.abs() - 1, u.abs() - 0.34), torch.maximum(v.abs() - 0.34, u.abs() - 1)
    return torch.minimum(upright, lying)
