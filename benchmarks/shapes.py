"""Make videos of moving shapes: a small world for experiments that real footage is too hard for."""

import math
from fractions import Fraction
from pathlib import Path

import torch
import tyro
from jaxtyping import Bool, Float, UInt8
from report import finish, one_sentence_errors
from torch import Tensor

from regen.media.reader import VideoWriter
from regen.runtime import fold_seed, generator_for

SHAPES = 4
WAVES = 6
FRAME_RATE = Fraction(25)


def main(
    out: Path, videos: int = 96, frames: int = 101, size: tuple[int, int] = (96, 128), seed: int = 0
) -> None:
    """Write videos of moving shapes, the same ones for the same seed.

    Example: python benchmarks/shapes.py --out shapes/ --videos 96 --seed 0

    Args:
        out: Folder to write shapes_0000.mp4 and so on into.
        videos: How many.
        frames: Frames of each, 25 per second.
        size: Height and width in pixels.
        seed: What to draw them by; another seed gives other videos.
    """
    height, width = size
    write_dataset(out, videos=videos, frames=frames, height=height, width=width, seed=seed)
    facts = {"videos": videos, "frames": frames, "size": f"{height}x{width}", "seed": seed}
    rows = [[name, str(value)] for name, value in facts.items()]
    finish(f"Written to {out}", ["", ""], rows, {"benchmark": "shapes", **facts}, torch.device("cpu"))


def moving_shapes(frames: int, height: int, width: int, seed: int) -> UInt8[Tensor, "t h w 3"]:
    """Coloured discs and boxes that drift, turn and bounce over a drifting texture; RGB in 0..255."""
    assert min(frames, height, width) >= 1
    generator = generator_for(seed)
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / height, indexing="ij")
    shift = 0.1 * (torch.rand(2, generator=generator) - 0.5)
    waves = _draw_waves(generator)
    shapes = [_draw_shape(generator) for _ in range(SHAPES)]
    video = torch.empty(frames, height, width, 3, dtype=torch.uint8)
    for index in range(frames):
        time = index / float(FRAME_RATE)
        image = _texture(y + shift[0] * time, x + shift[1] * time, waves)
        for shape in shapes:
            inside = _covered(y, x, shape, time, width / height)
            image[inside] = shape[:3]
        video[index] = (image * 255).round().to(torch.uint8)
    return video


def write_dataset(folder: Path, videos: int, frames: int, height: int, width: int, seed: int) -> None:
    """Write `videos` files shapes_0000.mp4 ... of `moving_shapes` at 25 frames per second into `folder`.

    Raises VideoError when the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(videos):
        clip = moving_shapes(frames, height, width, fold_seed(seed, index))
        with VideoWriter(folder / f"shapes_{index:04d}.mp4", width, height, FRAME_RATE) as writer:
            for image in clip:
                writer.write(image)


def _draw_waves(generator: torch.Generator) -> Float[Tensor, "wave 6"]:
    """For each wave: frequencies down and across (cycles per height), phase, amplitudes of the colours."""
    draws = torch.rand(WAVES, 6, generator=generator)
    frequencies = 14 * (draws[:, :2] - 0.5)
    return torch.cat([frequencies, draws[:, 2:3], 0.3 * (draws[:, 3:] - 0.5)], dim=1)


def _texture(
    y: Float[Tensor, "h w"], x: Float[Tensor, "h w"], waves: Float[Tensor, "wave 6"]
) -> Float[Tensor, "h w 3"]:
    image = torch.full((*y.shape, 3), 0.5)
    for down, across, phase, *colour in waves.tolist():
        wave = torch.sin(2 * math.pi * (down * y + across * x + phase))
        image += wave[..., None] * torch.tensor(colour)
    return image.clamp(0, 1)


def _draw_shape(generator: torch.Generator) -> Float[Tensor, "11"]:
    """Colour (3), centre (2), velocity (2), half sizes (2), turns per second, whether it is a box."""
    draws = torch.rand(11, generator=generator)
    draws[5:7] = 1.6 * (draws[5:7] - 0.5)
    draws[7:9] = 0.06 + 0.14 * draws[7:9]
    draws[9] = draws[9] - 0.5
    return draws


def _covered(
    y: Float[Tensor, "h w"], x: Float[Tensor, "h w"], shape: Float[Tensor, "11"], time: float, aspect: float
) -> Bool[Tensor, "h w"]:
    """The pixels that the shape covers; its centre bounces between the edges."""
    centre_y, centre_x, speed_y, speed_x, half_y, half_x, turns, box = shape[3:].tolist()
    down = y - _bounce(centre_y + speed_y * time)
    across = x - aspect * _bounce(centre_x + speed_x * time)
    angle = 2 * math.pi * turns * time
    along = (down * math.cos(angle) + across * math.sin(angle)) / half_y
    aside = (across * math.cos(angle) - down * math.sin(angle)) / half_x
    if box < 0.5:
        return (along.abs() < 1) & (aside.abs() < 1)
    return along**2 + aside**2 < 1


def _bounce(position: float) -> float:
    """Reflect a position at 0 and 1."""
    return 1 - abs(1 - position % 2)


if __name__ == "__main__":
    with one_sentence_errors():
        tyro.cli(main)
