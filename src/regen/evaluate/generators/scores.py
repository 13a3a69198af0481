"""What is measured of a set of videos, and what follows from the sets of real and generated ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from regen.data.shape_world import CLASSES, VALUES, ShapeScene
from regen.evaluate.shape_world_reader import CHANCE, JOINT_ATTRIBUTES, Confusion, agreement, read_scene
from regen.metrics.features import Extractor, clip_features
from regen.metrics.frechet import GaussianStatistics, frechet_distance

CLASS_ATTRIBUTES = ("shape", "direction")


@dataclass(frozen=True)
class Attributes:
    """What a caption or the name of a class tells of a scene: its attributes `names`; others are made up."""

    scene: ShapeScene
    names: tuple[str, ...]


def parse_attributes(text: str) -> Attributes | None:
    """The scene that a caption or the name of a class tells of; None where it is another text."""
    if text in CLASSES:
        shape, direction = text.split(" moving ")
        words = {name: known[0] for name, known in VALUES.items()} | {"shape": shape, "direction": direction}
        return Attributes(ShapeScene(**words), CLASS_ATTRIBUTES)
    scene = parse_caption(text)
    return None if scene is None else Attributes(scene, tuple(VALUES))


class VideoSetScores:
    """Features of the clips of each video, for each extractor, and how often videos show what was said."""

    def __init__(self, extractors: Sequence[Extractor]) -> None:
        self.extractors = extractors
        self.features: list[list[Float[Tensor, "n d"]]] = [[] for _ in extractors]
        self.confusion, self.together = Confusion(), 0
        self.names: tuple[str, ...] = ()

    def update(self, video: UInt8[Tensor, "t h w 3"], rate: Fraction, said: Attributes | None) -> None:
        """Measure one more video."""
        for found, extractor in zip(self.features, self.extractors, strict=True):
            found.append(clip_features(extractor, video))
        if said is not None:
            reading = read_scene(video, rate)
            right = agreement(said.scene, reading)
            self.names = said.names
            self.confusion.update(said.scene, reading)
            self.together += all(right[name] for name in joint(said.names))

    def clips(self, extractor: int, start: int = 0, step: int = 1) -> Float[Tensor, "n d"]:
        """Features of the clips of every `step`-th video from `start` on."""
        return torch.cat(self.features[extractor][start::step])

    def accuracy(self) -> dict[str, float] | None:
        """The share read as said, by attribute and for all of `joint`; None where nothing was said."""
        videos = self.confusion.videos
        if not videos:
            return None
        found = self.confusion.accuracy()
        shares = {name: found[name] for name in self.names}
        return shares | {"+".join(joint(self.names)): self.together / videos}


def joint(names: Sequence[str]) -> tuple[str, ...]:
    """Those attributes that are also counted all together."""
    return tuple(name for name in JOINT_ATTRIBUTES if name in names)


@dataclass(frozen=True)
class VideoDistance:
    """Fréchet video distances from the real videos, with one extractor.

    `floor`: between halves of the real videos, of `floor_clips` clips each; `generated_at_floor`: from as
    many generated clips to one of these halves.
    """

    extractor: str
    sha256: str
    frames: int
    size: int
    features: int
    generated: float
    generated_clips: int
    real_clips: int
    reconstructed: float
    reconstructed_clips: int
    floor: float
    generated_at_floor: float
    floor_clips: int


@dataclass(frozen=True)
class AttributeAccuracy:
    """The share of videos that show what was said; None where nothing was said of the real ones."""

    name: str
    generated: float
    reconstructed: float | None
    real: float | None
    chance: float


@dataclass(frozen=True)
class Agreement:
    """Attributes, the last of them several together, and of how many videos.

    `generated_words` counts by attribute, word said and word read.
    """

    attributes: tuple[AttributeAccuracy, ...]
    generated_videos: int
    real_videos: int
    generated_words: dict[str, dict[str, dict[str, int]]]


def check_frames(extractors: Sequence[Extractor], frames: int) -> None:
    """Raises ValueError when videos of so many frames give no clip."""
    longest = max((extractor.frames for extractor in extractors), default=0)
    if frames < longest:
        raise ValueError(
            f"Videos of {frames} frames give no clip of {longest} for the distance; give --frames {longest} "
            "or more, or shorter clips by --fvd-frames."
        )


def check_clips(real: VideoSetScores) -> None:
    """Raises ValueError when the real videos give too few clips for a distance between two halves of them."""
    for number, extractor in enumerate(real.extractors):
        videos = sum(len(clips) > 0 for clips in real.features[number])
        if min(_halves(real, number)) < 2:
            raise ValueError(
                f"The distance needs 2 clips of {extractor.frames} frames or more from each half of the real "
                f"videos, and {videos} of {len(real.features[number])} have any; give 4 real videos or more "
                "of so many frames and --videos 4 or more, or shorter clips by --fvd-frames."
            )


def video_distance(
    number: int, real: VideoSetScores, reconstructed: VideoSetScores, generated: VideoSetScores
) -> VideoDistance:
    """All distances with extractor `number`."""
    extractor, count = real.extractors[number], min(_halves(real, number))
    half, other = (real.clips(number, start, 2)[:count] for start in (0, 1))
    # These were told what the other half shows.
    instead = generated.clips(number, 1, 2)[:count]
    return VideoDistance(
        extractor=extractor.name,
        sha256=extractor.sha256,
        frames=extractor.frames,
        size=extractor.size,
        features=extractor.num_features,
        generated=feature_distance(generated.clips(number), real.clips(number)),
        generated_clips=len(generated.clips(number)),
        real_clips=len(real.clips(number)),
        reconstructed=feature_distance(reconstructed.clips(number), real.clips(number)),
        reconstructed_clips=len(reconstructed.clips(number)),
        floor=feature_distance(half, other),
        generated_at_floor=feature_distance(half, instead),
        floor_clips=count,
    )


def feature_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """The Fréchet distance of two sets of features."""
    statistics = [GaussianStatistics(features.shape[1]) for features in (first, second)]
    for one, features in zip(statistics, (first, second), strict=True):
        one.update(features)
    return frechet_distance(*statistics)


def prompt_agreement(
    real: VideoSetScores, reconstructed: VideoSetScores, generated: VideoSetScores
) -> Agreement | None:
    """How often each set shows what was said; None where nothing that was told names a scene."""
    found = generated.accuracy()
    if found is None:
        return None
    originals, decoded = (one.accuracy() or {} for one in (real, reconstructed))
    return Agreement(
        tuple(
            AttributeAccuracy(
                name,
                share,
                decoded.get(name),
                originals.get(name),
                prod(CHANCE[part] for part in name.split("+")),
            )
            for name, share in found.items()
        ),
        generated.confusion.videos,
        real.confusion.videos,
        {name: words for name, words in generated.confusion.table().items() if name in generated.names},
    )


def score_videos(
    videos: Iterable[tuple[UInt8[Tensor, "t h w 3"], Fraction, Attributes | None]],
    extractors: Sequence[Extractor],
) -> VideoSetScores:
    """Measure a set of videos: of each its frames, how many it has in a second, and what is said of it."""
    measured = VideoSetScores(extractors)
    for video, rate, said in videos:
        measured.update(video, rate, said)
    return measured


def _halves(real: VideoSetScores, number: int) -> list[int]:
    """Clips of every other real video, and of the rest."""
    return [sum(map(len, real.features[number][start::2])) for start in (0, 1)]
