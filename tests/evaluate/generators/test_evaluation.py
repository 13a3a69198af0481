"""Evaluation of generators: the cache of videos, independence of the batch, and the scores."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_evaluation import FRAMES, HEIGHT, VIDEOS, WIDTH, make_generator, make_world
from world import draw_scene, render

from regen import AutoencoderRegen
from regen.data.shape_world import CLASSES, VALUES, parse_caption
from regen.evaluate.generators import evaluation
from regen.evaluate.generators.evaluation import GeneratorEvaluation, evaluate_generator
from regen.evaluate.generators.scores import (
    VideoSetScores,
    check_clips,
    check_frames,
    feature_distance,
    parse_attributes,
    prompt_agreement,
    video_distance,
)
from regen.evaluate.generators.videos import EvaluationConfig, VideoCache, find_real_videos
from regen.generate.sampling import SampleOptions
from regen.metrics.features import RandomConvolutions

CPU = torch.device("cpu")
KINDS = ("text", "class", "hybrid class", "nothing")
RATE = Fraction(25)


class StoppedError(Exception):
    """Stands for an interruption."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    return {kind: make_generator(tmp_path_factory.mktemp("model"), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def run(models, world, tmp_path) -> Callable[..., GeneratorEvaluation]:
    """Evaluates a model by its kind in a folder below `tmp_path`."""

    def run(
        kind: str, out: str = "out", data: Path = world, stops: tuple[Any, ...] = (), **changes: Any
    ) -> GeneratorEvaluation:
        sampling = SampleOptions(2, guidance_scale=2.0)
        options = {"num_videos": 4, "frames": FRAMES, "sampling": sampling, "batch": 2} | changes
        config = EvaluationConfig(models[kind], data, tmp_path / out, **options)
        return evaluate_generator(config, CPU, torch.float32, *stops)

    return run


def stop_after(description: str, videos: int) -> Callable[[str], Any]:
    """A bar that interrupts when so many videos are done."""

    @contextmanager
    def bar(shown: str) -> Iterator[Callable[[int, int], None]]:
        def on_progress(done: int, total: int) -> None:
            if shown == description and done >= videos:
                raise StoppedError

        yield on_progress

    return bar


def test_an_interrupted_evaluation_goes_on_to_the_same_result(run, tmp_path):
    """Stopped twice; the rest is made in other batches."""
    sources = (RandomConvolutions(frames=6),)
    whole = run("text", "whole", extractors=sources)
    parts = tmp_path / "parts"
    for description in ("reconstructions", "generated videos"):
        with pytest.raises(StoppedError):
            run("text", "parts", stops=(stop_after(description, 2),), extractors=sources)
    times = {path: path.stat().st_mtime_ns for path in parts.glob("*.safetensors")}
    assert len(times) == 3 and not (parts / "result.json").exists()
    assert run("text", "parts", extractors=sources, batch=3) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times, "nothing is made twice"
    results = [(tmp_path / name / "result.json").read_text() for name in ("whole", "parts")]
    assert results[0] == results[1] and not list(parts.glob(".*"))


@pytest.mark.parametrize(("kind", "frames"), [("text", 7), ("hybrid class", 18), ("nothing", 7)])
def test_the_size_of_the_batch_does_not_matter(run, tmp_path, kind, frames):
    """Nor for videos in parts, whose 1D latents draw as much noise as the longest of the batch needs."""
    results, videos = [], []
    for batch in (1, 2):
        results.append(run(kind, str(batch), num_videos=3, frames=frames, batch=batch))
        cache = VideoCache(tmp_path / str(batch), "generated")
        assert cache.missing(4) == [3]
        videos.append(torch.stack([cache[index] for index in range(3)]).int())
    assert videos[0].shape == (3, frames, HEIGHT, WIDTH, 3)
    assert (videos[0] - videos[1]).abs().max() <= 1, "rounding to 8 bits alone"
    assert results[0].agreement == results[1].agreement
    assert not torch.equal(videos[0][0], videos[0][1])


