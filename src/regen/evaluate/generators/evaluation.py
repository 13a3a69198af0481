"""How good a generator is, beside real videos: the Fréchet video distance, and whether it does as told.

A generator is measured through its embedder, whose decoder has faults of its own. So the same is measured of
the real videos' reconstructions, and of the real videos themselves:

- The distance of generated and of reconstructed videos from the real ones; and the distance between two
  halves of the real videos (every other one), the floor, which is not 0 because they are few. The distance
  falls with the number of clips: beside the floor stands that of as many generated clips from one half.
- The share of videos in which a program reads what was said (`regen.evaluate.shape_world_reader`), where
  captions or   classes tell of scenes of the world (`regen.data.shape_world`).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import torch

from regen.codec.sessions import DecodeOptions
from regen.evaluate.generators.scores import (
    CLASS_ATTRIBUTES,
    Agreement,
    Attributes,
    VideoDistance,
    VideoSetScores,
    check_clips,
    check_frames,
    parse_attributes,
    prompt_agreement,
    score_videos,
    video_distance,
)
from regen.evaluate.generators.video_cache import VideoCache, check_options, write_json
from regen.evaluate.generators.videos import (
    OnProgress,
    RealVideo,
    VideoSettings,
    find_real_videos,
    make_generated,
    make_reconstructions,
    select_prompts,
)
from regen.generate.contact_sheet import write_contact_sheet
from regen.generate.load import load_video_generator
from regen.generate.sampling import SampleOptions
from regen.generate.video_generator import VideoGenerator
from regen.media.sizes import Size
from regen.metrics.features import Extractor, ExtractorSpec
from regen.pretrained.models import silence_logging, weights_hash
from regen.runtime import dtype_name

RESULT, PICTURE = "result.json", "videos.png"
GENERATED, RECONSTRUCTED = "generated", "reconstructed"
DEFAULT_SAMPLING, DEFAULT_DECODING = SampleOptions(), DecodeOptions()
NAMES = ("model", "embedder", "real_videos")  # for these there are hashes
T = TypeVar("T")
Bar = Callable[[str], AbstractContextManager[OnProgress]]


@dataclass(frozen=True)
class EvaluationConfig:
    """What is generated, and how it is measured."""

    model: str
    """The generator: a name, a folder, or owner/name on the Hub."""
    data: Path
    """A folder of real videos, with captions (.txt) for a generator that reads them."""
    out: Path
    """The folder of the videos and of the results."""
    num_videos: int = 256
    frames: int = 33
    """Of each video; more frames of the real ones are left out."""
    size: Size | None = None
    """None: the most frequent one in the generator's training."""
    sampling: SampleOptions = DEFAULT_SAMPLING
    decoding: DecodeOptions = DEFAULT_DECODING
    seed: int = 0
    """The noise of video i follows from this and i; that of its decoding from `decoding.seed` and i."""
    batch: int = 8
    """Videos that are sampled together; no result depends on it, but for rounding."""
    extractors: tuple[ExtractorSpec, ...] = ()
    """The networks of the distance; one for each length of clips."""
    num_pictures: int = 16
    """Of the first videos there is a picture."""
    embedder: str | None = None
    text_encoder: str | None = None
    """Where embedder and text encoder are, if not where they were in the generator's training."""

    def __post_init__(self) -> None:
        if self.num_videos < 1 or self.frames < 2 or self.batch < 1 or self.num_pictures < 1:
            raise ValueError(
                "An evaluation needs 1 video or more, of 2 frames or more, in batches of 1 or more."
            )


@dataclass(frozen=True)
class GeneratorEvaluation:
    """The result, with all that it depends on; `agreement` is None where nothing tells of a scene."""

    model: str
    weights: str
    embedder: str
    embedder_weights: str
    dtype: str
    condition: str
    """What the generator was told: "text", "class" or "nothing"."""
    videos: int
    real_videos: int
    frames: int
    size: tuple[int, int]
    """Height and width in pixels."""
    frame_rate: float
    """Of the generated videos, as in the generator's training."""
    seed: int
    sampling: SampleOptions
    decoding: DecodeOptions
    distances: tuple[VideoDistance, ...]
    agreement: Agreement | None

    def as_json(self) -> dict[str, Any]:
        """All of it as values that JSON has."""
        return asdict(self)


def evaluate_generator(
    evaluation: EvaluationConfig,
    device: torch.device,
    dtype: torch.dtype,
    bar: Bar = lambda verb: nullcontext(lambda done, total: None),
    on_warning: Callable[[str], None] = lambda text: None,
) -> GeneratorEvaluation:
    """Generate videos, measure them beside real ones, and write result.json and videos.png.

    Videos that are in the folder already are taken from there, so the same call goes on after an
    interruption. Raises ValueError in one sentence when a model, a caption or the extractor's file is
    missing, when the folder holds videos made with other options, and when there are too few clips.
    """
    silence_logging()
    extractors = [source.load(device) for source in evaluation.extractors]
    check_frames(extractors, evaluation.frames)
    real = find_real_videos(evaluation.data, evaluation.num_videos)
    maker = load_video_generator(
        evaluation.model, device, dtype, evaluation.embedder, evaluation.text_encoder
    )
    told = select_prompts(maker, real, evaluation.num_videos)
    shape = maker.shape(evaluation.frames, evaluation.size)
    how = VideoSettings(
        options=evaluation.sampling,
        decoding=evaluation.decoding,
        frames=evaluation.frames,
        size=Size(shape.height, shape.width),
        seed=evaluation.seed,
        batch=evaluation.batch,
    )
    facts = _known_fields(evaluation, maker, how, len(real), dtype)
    check_options(evaluation.out, _options(facts, told, real))
    for note in (*shape.notes, *_notes(maker, real)):
        on_warning(note)
    sets = _measured(maker, real, told, how, extractors, evaluation.out, bar)
    distances = tuple(video_distance(number, *sets) for number in range(len(extractors)))
    for note in few_clips(distances):
        on_warning(note)
    result = GeneratorEvaluation(**facts, distances=distances, agreement=prompt_agreement(*sets))
    store = VideoCache(evaluation.out, GENERATED)
    shown = ((store[number], text) for number, text in enumerate(told[: evaluation.num_pictures]))
    write_contact_sheet(evaluation.out / PICTURE, shown)
    write_json(evaluation.out / RESULT, result.as_json())
    return result


