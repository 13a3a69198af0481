"""Scores of generated videos: Fréchet distances and agreement with their prompts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import torch
from jaxtyping import Float, UInt8
from rich.table import Table
from torch import Tensor

from regen.console import print_table
from regen.data.shape_world import CLASSES, VALUES, ShapeScene, parse_caption
from regen.evaluate.shape_world_reader import Confusion, read_scene
from regen.metrics.features import Extractor, clip_features
from regen.metrics.frechet import GaussianStatistics, frechet_distance

CLASS_ATTRIBUTES = ("shape", "direction")


@dataclass(frozen=True)
class Attributes:
    """A scene of the shape world of which a text states the attributes `names`; the others are arbitrary."""

    scene: ShapeScene
    names: tuple[str, ...]


def parse_attributes(text: str) -> Attributes | None:
    """The attributes that a caption or the name of a class states; None for other texts."""
    if text in CLASSES:
        shape, direction = text.split(" moving ")
        words = {name: known[0] for name, known in VALUES.items()} | {"shape": shape, "direction": direction}
        return Attributes(ShapeScene(**words), CLASS_ATTRIBUTES)
    scene = parse_caption(text)
    return None if scene is None else Attributes(scene, tuple(VALUES))


class VideoSetScores:
    """Clip features of `videos` (frames, rate, stated attributes), and how often those are shown."""

    def __init__(
        self,
        videos: Iterable[tuple[UInt8[Tensor, "t h w 3"], Fraction, Attributes | None]],
        extractors: Sequence[Extractor],
    ) -> None:
        self.extractors, self.confusion = extractors, Confusion()
        self.features: list[list[Float[Tensor, "n d"]]] = [[] for _ in extractors]
        for video, frame_rate, attributes in videos:
            for features, extractor in zip(self.features, extractors, strict=True):
                features.append(clip_features(extractor, video))
            if attributes is not None:
                self.confusion.update(attributes.scene, read_scene(video, frame_rate), attributes.names)

    def clips(self, extractor: int, start: int = 0, step: int = 1) -> Float[Tensor, "n d"]:
        """Clip features of every `step`-th video from `start` on."""
        return torch.cat(self.features[extractor][start::step])

    def half_clips(self, extractor: int) -> list[int]:
        """Number of clips of the even and of the odd videos."""
        return [sum(map(len, self.features[extractor][start::2])) for start in (0, 1)]


@dataclass(frozen=True)
class VideoDistance:
    """Fréchet video distances to the real videos, with one extractor.

    `floor`: between halves of the real videos, of `floor_clips` clips each; `generated_at_floor`: from as
    many generated clips to one of these halves.
    """

    extractor: str
    sha256: str
    frames: int
    size: int
    resize: str
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
    """Accuracy of one attribute, between 0 and 1; None when the real videos have no such captions."""

    name: str
    generated: float
    reconstructed: float | None
    real: float | None
    chance: float


@dataclass(frozen=True)
class Agreement:
    """Accuracies by attribute, the last one joint, and the numbers of videos.

    `generated_words` counts by attribute, word in the prompt and word read from the video.
    """

    attributes: tuple[AttributeAccuracy, ...]
    generated_videos: int
    real_videos: int
    generated_words: dict[str, dict[str, dict[str, int]]]


def check_frames(extractors: Sequence[Extractor], frames: int) -> None:
    """Raises ValueError when videos of `frames` frames have no clip."""
    least = max((extractor.frames for extractor in extractors), default=0)
    if frames < least:
        raise ValueError(f"--frames must be at least {least} for --fvd, got {frames}; or give --fvd-frames.")


def check_clips(real: VideoSetScores) -> None:
    """Raises ValueError when there are too few clips for the distance between halves of the real videos."""
    for number, extractor in enumerate(real.extractors):
        videos = sum(len(clips) > 0 for clips in real.features[number])
        if min(real.half_clips(number)) < 2:
            raise ValueError(
                f"The distance needs 2 clips of {extractor.frames} frames from each half of the real videos, "
                f"got {videos} of {len(real.features[number])} videos with clips; give 4 or more long enough."
            )


def video_distance(
    number: int, real: VideoSetScores, reconstructed: VideoSetScores, generated: VideoSetScores
) -> VideoDistance:
    """All distances with extractor `number`."""
    extractor, count = real.extractors[number], min(real.half_clips(number))
    even, odd = (real.clips(number, start, 2)[:count] for start in (0, 1))
    generated_odd = generated.clips(number, 1, 2)[:count]  # of the prompts of the odd real videos
    return VideoDistance(
        extractor=extractor.name,
        sha256=extractor.sha256,
        frames=extractor.frames,
        size=extractor.size,
        resize=extractor.resize,
        features=extractor.num_features,
        generated=feature_distance(generated.clips(number), real.clips(number)),
        generated_clips=len(generated.clips(number)),
        real_clips=len(real.clips(number)),
        reconstructed=feature_distance(reconstructed.clips(number), real.clips(number)),
        reconstructed_clips=len(reconstructed.clips(number)),
        floor=feature_distance(even, odd),
        generated_at_floor=feature_distance(even, generated_odd),
        floor_clips=count,
    )


def feature_distance(first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]) -> float:
    """Fréchet distance of two sets of features."""
    return frechet_distance(GaussianStatistics.of([first]), GaussianStatistics.of([second]))


def prompt_agreement(
    real: VideoSetScores, reconstructed: VideoSetScores, generated: VideoSetScores
) -> Agreement | None:
    """Accuracy of each set; None when no prompt states attributes."""
    accuracy = generated.confusion.accuracy()
    if not accuracy:
        return None
    others = [one.confusion.accuracy() for one in (reconstructed, real)]
    attributes = [
        AttributeAccuracy(name, share, others[0].get(name), others[1].get(name), _chance(name))
        for name, share in accuracy.items()
    ]
    confusion = generated.confusion
    return Agreement(tuple(attributes), confusion.videos, real.confusion.videos, confusion.table())


def _chance(names: str) -> float:
    """Accuracy of guessing attributes, such as "shape+direction"."""
    return prod(1 / len(VALUES[name]) for name in names.split("+"))


def few_clips_warnings(distances: Sequence[VideoDistance]) -> Iterator[str]:
    """Warnings about distances with no more clips than features."""
    for one in distances:
        clips = min(one.generated_clips, one.real_clips)
        if clips <= one.features:
            yield (
                f"The distance with clips of {one.frames} frames has {clips} clips for {one.features} "
                "features: compare it only with distances of as many clips."
            )


def print_scores(agreement: Agreement | None, distances: Sequence[VideoDistance]) -> None:
    """Print the accuracy of each attribute, and each distance with the numbers of clips on both sides."""
    if agreement is not None:
        real_videos = agreement.real_videos
        counts = {"generated": agreement.generated_videos, "reconstructed": real_videos, "real": real_videos}
        headings = ("accuracy", *(f"{name} ({count})" for name, count in counts.items()), "chance")
        rows = [
            [one.name, *map(_percent, (one.generated, one.reconstructed, one.real, one.chance))]
            for one in agreement.attributes
        ]
        print_table(Table(*headings, box=None), rows)
    if distances:
        headings = ("generated", "reconstructed", "halves: generated", "halves: real")
        rows = [
            [
                f"{one.extractor.partition(',')[0]}, clips of {one.frames} frames",
                f"{one.generated:.2f} ({one.generated_clips}/{one.real_clips})",
                f"{one.reconstructed:.2f} ({one.reconstructed_clips}/{one.real_clips})",
                f"{one.generated_at_floor:.2f} ({one.floor_clips}/{one.floor_clips})",
                f"{one.floor:.2f} ({one.floor_clips}/{one.floor_clips})",
            ]
            for one in distances
        ]
        print_table(Table("Fréchet video distance", *headings, box=None), rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