def test_another_decoder_and_other_videos_are_noticed(run, models, tmp_path):
    """The decoder that was used is in the result; neither it nor the real videos may change meanwhile."""
    first = run("class", num_videos=2)
    stored = json.loads(Path(models["class"], "config.json").read_text())["latent_spec"]["embedder"]
    model = AutoencoderRegen.from_pretrained(stored)
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(post := str(tmp_path / "post"))
    with pytest.raises(ValueError, match="embedder_weights was"):
        run("class", num_videos=2, embedder=post)
    other = run("class", "other", num_videos=2, embedder=post)
    with pytest.raises(ValueError, match="the real videos was"):
        run("class", num_videos=2, data=make_world(tmp_path / "world", seed=99))
    assert other.embedder == post and other.embedder_weights != first.embedder_weights


def test_the_result_has_its_settings(run, tmp_path):
    sources = tuple(RandomConvolutions(frames=frames) for frames in (6, 12))
    result = run("class", seed=7, num_videos=20, extractors=sources, num_pictures=3)
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored == json.loads(json.dumps(asdict(result)))
    assert (result.seed, result.videos, result.real_videos) == (7, 20, VIDEOS)
    assert (result.frames, result.size, result.condition) == (FRAMES, (HEIGHT, WIDTH), "class")
    assert (result.sampling.steps, result.sampling.guidance_scale) == (2, 2.0)
    counts = [
        (one.frames, one.generated_clips, one.real_clips, one.reconstructed_clips, one.floor_clips)
        for one in result.distances
    ]
    assert counts == [(6, 40, 12, 12, 6), (12, 20, 6, 6, 3)]
    assert all(len(distance.sha256) == 64 for distance in result.distances)
    assert result.agreement is not None and result.agreement.generated_videos == 20
    words = result.agreement.generated_words["shape"]
    assert {shape: sum(read.values()) for shape, read in words.items()} == {
        "circle": 8, "square": 4, "triangle": 4, "cross": 4,
    }, "20 videos of 16 classes in turn"  # fmt: skip
    with Image.open(tmp_path / "out" / "videos.png") as picture:
        assert picture.width >= 5 * WIDTH and picture.height >= 3 * HEIGHT


def test_a_perfect_generator_is_as_good_as_the_real_videos(run, monkeypatch):
    def perfect(generator: Any, prompts: list[str], config: Any, indices: list[int]) -> dict[int, Any]:
        scenes = [parse_caption(prompts[index]) for index in indices]
        videos = [render(scene, FRAMES, HEIGHT, WIDTH, 50) for scene in scenes if scene is not None]
        return dict(zip(indices, videos, strict=True))

    monkeypatch.setattr(evaluation, "generate_videos", perfect)
    result = run("text", num_videos=9, extractors=(RandomConvolutions(frames=12),))
    assert result.agreement is not None and result.agreement.attributes[-1].name == "colour+shape+direction"
    by_name = {one.name: one for one in result.agreement.attributes}
    for name in ("count", "size", "colour", "direction", "speed", "background"):
        assert by_name[name].generated >= 0.85 and (by_name[name].real or 0) >= 0.85
    assert (by_name["colour"].reconstructed or 0) < 0.85, "the embedder's weights are random"
    distance = result.distances[0]
    assert distance.generated < 0.1 * distance.reconstructed


def rendered(count: int, words: dict[str, str], height: int = 96, width: int = 160) -> VideoSetScores:
    """Videos of scenes, whose texts have the replaced `words`."""
    videos = []
    for seed in range(count):
        scene = draw_scene(seed)
        attributes = parse_attributes(scene.caption())
        assert attributes is not None
        for old, new in words.items():
            attributes = parse_attributes(attributes.scene.caption().replace(old, new))
            assert attributes is not None
        videos.append((render(scene, 13, height, width, seed), RATE, attributes))
    return VideoSetScores(videos, [])


