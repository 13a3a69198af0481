"""Read the attributes of a video of the shape world (`regen.data.shape_world`) back from its pixels.

The videos that matter come out of a lossy decoder: blurred, slightly ghosted, with coloured noise. So each
decision is one threshold or one nearest word, on a measure that was averaged over pixels and frames:

- Foreground is what is coloured: RGB apart by a quarter of what it is in the strongest coloured places, and
  by 0.1 at least, after a 3 x 3 mean and without the tint of the background. Dark stripes have 0.45 of it.
- Shapes are the connected parts of the foreground on the torus, in some ten frames spread over the video;
  their edge is taken off first, so that two that touch come apart. Crumbs do not count. (The corners of
  two squares may overlap by more in the world; such a pair, one scene in a thousand, is read as one.)
- count: the median of their number. size: the median of their half heights, at the middle between the two.
- shape: each is cut out, scaled to 24 x 24 and compared with each template; the best mean overlap wins.
- colour: each pixel votes for the nearest hue, which is the same in dark stripes and at a mixed edge.
- texture: striped when the weakly coloured tenth of the inside is below 0.7 of the strongly coloured tenth.
- direction, speed: where the cross-correlation of the foreground over 8 frames has its peak, on the torus.
- camera: the horizontal shift, over 12 frames, that explains the long waves of what is no foreground.
- background: the median of the picture's grey, most of which it is, at the middle between the two.

What can't be told is None: all but camera and background where nothing is coloured, motion in one frame or
below a third of the slow speed, a number above three, the camera before a background without waves.
"""

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from regen.data import shape_world as world
from regen.data.shape_world import DIRECTIONS, FRAME_RATE, SPEEDS, VALUES, ShapeScene

NUM_SHAPE_FRAMES = 11  # frames in which shapes are looked at
FAINT, SHARE = 0.1, 0.25  # colour that is foreground: in itself, and of the strongest there is
CRUMB, PART = 0.005, 0.3  # areas that are no shape: in heights squared, and of the largest one's
SIDE = 24  # of a shape that is compared
STRIPED = 0.7  # of the strongly coloured places
MOTION_APART, CAMERA_APART = 8, 12  # frames
REACH = 0.25  # the farthest shift that is looked for, in heights
LONG_WAVES = (2, 6)  # how many of them fit into a height and into a width, at most
FLAT = 1 / 255  # a background that varies less (root mean square) has no waves
JOINT_ATTRIBUTES = ("colour", "shape", "direction")  # what training never showed together for unseen scenes

CHANCE = {name: 1 / len(words) for name, words in VALUES.items()}  # accuracy of guessing


@dataclass(frozen=True)
class Reading:
    """What a video shows, in the words of `world.VALUES`; None where it can't be told."""

    visible: bool
    count: str | None = None
    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None
    direction: str | None = None
    speed: str | None = None
    camera: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class _Parts:
    """The n shapes of all frames that were looked at: `inside` numbers their pixels from 0, -1 is outside."""

    inside: Int[Tensor, "t h w"]
    frame: Int[Tensor, " n"]
    top: Float[Tensor, "n 2"]  # y and x of the first pixel of the bounding box
    extent: Float[Tensor, "n 2"]  # its height and width in pixels