def _measured(
    maker: VideoGenerator,
    real: Sequence[RealVideo],
    told: Sequence[str],
    how: VideoSettings,
    extractors: Sequence[Extractor],
    out: Path,
    bar: Bar,
) -> tuple[VideoSetScores, VideoSetScores, VideoSetScores]:
    """The real videos, their reconstructions and the generated ones, measured; what is missing is made."""
    reconstructed, generated = VideoCache(out, RECONSTRUCTED), VideoCache(out, GENERATED)
    facts = [(video.frame_rate, _said_of(maker, video)) for video in real]
    with bar("real videos") as on_progress:
        originals = _counted((video.read(how.size, how.frames) for video in real), len(real), on_progress)
        first = score_videos(
            ((video, *about) for video, about in zip(originals, facts, strict=True)), extractors
        )
    check_clips(first)
    with bar("reconstructions") as on_progress:
        make_reconstructions(maker.embedder, real, how, reconstructed, on_progress)
    with bar("generated videos") as on_progress:
        make_generated(maker, told, how, generated, on_progress)
    rate = Fraction(maker.latent_spec.frame_rate).limit_denominator(100_000)
    with bar("measuring") as on_progress:
        stored = ((reconstructed[number], *about) for number, about in enumerate(facts))
        second = score_videos(_counted(stored, len(real), on_progress), extractors)
        stored = ((generated[number], rate, parse_attributes(text)) for number, text in enumerate(told))
        third = score_videos(_counted(stored, len(told), on_progress), extractors)
    return first, second, third


def _counted(items: Iterable[T], total: int, on_progress: OnProgress) -> Iterator[T]:
    for done, item in enumerate(items, 1):
        yield item
        on_progress(done, total)


def _said_of(maker: VideoGenerator, video: RealVideo) -> Attributes | None:
    """What is said of a real video, as far as the generator would be told it."""
    classes = maker.model.config.classes
    if not classes:
        return parse_attributes(video.caption)
    if 0 <= video.label < len(classes):
        return parse_attributes(classes[video.label])
    said = parse_attributes(video.caption)
    return None if said is None else Attributes(said.scene, CLASS_ATTRIBUTES)


def _known_fields(
    evaluation: EvaluationConfig, maker: VideoGenerator, how: VideoSettings, real: int, dtype: torch.dtype
) -> dict[str, Any]:
    """The fields of the result that are known before."""
    config, source = maker.model.config, maker.latent_spec
    embedder = evaluation.embedder or source.embedder
    return {
        "model": evaluation.model,
        "weights": weights_hash(evaluation.model),
        "embedder": embedder,
        "embedder_weights": weights_hash(embedder),
        "dtype": dtype_name(dtype),
        "condition": "class" if config.classes else "text" if config.text_width else "nothing",
        "videos": evaluation.num_videos,
        "real_videos": real,
        "frames": how.frames,
        "size": (how.size.height, how.size.width),
        "frame_rate": source.frame_rate,
        "seed": how.seed,
        "sampling": how.options,
        "decoding": how.decoding,
    }


def _options(facts: dict[str, Any], told: Sequence[str], real: Sequence[RealVideo]) -> dict[str, Any]:
    """All that the videos depend on, as values that JSON has."""
    lists = {"the captions": told, "the real videos": [video.fingerprint() for video in real]}
    options = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in facts.items()
        if name not in NAMES
    }
    return options | {name: _fingerprint(texts) for name, texts in lists.items()}


def _fingerprint(texts: Sequence[str]) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def _notes(maker: VideoGenerator, real: Sequence[RealVideo]) -> Iterator[str]:
    """Warnings about what makes the real videos others than those of the training."""
    rates = {float(video.frame_rate) for video in real}
    own = maker.latent_spec.frame_rate
    if any(abs(rate - own) > 0.01 * own for rate in rates):
        listed = ", ".join(f"{rate:.5g}" for rate in sorted(rates))
        yield (
            f"The generator makes {own:.5g} frames a second and the real videos have {listed}: what moves in "
            "them can't be compared."
        )


def few_clips(distances: Sequence[VideoDistance]) -> Iterator[str]:
    """Warnings about distances of so few clips that only equal numbers of them can be compared."""
    for one in distances:
        clips = min(one.generated_clips, one.real_clips)
        if clips <= one.features:
            yield (
                f"The distance with clips of {one.frames} frames is one of {clips} clips and {one.features} "
                "features: compare it with distances of as many clips alone."
            )
