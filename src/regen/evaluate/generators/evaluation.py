"""Evaluation of a generator against real videos: Fréchet video distance and prompt agreement.

A generator is measured through the decoder of its embedder, which has errors of its own. So the same is
measured for reconstructions of the real videos, and for the real videos:

- The distance of generated and of reconstructed videos to the real ones; and the floor, the distance between
  two halves of the real videos (every other one), which is above 0 because they are few. The distance falls
  with the number of clips, so the floor comes with the distance of as many generated clips to one half.
- The fraction of videos that show what their caption or class states, as read by a program
  (`regen.evaluate.shape_world_reader`), for scenes of the shape world (`regen.data.shape_world`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from regen.codec.sessions import DecodeOptions
from regen.console import OnProgress, output_console
from regen.data.video_sets import media_sha256
from regen.evaluate.generators.scores import (
    CLASS_ATTRIBUTES,
    Agreement,
    Attributes,
    VideoDistance,
    VideoSetScores,
    check_clips,
    check_frames,
    few_clips_warnings,
    parse_attributes,
    print_scores,
    prompt_agreement,
    video_distance,
)
from regen.evaluate.generators.videos import (
    EvaluationConfig,
    RealVideo,
    VideoCache,
    check_options,
    find_real_videos,
    generate_videos,
    reconstruct_videos,
    select_prompts,
)
from regen.generate.load import load_video_generator
from regen.generate.run import write_contact_sheet
from regen.generate.sampling import SampleOptions
from regen.generate.video_generator import VideoGenerator
from regen.generate.video_shape import VideoShape
from regen.io import make_folder, write_json
from regen.media.pixels import Size
from regen.metrics.features import Extractor
from regen.pretrained.models import silence_logging, weights_hash
from regen.runtime import dtype_name

RESULT, PICTURE = "result.json", "videos.png"
NO_OPTIONS = ("model", "embedder", "real_videos", "distances", "agreement")  # names have hashes instead
T = TypeVar("T")
Bar = Callable[[str], AbstractContextManager[OnProgress]]


@dataclass(frozen=True)
class GeneratorEvaluation:
    """The result, with all that it depends on; `agreement` is None when no text states attributes."""

    model: str
    weights: str
    embedder: str
    embedder_weights: str
    dtype: str
    condition: str
    """Input of the generator: "text", "class" or "nothing"."""
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


def evaluate_generator(
    config: EvaluationConfig,
    device: torch.device,
    dtype: torch.dtype,
    bar: Bar = lambda description: nullcontext(lambda done, total: None),
    on_warning: Callable[[str], None] = lambda text: None,
) -> GeneratorEvaluation:
    """Generate videos, compare them with real ones, and write result.json and videos.png.

    Cached videos in the folder are used, so the same call resumes after an interruption. Raises ValueError
    when a model, a caption or an extractor's file is missing, when the folder has videos made with other
    options, and when there are too few clips.
    """
    silence_logging()
    extractors = [extractor.load(device) for extractor in config.extractors]
    check_frames(extractors, config.frames)
    real = find_real_videos(config.data, config.num_videos)
    make_folder(config.out, "--out")
    generator = load_video_generator(config.model, device, dtype, config.embedder, config.text_encoder)
    prompts = select_prompts(generator, real, config.num_videos)
    shape = generator.shape(config.frames, config.size)
    config = replace(config, size=Size(shape.height, shape.width))
    result = _empty_result(config, generator, shape, len(real), dtype)
    check_options(config.out, _options(result, prompts, real))
    for note in (*shape.notes, *_rate_warnings(generator, real)):
        on_warning(note)
    sets = _score_sets(generator, real, prompts, config, extractors, bar)
    distances = tuple(video_distance(number, *sets) for number in range(len(extractors)))
    for note in few_clips_warnings(distances):
        on_warning(note)
    result = replace(result, distances=distances, agreement=prompt_agreement(*sets))
    cache = VideoCache(config.out, "generated")
    pictures = ((cache[index], text) for index, text in enumerate(prompts[: config.num_pictures]))
    write_contact_sheet(config.out / PICTURE, pictures)
    write_json(config.out / RESULT, asdict(result))
    return result


def _score_sets(
    generator: VideoGenerator,
    real: Sequence[RealVideo],
    prompts: Sequence[str],
    config: EvaluationConfig,
    extractors: Sequence[Extractor],
    bar: Bar,
) -> tuple[VideoSetScores, VideoSetScores, VideoSetScores]:
    """Scores of the real, reconstructed and generated videos; makes the missing ones."""
    reconstructed, generated = VideoCache(config.out, "reconstructed"), VideoCache(config.out, "generated")
    infos = [(video.frame_rate, _attributes_of(generator, video)) for video in real]
    with bar("real videos") as on_progress:
        originals = (
            (video.read(config.size, config.frames), *info) for video, info in zip(real, infos, strict=True)
        )
        real_scores = VideoSetScores(_counted(originals, len(real), on_progress), extractors)
    check_clips(real_scores)
    with bar("reconstructions") as on_progress:
        make = partial(reconstruct_videos, generator.embedder, real, config)
        reconstructed.fill(len(real), config.batch, make, on_progress)
    with bar("generated videos") as on_progress:
        make = partial(generate_videos, generator, prompts, config)
        generated.fill(len(prompts), config.batch, make, on_progress)
    rate = Fraction(generator.latent_spec.frame_rate).limit_denominator(100_000)
    with bar("measuring") as on_progress:
        cached = ((reconstructed[index], *info) for index, info in enumerate(infos))
        reconstructed_scores = VideoSetScores(_counted(cached, len(real), on_progress), extractors)
        cached = ((generated[index], rate, parse_attributes(text)) for index, text in enumerate(prompts))
        generated_scores = VideoSetScores(_counted(cached, len(prompts), on_progress), extractors)
    return real_scores, reconstructed_scores, generated_scores


def _counted(items: Iterable[T], total: int, on_progress: OnProgress) -> Iterator[T]:
    for done, item in enumerate(items, 1):
        yield item
        on_progress(done, total)


def _attributes_of(generator: VideoGenerator, video: RealVideo) -> Attributes | None:
    """The attributes of a real video that the generator's input would state."""
    classes = generator.model.config.classes
    if not classes:
        return parse_attributes(video.caption)
    if 0 <= video.label < len(classes):
        return parse_attributes(classes[video.label])
    attributes = parse_attributes(video.caption)
    return None if attributes is None else Attributes(attributes.scene, CLASS_ATTRIBUTES)