def read_scene(video: UInt8[Tensor, "t h w 3"], frame_rate: Fraction = FRAME_RATE) -> Reading:
    """What the video shows; see above. Raises ValueError for a video without frames."""
    if not len(video):
        raise ValueError("a video without frames can't be read: give one frame or more")
    looks = slice(None, None, max(1, len(video) // NUM_SHAPE_FRAMES))
    colours = _smooth(rearrange(video, "t h w c -> t c h w").float() / 255)
    behind = rearrange(colours[looks, :, ::2, ::2], "t c h w -> c (t h w)").median(1).values
    colours = colours - (behind - behind.mean())[:, None, None]
    chroma = colours.amax(1) - colours.amin(1)
    strong = chroma[looks][chroma[looks] > FAINT]
    mask = chroma > max(FAINT, SHARE * float(strong.quantile(0.9)) if len(strong) else FAINT)
    height = video.shape[1]
    edge = max(1, round(height / 96))
    camera = _camera(colours.mean(1), ~_erode(~mask, 2 * edge), frame_rate)
    background = _nearest(world.BACKGROUNDS, float(behind.mean()))
    parts = _parts(_erode(mask[looks], edge))
    if 2 * len(parts.frame) < len(parts.inside):
        return Reading(visible=False, camera=camera, background=background)
    inside = parts.inside >= 0
    number = int(torch.bincount(parts.frame, minlength=len(inside)).median())
    direction, speed = _motion(chroma * mask, frame_rate)
    return Reading(
        visible=True,
        count=world.COUNTS[number - 1] if 1 <= number <= len(world.COUNTS) else None,
        size=_nearest(world.SIZES, float(parts.extent[:, 0].median() / 2 + edge) / height),
        texture=_texture(chroma[looks], inside, 2 * edge),
        colour=_colour(rearrange(colours[looks], "t c h w -> t h w c")[inside]),
        shape=_shape(parts),
        direction=direction,
        speed=speed,
        camera=camera,
        background=background,
    )


def agreement(scene: ShapeScene, reading: Reading) -> dict[str, bool]:
    """For each field of the scene, whether it was read as said; what can't be told disagrees."""
    return {name: getattr(scene, name) == getattr(reading, name) for name in VALUES}


class Confusion:
    """How often each word was said and read, over many videos."""

    def __init__(self) -> None:
        self.videos, self.together = 0, 0
        self._pairs: Counter[tuple[str, str, str | None]] = Counter()

    def update(self, scene: ShapeScene, reading: Reading) -> None:
        """Take what was said and what was read of one more video."""
        right = agreement(scene, reading)
        self.videos += 1
        self.together += all(right[name] for name in JOINT_ATTRIBUTES)
        for name in VALUES:
            self._pairs[name, getattr(scene, name), getattr(reading, name)] += 1

    def accuracy(self) -> dict[str, float]:
        """The share of videos read as said, by field and for `TOGETHER`; ValueError without videos."""
        if not self.videos:
            raise ValueError("no videos, no accuracy: call update() first")
        right = {name: sum(self._pairs[name, word, word] for word in VALUES[name]) for name in VALUES}
        right["+".join(JOINT_ATTRIBUTES)] = self.together
        return {name: number / self.videos for name, number in right.items()}

    def table(self) -> dict[str, dict[str, dict[str, int]]]:
        """Counts by field, word said and word read, where "untold" stands for None; for JSON."""
        return {
            name: {
                said: {read or "untold": self._pairs[name, said, read] for read in (*words, None)}
                for said in words
            }
            for name, words in VALUES.items()
        }


def _nearest(values: dict[str, float], measured: float) -> str:
    return min(values, key=lambda word: abs(values[word] - measured))


def _smooth(image: Float[Tensor, "t c h w"]) -> Float[Tensor, "t c h w"]:
    """The mean of 3 x 3 pixels on the torus."""
    for axis in (2, 3):
        image = (image + image.roll(1, axis) + image.roll(-1, axis)) / 3
    return image


def _erode(mask: Bool[Tensor, "t h w"], steps: int) -> Bool[Tensor, "t h w"]:
    """Take pixels off that touch the outside with a side, so many times."""
    for _ in range(steps):
        thin = mask.clone()
        for axis in (1, 2):
            thin &= mask.roll(1, axis) & mask.roll(-1, axis)
        mask = thin
    return mask


def _labels(mask: Bool[Tensor, "t h w"]) -> Int[Tensor, " p"]:
    """For each pixel of the mask the last pixel of its connected part (by sides, on the torus).

    Each round hangs the lower one of two neighbours' parts on the other one, then shortens the way there.
    """
    number = torch.full(mask.shape, -1)
    number[mask] = label = torch.arange(int(mask.sum()))
    pairs = []
    for axis in (1, 2):
        both = mask & mask.roll(-1, axis)
        pairs.append(torch.stack([number[both], number.roll(-1, axis)[both]]))
    pair = torch.cat(pairs, 1)
    while True:
        here, there = label[pair]
        grown = label.scatter_reduce(0, here, there, "amax").scatter_reduce(0, there, here, "amax")
        grown = grown[grown]
        if torch.equal(grown, label):
            return label
        label = grown


def _parts(mask: Bool[Tensor, "t h w"]) -> _Parts:
    """The connected parts that are large enough, with their bounding boxes on the torus."""
    frames, height, width = mask.shape
    place = mask.nonzero()
    last, part, area = torch.unique(_labels(mask), return_inverse=True, return_counts=True)
    frame = place[last, 0]
    largest = torch.zeros(frames, dtype=area.dtype).scatter_reduce(0, frame, area, "amax")
    whole = (area >= CRUMB * height**2) & (area >= PART * largest[frame])
    number = torch.where(whole, whole.cumsum(0) - 1, -1)
    inside = torch.full(mask.shape, -1)
    inside[mask] = number[part]
    place, part = place[whole[part], 1:], number[part[whole[part]]]
    first, extent = [], []
    for axis, size in enumerate((height, width)):
        # Offsets go the shorter way round from the mean place on the circle.
        angle = place[:, axis] * (2 * math.pi / size)
        waves = torch.zeros(2, int(whole.sum())).index_add(1, part, torch.stack([angle.cos(), angle.sin()]))
        centre = (torch.atan2(waves[1], waves[0]) * size / (2 * math.pi)).round()
        offset = (place[:, axis] - centre[part] + size // 2) % size - size // 2
        low = torch.zeros_like(centre).scatter_reduce(0, part, offset, "amin")
        high = torch.zeros_like(centre).scatter_reduce(0, part, offset, "amax")
        first.append(centre + low)
        extent.append(high - low + 1)
    return _Parts(inside, frame[whole], torch.stack(first, 1), torch.stack(extent, 1))


def _texture(chroma: Float[Tensor, "t h w"], inside: Bool[Tensor, "t h w"], edge: int) -> str:
    deep = _erode(inside, edge)
    weak, strong = chroma[deep if deep.any() else inside].quantile(torch.tensor([0.1, 0.9]))
    return "striped" if weak < STRIPED * strong else "plain"


def _colour(pixels: Float[Tensor, "n 3"]) -> str:
    hues = torch.tensor(list(world.COLOURS.values()))
    hues = F.normalize(hues - hues.mean(1, keepdim=True), dim=1)
    votes = ((pixels - pixels.mean(1, keepdim=True)) @ hues.mT).argmax(1)
    return list(world.COLOURS)[int(torch.bincount(votes, minlength=len(hues)).argmax())]


def _shape(parts: _Parts) -> str:
    steps = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = (
        (parts.top[:, axis, None] + steps * parts.extent[:, axis, None]).floor().long()
        % parts.inside.shape[1 + axis]
        for axis in (0, 1)
    )
    number = torch.arange(len(parts.frame))[:, None, None]
    cut = (parts.inside[parts.frame[:, None, None], y[:, :, None], x[:, None, :]] == number).float()[:, None]
    wanted = torch.stack([_filling(shape) for shape in world.SHAPES])
    overlap = cut.minimum(wanted).sum((2, 3)) / cut.maximum(wanted).sum((2, 3))
    return world.SHAPES[int(overlap.mean(0).argmax())]


def _filling(shape: str) -> Float[Tensor, "side side"]:
    """A shape's template, scaled so that it touches all sides of the picture."""
    picture = world.template(shape, 4 * SIDE)
    rows, columns = (picture.amax(axis) > 0.5 for axis in (1, 0))
    return F.interpolate(picture[rows][:, columns][None, None], (SIDE, SIDE), mode="area")[0, 0]


def _motion(foreground: Float[Tensor, "t h w"], frame_rate: Fraction) -> tuple[str, str] | tuple[None, None]:
    """Direction and speed by the shift at which frames some way apart agree best, all pairs together."""
    apart = min(MOTION_APART, len(foreground) - 1)
    if not apart:
        return None, None
    waves = torch.fft.rfft2(foreground)
    height, width = foreground.shape[1:]
    match = torch.fft.irfft2((waves[:-apart].conj() * waves[apart:]).sum(0), s=(height, width))
    reach = min(round(REACH * height), (min(height, width) - 1) // 2 - 1)
    near = match.roll((reach + 1, reach + 1), (0, 1))[: 2 * reach + 3, : 2 * reach + 3]
    peak = int(near[1:-1, 1:-1].argmax())
    y, x = peak // (2 * reach + 1) + 1, peak % (2 * reach + 1) + 1
    scale = float(frame_rate) / apart / height
    down = (y - 1 - reach + _summit(near[y - 1 : y + 2, x])) * scale
    across = (x - 1 - reach + _summit(near[y, x - 1 : x + 2])) * scale
    speed = max(abs(down), abs(across))
    if speed < SPEEDS["slowly"] / 3:
        return None, None
    direction = max(DIRECTIONS, key=lambda word: down * DIRECTIONS[word][0] + across * DIRECTIONS[word][1])
    return direction, "quickly" if speed > math.sqrt(SPEEDS["slowly"] * SPEEDS["quickly"]) else "slowly"


def _summit(values: Float[Tensor, " 3"]) -> float:
    """Where the parabola through three values is highest, counted from the middle one."""
    before, here, after = values.tolist()
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _camera(grey: Float[Tensor, "t h w"], hidden: Bool[Tensor, "t h w"], frame_rate: Fraction) -> str | None:
    apart = min(CAMERA_APART, len(grey) - 1)
    height, width = grey.shape[1:]
    seen = (~hidden).float()
    level = (grey * seen).sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)
    waves = torch.fft.rfft2((grey - level[:, None, None]) * seen, norm="forward")
    down, across = torch.arange(-LONG_WAVES[0], LONG_WAVES[0] + 1), torch.arange(1, LONG_WAVES[1] + 1)
    waves = waves[:, down % height][:, :, across % waves.shape[2]]
    if not apart or waves.abs().square().sum((1, 2)).mean().sqrt() < FLAT:
        return None
    match = (waves[:-apart].conj() * waves[apart:]).sum((0, 1))
    shifts = torch.arange(-REACH, REACH, 0.002) * height / width  # in widths
    turns = torch.polar(torch.ones(()), 2 * math.pi * shifts[:, None] * across)
    shift = float(shifts[(turns * match).real.sum(1).argmax()]) * width / height
    return _nearest(world.CAMERAS, -shift * float(frame_rate) / apart)
