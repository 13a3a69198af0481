"""Reader of shape-world videos: recovers the attributes of the scene from pixels.

The videos come out of a lossy decoder: blurred, slightly ghosted, with coloured noise. So every decision is
one threshold or one nearest value of a quantity averaged over pixels and frames:

- Foreground is coloured: its chroma (largest minus smallest RGB value) is at least 0.1 and a quarter of the
  strongest, after a 3 x 3 mean and without the tint of the background. Dark stripes have 0.45 of it.
- Shapes are connected components of the foreground on the torus, in about ten frames spread over the video,
  eroded first so that touching shapes separate; small components are ignored. (The corners of two squares may
  overlap more; such a pair, one scene in a thousand, is read as one shape.)
- count: median number of shapes. size: median half height, split halfway between the two sizes.
- shape: each component is scaled to 24 x 24 and compared with the templates by mean IoU.
- colour: each pixel votes for the nearest hue, which dark stripes and mixed edges preserve.
- texture: striped when the lowest tenth of the chroma inside is below 0.7 of the highest tenth.
- direction, speed: peak of the cross-correlation of the foreground over 8 frames, on the torus.
- camera: the horizontal shift over 12 frames that explains the low frequencies of the background.
- background: median grey of the picture, most of which it is, split halfway between the two.

Attributes that can't be read are None: all but camera and background without colour; motion in one frame or
below a third of the slow speed; counts above three; the camera in front of a flat background.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from regen.data import shape_world as world
from regen.data.shape_world import DIRECTIONS, FRAME_RATE, SPEEDS, VALUES, ShapeScene

NUM_SHAPE_FRAMES = 11  # in which shapes are searched
MIN_CHROMA, MIN_CHROMA_RATIO = 0.1, 0.25  # of the foreground: absolute, and relative to the strongest
MIN_AREA, MIN_AREA_RATIO = 0.005, 0.3  # of a shape: in heights squared, and relative to the largest
SIDE = 24  # pixels of templates
STRIPED = 0.7  # lowest tenth of the chroma relative to the highest
MOTION_GAP, CAMERA_GAP = 8, 12  # frames
MAX_SHIFT = 0.25  # in heights
MAX_FREQUENCY = (2, 6)  # cycles per height and per width
MIN_CONTRAST = 1 / 255  # of the background, root mean square
JOINT_ATTRIBUTES = ("colour", "shape", "direction")  # combinations of these are held out of training


@dataclass(frozen=True)
class Reading:
    """Attributes of a video, in the words of `shape_world.VALUES`; None if unreadable."""

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
class _Components:
    """The n shapes of all sampled frames; `inside` has the index of the shape of each pixel, -1 outside."""

    inside: Int[Tensor, "t h w"]
    frame: Int[Tensor, " n"]
    top: Float[Tensor, "n 2"]  # y and x of the first pixel of the bounding box
    extent: Float[Tensor, "n 2"]  # its height and width in pixels


def read_scene(video: UInt8[Tensor, "t h w 3"], frame_rate: Fraction = FRAME_RATE) -> Reading:
    """Read the attributes of a video of at least one frame; see above."""
    sampled = slice(None, None, max(1, len(video) // NUM_SHAPE_FRAMES))
    colours = _smooth(rearrange(video, "t h w c -> t c h w").float() / 255)
    median = rearrange(colours[sampled, :, ::2, ::2], "t c h w -> c (t h w)").median(1).values
    colours = colours - (median - median.mean())[:, None, None]
    chroma = colours.amax(1) - colours.amin(1)
    coloured = chroma[sampled][chroma[sampled] > MIN_CHROMA]
    strongest = float(coloured.quantile(0.9)) if len(coloured) else 0.0
    mask = chroma > max(MIN_CHROMA, MIN_CHROMA_RATIO * strongest)
    height = video.shape[1]
    edge = max(1, round(height / 96))
    camera = _camera(colours.mean(1), ~_erode(~mask, 2 * edge), frame_rate)
    background = _nearest(world.BACKGROUNDS, float(median.mean()))
    components = _find_components(_erode(mask[sampled], edge))
    if 2 * len(components.frame) < len(components.inside):
        return Reading(visible=False, camera=camera, background=background)
    inside = components.inside >= 0
    number = int(torch.bincount(components.frame, minlength=len(inside)).median())
    direction, speed = _motion(chroma * mask, frame_rate)
    return Reading(
        visible=True,
        count=world.COUNTS[number - 1] if 1 <= number <= len(world.COUNTS) else None,
        size=_nearest(world.SIZES, float(components.extent[:, 0].median() / 2 + edge) / height),
        texture=_texture(chroma[sampled], inside, 2 * edge),
        colour=_colour(rearrange(colours[sampled], "t c h w -> t h w c")[inside]),
        shape=_shape(components),
        direction=direction,
        speed=speed,
        camera=camera,
        background=background,
    )


def agreement(scene: ShapeScene, reading: Reading) -> dict[str, bool]:
    """Whether each attribute was read correctly; unreadable ones are not."""
    return {name: getattr(scene, name) == getattr(reading, name) for name in VALUES}


class Confusion:
    """Confusion matrix of each attribute that the texts of a set of videos state."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.videos, self._jointly_correct = 0, 0
        self._pairs: Counter[tuple[str, str, str | None]] = Counter()

    @property
    def joint_names(self) -> list[str]:
        """Those of `JOINT_ATTRIBUTES` that are stated."""
        return [name for name in JOINT_ATTRIBUTES if name in self.names]

    def update(self, scene: ShapeScene, reading: Reading, names: Sequence[str] = tuple(VALUES)) -> None:
        """Add the scene and the reading of a video; `names`: attributes that its text states."""
        correct = agreement(scene, reading)
        self.names = tuple(names)
        self.videos += 1
        self._jointly_correct += all(correct[name] for name in self.joint_names)
        for name in names:
            self._pairs[name, getattr(scene, name), getattr(reading, name)] += 1

    def accuracy(self) -> dict[str, float]:
        """Accuracy by attribute and for the joint ones together; empty without videos."""
        if not self.videos:
            return {}
        correct = {name: sum(self._pairs[name, word, word] for word in VALUES[name]) for name in self.names}
        correct["+".join(self.joint_names)] = self._jointly_correct
        return {name: count / self.videos for name, count in correct.items()}

    def table(self) -> dict[str, dict[str, dict[str, int]]]:
        """Counts by attribute, true word and word read ("unknown" for None), for JSON."""
        return {
            name: {
                word: {read or "unknown": self._pairs[name, word, read] for read in (*VALUES[name], None)}
                for word in VALUES[name]
            }
            for name in self.names
        }