def test_agreement_counts_correct_attributes():
    right, wrong = rendered(6, {}), rendered(6, {" light ": " dark "})
    found = prompt_agreement(right, right, wrong)
    assert found is not None
    by_name = {one.name: one for one in found.attributes}
    assert [by_name[name].generated for name in ("colour", "shape", "direction")] == [1.0, 1.0, 1.0]
    light = sum(draw_scene(seed).background == "light" for seed in range(6))
    assert 0 < light < 6 and by_name["background"].generated == pytest.approx(1 - light / 6)
    assert by_name["background"].real == by_name["background"].reconstructed == 1.0
    chance = prod(1 / len(VALUES[name]) for name in ("colour", "shape", "direction"))
    assert by_name["colour+shape+direction"].chance == pytest.approx(chance)
    assert found.generated_words["background"]["dark"]["light"] == light


def test_attributes_of_texts():
    for name in CLASSES:
        attributes = parse_attributes(name)
        assert attributes is not None and attributes.scene.class_name == name
        assert attributes.names == ("shape", "direction")
    attributes = parse_attributes(draw_scene(0).caption())
    assert attributes is not None and attributes.names == tuple(VALUES)
    assert [parse_attributes(text) for text in ("", "a cat on a mat", "archery")] == [None] * 3
    others = some(1, 2, [])
    assert others.confusion.accuracy() == {} and prompt_agreement(others, others, others) is None


def some(count: int, frames: int, extractors: list[Any]) -> VideoSetScores:
    generator = torch.Generator().manual_seed(5)
    size = frames, 16, 16, 3
    videos = [torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in range(count)]
    return VideoSetScores([(video, RATE, None) for video in videos], extractors)


def test_the_distance_of_a_set_to_itself_is_nothing():
    measured = some(8, 8, [RandomConvolutions(frames=4, size=16).load(CPU)])
    features = measured.clips(0)
    spread = float((features - features.mean(0)).square().sum())
    assert len(features) == 16 and feature_distance(features, features) <= 1e-6 * spread
    distance = video_distance(0, measured, measured, measured)
    assert distance.generated == distance.reconstructed == pytest.approx(0, abs=1e-6 * spread)
    assert distance.floor_clips == 8 and distance.floor > 0
    assert distance.generated_at_floor == pytest.approx(distance.floor), "the other half stands for both"


def test_too_few_clips_are_an_error():
    extractors = [RandomConvolutions(frames=4, size=16).load(CPU)]
    with pytest.raises(ValueError, match="2 clips of 4 frames .* got 3 of 3"):
        check_clips(some(3, 4, extractors))
    check_clips(some(4, 4, extractors))
    with pytest.raises(ValueError, match="at least 4 .* got 3"):
        check_frames(extractors, 3)


def test_invalid_inputs_are_errors(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="real videos to compare with"):
        run("text", data=tmp_path / "empty")
    with pytest.raises(ValueError, match="frames must be at least 2, got 1"):
        run("text", frames=1)
    alone = make_world(tmp_path / "alone", videos=1)
    (alone / "world_00000.txt").unlink()
    with pytest.raises(ValueError, match="needs a caption .* world_00000.txt"):
        run("text", data=alone)


def test_videos_of_another_evaluation_are_refused(run, tmp_path):
    def refuses(words: str, kind: str = "text", **changes: Any) -> None:
        with pytest.raises(ValueError, match=words):
            run(kind, **{"num_videos": 2} | changes)

    run("text", num_videos=2)
    refuses("seed was 0 and is now 3", seed=3)
    refuses("videos was 2 and is now 3", num_videos=3)
    refuses("sampling was .*'steps': 2.* and is now .*'steps': 3", sampling=SampleOptions(3))
    refuses("weights was", "class")
    next((tmp_path / "out").glob("generated-*")).write_bytes(b"nothing")
    refuses("is damaged")


def test_a_few_of_many_real_videos_are_spread_over_all(world):
    found = find_real_videos(world, 3)
    assert [video.path.name for video in found] == [f"world_0000{number}.mp4" for number in (0, 2, 4)]
