"""Make videos of the captioned world of moving shapes, on which generators are trained and checked."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import torch
import tyro
from jaxtyping import Float, UInt8
from report import finish, one_sentence_errors
from torch import Tensor

from regen.console import progress_bar
from regen.data.shape_world import (
    BACKGROUNDS,
    CAMERAS,
    CLASSES,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    FRAME_RATE,
    SIZES,
    SPEEDS,
    VALUES,
    ShapeScene,
    shape_distance,
)
from regen.media.reader import VideoWriter
from regen.runtime import fold_seed, generator_for

WAVES = 3  # of the background
STRIPES = 0.62  # of half a shape's height, from one dark stripe to the next
MIN_GAP = 2.5  # between the centres of shapes, in half heights of a shape
MAX_TRIES = 10_000  # to place them
KEYFRAMES = 16  # frames between key frames: for random access, and the same bytes in each call

Split = Literal["train", "unseen"]
Value = TypeVar("Value", float, Tensor)


def main(
    out: Path,
    videos: int = 4800,
    frames: int = 33,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    split: Split = "train",
) -> None:
    """Write videos with captions and classes, the same ones for the same seed; go on where it was stopped.

    Example: python benchmarks/world.py --out world/ --videos 4800 --seed 1

    Args:
        out: Folder to write world_00000.mp4, its caption (.txt) and class (.cls) and so on into.
        videos: How many.
        frames: Frames of each, 25 per second.
        size: Height and width in pixels.
        seed: What to draw them by; another seed gives other videos.
        split: Scenes that a training sees, or those that are kept out of it (unseen).
    """
    height, width = size
    with progress_bar("videos") as on_progress:
        write_shape_world(out, videos, frames, height, width, seed, split, on_progress)
    facts = {"videos": videos, "frames": frames, "size": f"{height}x{width}", "seed": seed, "split": split}
    rows = [[name, str(value)] for name, value in facts.items()]
    finish(f"Written to {out}", ["", ""], rows, {"benchmark": "world", **facts}, torch.device("cpu"))


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
        cover = (0.5 - shape_distance(scene.shape, v, u) * radius * height).clamp(0, 1)[..., None]
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
            with VideoWriter(path, width, height, FRAME_RATE, keyframe_interval=KEYFRAMES) as writer:
                for image in render(scene, frames, height, width, fold_seed(seed, index, 1)):
                    writer.write(image)
        on_progress(index + 1, videos)


def scenes(count: int, seed: int, split: Split = "train") -> Iterator[tuple[ShapeScene, str]]:
    """The scenes of a data set, with captions in either wording."""
    for index in range(count):
        scene = draw_scene(fold_seed(seed, index, 0), split)
        yield scene, scene.caption(wording=fold_seed(seed, index, 2) % 2)


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


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