def _nearest(values: dict[str, float], measured: float) -> str:
    return min(values, key=lambda word: abs(values[word] - measured))


def _smooth(image: Float[Tensor, "t c h w"]) -> Float[Tensor, "t c h w"]:
    for axis in (2, 3):
        image = (image + image.roll(1, axis) + image.roll(-1, axis)) / 3
    return image


def _erode(mask: Bool[Tensor, "t h w"], steps: int) -> Bool[Tensor, "t h w"]:
    """Erode by `steps` pixels with a 4-neighbourhood, on the torus."""
    for _ in range(steps):
        rows, columns = (mask.roll(1, axis) & mask.roll(-1, axis) for axis in (1, 2))
        mask = mask & rows & columns
    return mask


def _labels(mask: Bool[Tensor, "t h w"]) -> Int[Tensor, " p"]:
    """Label of each pixel of the mask: the last pixel of its component (4-connected, on the torus).

    Each round raises the labels of neighbours to the larger one, then follows the labels one step.
    """
    number = torch.full(mask.shape, -1)
    number[mask] = label = torch.arange(int(mask.sum()))
    pairs = []
    for axis in (1, 2):
        both = mask & mask.roll(-1, axis)
        pairs.append(torch.stack([number[both], number.roll(-1, axis)[both]]))
    pair = torch.cat(pairs, 1)
    while True:
        first, second = label[pair]
        grown = label.scatter_reduce(0, first, second, "amax").scatter_reduce(0, second, first, "amax")
        grown = grown[grown]
        if torch.equal(grown, label):
            return label
        label = grown


