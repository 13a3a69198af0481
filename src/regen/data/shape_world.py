"""Toy videos of moving shapes with captions and classes.

Every video shows one to three equal shapes that move the same way over a grey background, while the camera
stays or pans. All words of a caption come from a short list, so a program can check generated videos
(`regen.evaluate.shape_world_reader`). The picture is a torus.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.media.reader import VideoWriter
from regen.runtime import fold_seed, generator_for

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
WAVES = 3  # of the background
STRIPES = 0.62  # of half a shape's height, from one dark stripe to the next
MIN_GAP = 2.5  # between the centres of shapes, in half heights of a shape
MAX_TRIES = 10_000  # to place them

Split = Literal["train", "unseen"]
Value = TypeVar("Value", float, Tensor)


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
CLASSES = tuple(f"{shape} moving {direction}" for shape, direction in product(SHAPES, DIRECTIONS))


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


def draw_scene(seed: int, split: Split = "train") -> ShapeScene:
    """A random scene of the training split or of the held-out combinations."""
    for attempt in range(1000):
        generator = generator_for(seed, attempt)
        draws = (int(torch.randint(len(words), (), generator=generator)) for words in VALUES.values())
        scene = ShapeScene(*(words[draw] for words, draw in zip(VALUES.values(), draws, strict=True)))
        if scene.is_unseen == (split == "unseen"):
            return scene
    raise AssertionError("one scene in six is unseen")


def render(scene: ShapeScene, frames: int, height: int, width: int, seed: int) -> UInt8[Tensor, "t h w 3"]:
    """A video of the scene at 25 frames a second; `seed` draws what the caption leaves open."""
    generator = generator_for(seed)
    y, x = (torch.arange(size) + 0.5 for size in (height, width))
    time = torch.arange(frames) / float(FRAME_RATE)
    grey = _background(scene, time, y / height, x / width, height / width, generator)
    video = grey[..., None].repeat(1, 1, 1, 3)
    radius = SIZES[scene.size] * (0.92 + 0.16 * _uniform(generator))
    colour = torch.tensor(COLOURS[scene.colour]) + 0.08 * (torch.rand(3, generator=generator) - 0.5)
    speed = SPEEDS[scene.speed] * (0.875 + 0.25 * _uniform(generator))
    down, across = (speed * part for part in DIRECTIONS[scene.direction])
    for cy, cx in _centres(COUNTS.index(scene.count) + 1, radius, width / height, generator):
        v = _torus_offset(y / height - (cy + down * time)[:, None], 1.0)[:, :, None] / radius
        u = _torus_offset(x / height - (cx + across * time)[:, None], width / height)[:, None, :] / radius
        cover = (0.5 - _distance(scene.shape, v, u) * radius * height).clamp(0, 1)[..., None]
        paint = colour * _shade(scene.texture, v + u)[..., None]
        video = torch.lerp(video, paint, cover)
    return (video.clamp(0, 1) * 255).round().to(torch.uint8)


def write_shape_world(
    folder: Path,
    videos: int,
    frames: int,
    height: int,
    width: int,
    seed: int,
    split: Split = "train",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write videos world_00000.mp4 ... with caption (.txt) and class (.cls), and classes.json, into `folder`.

    Video i depends on (seed, i) and the sizes alone; existing ones are kept. Raises VideoError when the
    folder can't be written, ValueError when it has videos of other options, or the picture is too narrow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = {"frames": frames, "height": height, "width": width, "seed": seed, "split": split}
    record = folder / "world.json"
    if record.exists() and json.loads(record.read_text()) != options:
        raise ValueError(f"The videos in {folder} have another size, seed or split; give another folder.")
    record.write_text(json.dumps(options) + "\n")
    names = {name: number for number, name in enumerate(CLASSES)}
    (folder / "classes.json").write_text(json.dumps(names, indent=1) + "\n")
    for index, (scene, caption) in enumerate(scenes(videos, seed, split)):
        path = folder / f"world_{index:05d}.mp4"
        if not path.exists():
            path.with_suffix(".txt").write_text(caption + "\n")
            path.with_suffix(".cls").write_text(f"{scene.label}\n")
            with VideoWriter(path, width, height, FRAME_RATE) as writer:
                for image in render(scene, frames, height, width, fold_seed(seed, index, 1)):
                    writer.write(image)
        on_progress(index + 1, videos)


def scenes(count: int, seed: int, split: Split = "train") -> Iterator[tuple[ShapeScene, str]]:
    """The scenes of a data set, with captions in either wording."""
    for index in range(count):
        scene = draw_scene(fold_seed(seed, index, 0), split)
        yield scene, scene.caption(wording=fold_seed(seed, index, 2) % 2)


def template(shape: str, side: int) -> Float[Tensor, "{side} {side}"]:
    """Coverage in [0, 1] of each pixel by a shape that fills a square picture."""
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    return (0.5 - _distance(shape, axis[:, None], axis[None, :]) * side / 2).clamp(0, 1)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _centres(
    count: int, radius: float, aspect: float, generator: torch.Generator
) -> list[tuple[float, float]]:
    """Centres (y, x) in heights, at a distance from each other on the torus."""
    centres: list[tuple[float, float]] = []
    for attempt in range(MAX_TRIES):
        if attempt % (MAX_TRIES // 10) == MAX_TRIES // 10 - 1:
            centres = []  # the first ones leave no room
        y, x = _uniform(generator), aspect * _uniform(generator)
        gaps = [math.hypot(_torus_offset(y - cy, 1.0), _torus_offset(x - cx, aspect)) for cy, cx in centres]
        if all(gap > MIN_GAP * radius for gap in gaps):
            centres.append((y, x))
        if len(centres) == count:
            return centres
    raise ValueError("The picture has no room for three large shapes; make it at least as wide as high.")


def _torus_offset(difference: Value, length: float) -> Value:
    """The same difference of two places, the shorter way round the torus."""
    return (difference + length / 2) % length - length / 2


def _distance(shape: str, v: Float[Tensor, "..."], u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
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


def _shade(texture: str, place: Float[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    if texture == "plain":
        return torch.ones_like(place)
    return torch.where((place / (2 * STRIPES)) % 1 < 0.5, 1.0, 0.45)


def _background(
    scene: ShapeScene,
    time: Float[Tensor, " t"],
    y: Float[Tensor, " h"],
    x: Float[Tensor, " w"],
    squeeze: float,
    generator: torch.Generator,
) -> Float[Tensor, "t h w"]:
    """Grey waves, periodic in height and width; they move opposite to the camera."""
    grey = torch.full((len(time), len(y), len(x)), BACKGROUNDS[scene.background])
    for _ in range(WAVES):
        down = int(torch.randint(-1, 2, (), generator=generator))
        across = int(torch.randint(2, 5, (), generator=generator))
        phase = down * y[None, :, None] + across * (
            x[None, None, :] + CAMERAS[scene.camera] * squeeze * time[:, None, None]
        )
        grey += 0.04 * torch.sin(2 * math.pi * (phase + _uniform(generator)))
    return grey
