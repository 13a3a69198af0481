"""Clips made for the filters of shards, and short ways to build."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
from movies import make_movie
from PIL import Image

from regen.curate.build import Build, build
from regen.curate.options import Filters, PoolOptions
from regen.curate.report import BuildResult
from regen.curate.writing import Packing
from regen.data.shards import SampleInfo, ShardSet

HEIGHT, WIDTH, FRAMES = 128, 160, 20
LOOSE = Filters(min_frames=0, min_side=0, cuts="keep", min_motion=0.0, max_bars=0.0, duplicates="keep")
SPLIT = Filters(min_frames=5, min_side=0, cuts="split")
PACKING = Packing(short_side=None, keyframe_interval=4, max_shard_bytes=512_000_000, max_samples=0)
AGAIN = Packing(short_side=64, keyframe_interval=4, max_shard_bytes=512_000_000, max_samples=2)


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A picture of coloured blobs, large and small, each seed another one."""
    draw = np.random.default_rng(seed)
    layers = []
    for rows, columns in ((5, 7), (15, 21)):
        small = draw.integers(30, 256, (rows, columns, 3), dtype=np.uint8)
        blobs = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        layers.append(np.array(blobs, dtype=np.float32))
    return np.mean(layers, axis=0).astype(np.uint8)


def moving(seed: int, frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """The picture of `seed`, drifting to the right."""
    picture = texture(seed, height, width)
    return [np.roll(picture, index, axis=1) for index in range(frames)]


def write(path: Path, images: list[np.ndarray], quality: int = 20, rate: Fraction = Fraction(20)) -> Path:
    """These images as H.264 with a key frame every 8 frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_movie(path, images, rate=rate, options={"crf": str(quality), "g": "8", "threads": "1"})


def letterboxed(images: list[np.ndarray], bar: int) -> list[np.ndarray]:
    """With `bar` black rows above and below."""
    dark = [image.copy() for image in images]
    for image in dark:
        image[:bar] = image[-bar:] = 3
    return dark


def resized(images: list[np.ndarray], height: int, width: int) -> list[np.ndarray]:
    return [np.array(Image.fromarray(image).resize((width, height))) for image in images]


def run(
    folder: Path,
    out: Path,
    filters: Filters | None = None,
    packing: Packing = PACKING,
    work: PoolOptions | None = None,
    classes_from_folders: bool = False,
) -> BuildResult:
    """A build of one folder, by two processes unless `work` is given."""
    task = Build((folder,), out, filters or Filters(), packing, classes_from_folders)
    return build(task, work or PoolOptions(2))


def results(out: Path) -> dict[str, bytes]:
    """All files of a build that is done, but for what it keeps to go on."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def samples(out: Path) -> dict[str, SampleInfo]:
    """All samples by the first part of their keys."""
    shards = ShardSet(str(out))
    facts = [shards.info(number) for number in range(len(shards))]
    return {one.key.rpartition("-")[0]: one for one in facts}


def make_mixture(folder: Path) -> Path:
    """Videos of one shot and of four, a picture, captions and classes."""
    for number in range(4):
        write(folder / f"{number}.mp4", moving(number))
    write(folder / "shots.mp4", moving(10, 9) + moving(11, 12) + moving(12, 4) + moving(13, 8))
    Image.fromarray(texture(20)).save(folder / "picture.jpg")
    (folder / "1.txt").write_text("a caption, über alles\n")
    (folder / "1.cls").write_text("7\n")
    (folder / "2.json").write_text(json.dumps({"caption": "from JSON", "class": 3, "width": 1}))
    return folder