def _find_components(mask: Bool[Tensor, "t h w"]) -> _Components:
    """Components that are large enough, with their bounding boxes on the torus."""
    frames, height, width = mask.shape
    place = mask.nonzero()
    last, part, area = torch.unique(_labels(mask), return_inverse=True, return_counts=True)
    frame = place[last, 0]
    largest = torch.zeros(frames, dtype=area.dtype).scatter_reduce(0, frame, area, "amax")
    whole = (area >= MIN_AREA * height**2) & (area >= MIN_AREA_RATIO * largest[frame])
    number = torch.where(whole, whole.cumsum(0) - 1, -1)
    inside = torch.full(mask.shape, -1)
    inside[mask] = number[part]
    place, part = place[whole[part], 1:], number[part[whole[part]]]
    first, extent = [], []
    for axis, size in enumerate((height, width)):
        # Offsets from the circular mean, the shorter way round.
        angle = place[:, axis] * (2 * math.pi / size)
        waves = torch.zeros(2, int(whole.sum())).index_add(1, part, torch.stack([angle.cos(), angle.sin()]))
        centre = (torch.atan2(waves[1], waves[0]) * size / (2 * math.pi)).round()
        offset = (place[:, axis] - centre[part] + size // 2) % size - size // 2
        low = torch.zeros_like(centre).scatter_reduce(0, part, offset, "amin")
        high = torch.zeros_like(centre).scatter_reduce(0, part, offset, "amax")
        first.append(centre + low)
        extent.append(high - low + 1)
    return _Components(inside, frame[whole], torch.stack(first, 1), torch.stack(extent, 1))


def _texture(chroma: Float[Tensor, "t h w"], inside: Bool[Tensor, "t h w"], edge: int) -> str:
    deep = _erode(inside, edge)
    weak, strong = chroma[deep if deep.any() else inside].quantile(torch.tensor([0.1, 0.9]))
    return "striped" if weak < STRIPED * strong else "plain"


def _colour(pixels: Float[Tensor, "n 3"]) -> str:
    hues = torch.tensor(list(world.COLOURS.values()))
    hues = F.normalize(hues - hues.mean(1, keepdim=True), dim=1)
    votes = ((pixels - pixels.mean(1, keepdim=True)) @ hues.mT).argmax(1)
    return list(world.COLOURS)[int(torch.bincount(votes, minlength=len(hues)).argmax())]


def _shape(components: _Components) -> str:
    steps = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = (
        (components.top[:, axis, None] + steps * components.extent[:, axis, None]).floor().long()
        % components.inside.shape[1 + axis]
        for axis in (0, 1)
    )
    number = torch.arange(len(components.frame))[:, None, None]
    index = components.inside[components.frame[:, None, None], y[:, :, None], x[:, None, :]]
    crops = (index == number).float()[:, None]
    templates = torch.stack([_filled_template(shape) for shape in world.SHAPES])
    iou = crops.minimum(templates).sum((2, 3)) / crops.maximum(templates).sum((2, 3))
    return world.SHAPES[int(iou.mean(0).argmax())]


def _filled_template(shape: str) -> Float[Tensor, "side side"]:
    picture = world.template(shape, 4 * SIDE)
    rows, columns = (picture.amax(axis) > 0.5 for axis in (1, 0))
    return F.interpolate(picture[rows][:, columns][None, None], (SIDE, SIDE), mode="area")[0, 0]


def _motion(foreground: Float[Tensor, "t h w"], frame_rate: Fraction) -> tuple[str, str] | tuple[None, None]:
    """Direction and speed by the shift with the highest correlation over all pairs of frames."""
    gap = min(MOTION_GAP, len(foreground) - 1)
    if not gap:
        return None, None
    waves = torch.fft.rfft2(foreground)
    height, width = foreground.shape[1:]
    match = torch.fft.irfft2((waves[:-gap].conj() * waves[gap:]).sum(0), s=(height, width))
    reach = min(round(MAX_SHIFT * height), (min(height, width) - 1) // 2 - 1)
    near = match.roll((reach + 1, reach + 1), (0, 1))[: 2 * reach + 3, : 2 * reach + 3]
    peak = int(near[1:-1, 1:-1].argmax())
    y, x = peak // (2 * reach + 1) + 1, peak % (2 * reach + 1) + 1
    scale = float(frame_rate) / gap / height
    down = (y - 1 - reach + _parabola_peak(near[y - 1 : y + 2, x])) * scale
    across = (x - 1 - reach + _parabola_peak(near[y, x - 1 : x + 2])) * scale
    speed = max(abs(down), abs(across))
    if speed < SPEEDS["slowly"] / 3:
        return None, None
    direction = max(DIRECTIONS, key=lambda word: down * DIRECTIONS[word][0] + across * DIRECTIONS[word][1])
    return direction, "quickly" if speed > math.sqrt(SPEEDS["slowly"] * SPEEDS["quickly"]) else "slowly"


def _parabola_peak(values: Float[Tensor, " 3"]) -> float:
    """Position of the maximum of the parabola through three values, relative to the middle one."""
    before, middle, after = values.tolist()
    curvature = before - 2 * middle + after
    return 0.5 * (before - after) / curvature if curvature < 0 else 0.0


def _camera(grey: Float[Tensor, "t h w"], hidden: Bool[Tensor, "t h w"], frame_rate: Fraction) -> str | None:
    gap = min(CAMERA_GAP, len(grey) - 1)
    height, width = grey.shape[1:]
    visible = (~hidden).float()
    level = (grey * visible).sum((1, 2)) / visible.sum((1, 2)).clamp(min=1)
    waves = torch.fft.rfft2((grey - level[:, None, None]) * visible, norm="forward")
    rows, columns = MAX_FREQUENCY
    down, across = torch.arange(-rows, rows + 1), torch.arange(1, columns + 1)
    waves = waves[:, down % height][:, :, across % waves.shape[2]]
    if not gap or waves.abs().square().sum((1, 2)).mean().sqrt() < MIN_CONTRAST:
        return None
    match = (waves[:-gap].conj() * waves[gap:]).sum((0, 1))
    shifts = torch.arange(-MAX_SHIFT, MAX_SHIFT, 0.002) * height / width  # in widths
    phases = torch.polar(torch.ones(()), 2 * math.pi * shifts[:, None] * across)
    shift = float(shifts[(phases * match).real.sum(1).argmax()]) * width / height
    return _nearest(world.CAMERAS, -shift * float(frame_rate) / gap)