def _empty_result(
    config: EvaluationConfig,
    generator: VideoGenerator,
    shape: VideoShape,
    real_videos: int,
    dtype: torch.dtype,
) -> GeneratorEvaluation:
    """The result before any video is there."""
    inputs, spec = generator.model.config, generator.latent_spec
    embedder = config.embedder or spec.embedder
    return GeneratorEvaluation(
        model=config.model,
        weights=weights_hash(config.model),
        embedder=embedder,
        embedder_weights=weights_hash(embedder),
        dtype=dtype_name(dtype),
        condition="class" if inputs.classes else "text" if inputs.text_width else "nothing",
        videos=config.num_videos,
        real_videos=real_videos,
        frames=config.frames,
        size=(shape.height, shape.width),
        frame_rate=spec.frame_rate,
        seed=config.seed,
        sampling=config.sampling,
        decoding=config.decoding,
        distances=(),
        agreement=None,
    )


def _options(
    result: GeneratorEvaluation, prompts: Sequence[str], real: Sequence[RealVideo]
) -> dict[str, Any]:
    """Everything that the videos depend on, for JSON."""
    options = {name: value for name, value in asdict(result).items() if name not in NO_OPTIONS}
    files = [f"{media_sha256(video.path)} {video.label} {video.caption}" for video in real]
    for name, texts in (("the captions", prompts), ("the real videos", files)):
        options[name] = hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
    return options


def _rate_warnings(generator: VideoGenerator, real: Sequence[RealVideo]) -> Iterator[str]:
    """Warnings about frame rates that differ from those of the training."""
    rates = {float(video.frame_rate) for video in real}
    expected = generator.latent_spec.frame_rate
    if any(abs(rate - expected) > 0.01 * expected for rate in rates):
        listed = ", ".join(f"{rate:.5g}" for rate in sorted(rates))
        yield (
            f"The generator makes {expected:.5g} frames per second, the real videos have {listed}: motion "
            "can't be compared."
        )


def show_evaluation(result: GeneratorEvaluation, out: Path, as_json: bool) -> None:
    """Print tables and the files written, or one line of JSON."""
    if as_json:
        print(json.dumps(asdict(result)))
        return
    console, options, (height, width) = output_console(), result.sampling, result.size
    console.print(
        f"{result.videos} videos of {result.frames} frames, {height}x{width}, from {result.model} in "
        f"{options.steps} steps with guidance {options.guidance_scale:g}; {result.real_videos} real ones"
    )
    print_scores(result.agreement, result.distances)
    console.print(f"written: {out / RESULT}, {out / PICTURE}")
