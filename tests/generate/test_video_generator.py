"""From a request to frames: shapes and warnings, conditions, given frames, loading by name."""

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from tiny_evaluation import make_generator
from tiny_generator import awake
from tiny_generator import generators as seeds
from tiny_media import same_latents, tiny_magvit2, tiny_onedva
from tiny_text import make_t5

from regen import names
from regen.codec.rate_control import FixedLength
from regen.codec.sessions import encode_frames
from regen.embedders.regen import AutoencoderRegen
from regen.generate.generator import LatentGenerator, LatentSpec
from regen.generate.load import load_generator, load_video_generator
from regen.generate.sampling import SampleOptions
from regen.generate.video_generator import VideoGenerator
from regen.generate.video_shape import VideoShape, video_shape
from regen.media.pixels import Size, resize_center_crop

CPU, FP32 = torch.device("cpu"), torch.float32
SOURCE = LatentSpec(sizes=((48, 64), (64, 48)), max_chunks=3)  # chunks of 5 frames, places of 8 pixels
QUICK = SampleOptions(steps=2)


@pytest.fixture(scope="module")
def generators(tmp_path_factory) -> dict[str, VideoGenerator]:
    kinds = ("text", "class", "nothing", "hybrid class")
    names = {kind: make_generator(tmp_path_factory.mktemp("generator"), kind) for kind in kinds}
    return {kind: load_video_generator(name, CPU, FP32) for kind, name in names.items()}


def test_default_shape_is_one_chunk_of_the_most_frequent_size():
    assert video_shape(SOURCE, 2) == VideoShape(5, 48, 64, 1, 2, 6, 8, False, 1, ())


def test_other_sizes_are_padded_and_cropped():
    shape = video_shape(SOURCE, 2, 12, Size(50, 90))
    assert (shape.num_chunks, shape.rows, shape.columns, shape.num_segments) == (3, 8, 12, 1)
    pixels, frames, unknown = shape.notes
    assert all(words in pixels for words in ("64x96", "50x90", "multiples of 16"))
    assert "15 are generated" in frames and "first 12" in frames
    assert "48x64, 64x48, not at 50x90" in unknown
    assert video_shape(SOURCE, 2, 5, Size(41, 60)).notes[1:] == (), "made at a size of the training"


def test_sizes_of_the_training_are_not_padded() -> None:
    """Incomplete tokens at the border are those of the training."""
    source = replace(SOURCE, sizes=((40, 72),))
    shape = video_shape(source, 2, 5)
    assert (shape.rows, shape.columns, shape.notes) == (5, 9, ())
    assert video_shape(source, 2, 5, Size(40, 60)).rows == 6, "another size has complete tokens"


@pytest.mark.parametrize(
    ("frames", "continues", "parts"),
    [(15, False, 1), (16, False, 2), (25, False, 2), (26, False, 3), (10, True, 1), (11, True, 2)],
)
def test_long_videos_are_made_in_parts(frames, continues, parts):
    shape = video_shape(SOURCE, 2, frames, continues=continues)
    assert shape.num_segments == parts
    assert any(f"in {parts} segments" in note for note in shape.notes) == (parts > 1)


@pytest.mark.parametrize(
    ("source", "frames", "continues", "words"),
    [
        (SOURCE, 0, False, "frames .* 0"),
        (replace(SOURCE, sizes=()), 5, False, "give one, such as 256x256"),
        (replace(SOURCE, max_chunks=1), 6, False, "at most 5 frames"),
        (replace(SOURCE, max_chunks=1), 5, True, "no video to continue"),
    ],
)
def test_impossible_shapes_raise(source, frames, continues, words):
    with pytest.raises(ValueError, match=words):
        video_shape(source, 2, frames, continues=continues)


def test_the_negative_prompt_and_the_prompt_act(generators):
    videos, found = generators["text"], []
    for prompt, negatives in [("a red ball", []), ("a cat", []), ("a red ball", ["a cat"]), ("", [])]:
        negative = videos.negative_condition(negatives, 1)
        condition = videos.condition([prompt], [])
        found.append(
            videos.sample(videos.shape(), condition, seeds(1), QUICK, negative=negative)[0].segments[0].grid
        )
    assert not any(torch.equal(found[i], found[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize(
    ("kind", "prompts", "classes", "words"),
    [
        ("text", [], [], "needs a prompt"),
        ("text", [], ["cat"], "needs a prompt, not a class"),
        ("class", ["a cat"], [], "needs a class, not a prompt, one of: circle moving left"),
        ("class", [], [], "needs a class, one of: circle moving left"),
        ("class", [], ["circle moving lef"], "closest are .*'circle moving left'"),
        ("nothing", ["a cat"], [], "unconditional"),
        ("nothing", [], ["cat"], "unconditional"),
    ],
)
def test_conditions_that_a_generator_does_not_know(generators, kind, prompts, classes, words):
    with pytest.raises(ValueError, match=words):
        generators[kind].condition(prompts, classes)


def test_negative_prompts_that_do_not_fit(generators):
    with pytest.raises(ValueError, match="reads no texts"):
        generators["class"].negative_condition(["a cat"], 1)
    with pytest.raises(ValueError, match="3, one for each video, not 2"):
        generators["text"].negative_condition(["a cat", "a ball"], 3)


def test_the_lengths_of_1d_latents(generators):
    videos = generators["hybrid class"]
    condition = videos.condition([], ["circle moving left"] * 2)
    shape = videos.shape(10)

    def lengths(length: FixedLength | None, first: int = 0) -> torch.Tensor:
        sampled = videos.sample(shape, condition, seeds(2, first), QUICK, num_latents=length)
        rows = [one.segments[0] for one in sampled]
        assert all(row.has_sequence for row in rows)
        assert torch.stack(list(sampled[0].decode(videos.embedder))).shape == (10, 48, 64, 3)
        return torch.stack([row.lengths for row in rows])

    drawn = lengths(None)
    assert drawn.shape == (2, 8) and set(drawn.flatten().tolist()) <= {0, 1, 2} and drawn.any()
    assert torch.equal(lengths(None), drawn) and not torch.equal(lengths(None, 5), drawn)
    budgets = torch.tensor(tiny_onedva().budgets(5, 48, 64)).repeat(2)
    assert torch.equal(lengths(FixedLength(share=1.0))[0], budgets)
    assert lengths(FixedLength(count=6))[0, :4].sum() == 6
    with pytest.raises(ValueError, match="got 10000"):
        lengths(FixedLength(count=10_000))
    with pytest.raises(ValueError, match="need a One-DVA model"):
        generators["nothing"].sample(
            shape, videos.condition([], ["circle moving left"]), seeds(1), num_latents=FixedLength(3)
        )


def test_lengths_follow_the_class(generators):
    own = generators["hybrid class"]
    videos = VideoGenerator(own.model, own.embedder)
    videos.latent_spec = replace(own.latent_spec, length_counts=((0, 0, 0, 1), (0, 1, 0, 0), (0, 0, 0, 0)))
    for side, wanted in (("left", {3}), ("right", {1}), ("up", {1, 3})):
        condition = videos.condition([], [f"circle moving {side}"])
        (one,) = videos.sample(videos.shape(), condition, seeds(1), QUICK)
        assert set(one.segments[0].lengths.tolist()) <= wanted


@pytest.mark.parametrize("size", [(48, 64), (41, 50)])
def test_the_first_latent_frame_is_that_of_the_image(generators, size):
    videos = generators["nothing"]
    image = torch.randint(0, 256, (60, 70, 3), dtype=torch.uint8)
    shape = videos.shape(20, Size(*size))
    known = videos.encode_images([image], shape)
    (one,) = videos.sample(shape, videos.condition([], []), seeds(1), QUICK, known)
    assert torch.equal(one.segments[0].grid[:, :1], known.latents.grid[0])
    if size == (48, 64):
        (encoded,) = encode_frames(videos.embedder, [resize_center_crop(image, Size(48, 64))])
        torch.testing.assert_close(known.latents.grid[0], encoded.latents.grid)
    with pytest.raises(ValueError, match="at least 2 frames"):
        videos.encode_images([image], videos.shape(1))


def test_an_image_needs_a_causal_embedder(generators):
    image = torch.zeros(48, 64, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="causal embedder"):
        generators["hybrid class"].encode_images([image], generators["hybrid class"].shape())
    model = awake(
        "none", latent_spec={"channels": 4, "chunk_frames": 17, "chunk_latents": 5, "sizes": [[32, 32]]}
    )
    videos = VideoGenerator(model, tiny_magvit2())
    known = videos.encode_images([image], videos.shape())
    (one,) = videos.sample(videos.shape(), videos.condition([], []), seeds(1), QUICK, known)
    assert len(list(one.decode(videos.embedder))) == 17


@pytest.mark.parametrize("kind", ["nothing", "hybrid class"])
def test_a_continued_video_has_the_new_frames_alone(generators, kind):
    videos = generators[kind]
    frames = torch.randint(0, 256, (9, 48, 64, 3), dtype=torch.uint8)
    shape = videos.shape(8, continues=True)
    known = videos.encode_last_chunk(frames, shape)
    condition = videos.condition([], ["circle moving left"] if kind != "nothing" else [])
    (one,) = videos.sample(shape, condition, seeds(1), QUICK, known)
    assert [chunk.shape[1] for chunk in one.chunks()] == [2, 2, 2]
    assert same_latents(one.chunks()[0], known.latents[0])
    assert torch.stack(list(one.decode(videos.embedder))).shape == (8, 48, 64, 3)
    with pytest.raises(ValueError, match="at least 5 frames, got 4"):
        videos.encode_last_chunk(frames[:4], shape)


def test_132_frames_from_8_latent_frames():
    sizes: dict[str, Any] = {"encoder_widths": (8, 8, 8, 8, 8), "encoder_blocks": 1, "width": 16, "depth": 1}
    embedder = AutoencoderRegen(
        latent_channels=4, temporal_compression_ratio=32, heads=1, siren_width=8, **sizes
    ).eval()
    source = LatentSpec(channels=4, chunk_frames=33, sizes=((48, 80),), max_chunks=4)
    model = awake("none", latent_spec=asdict(source))
    videos = VideoGenerator(model, embedder)
    shape = videos.shape(132)
    assert (shape.num_segments, shape.notes) == (1, ())
    (one,) = videos.sample(shape, videos.condition([], []), seeds(1), QUICK)
    assert [row.shape for row in one.segments] == [(4, 8, 6, 10)]
    frames = list(one.decode(videos.embedder))
    assert len(frames) == 132 and {frame.shape for frame in frames} == {(48, 80, 3)}


def test_unknown_generators_raise(tmp_path, monkeypatch):
    name = make_generator(tmp_path / "mine", "nothing")
    with pytest.raises(ValueError, match="is an embedder"):
        load_generator(str(tmp_path / "mine" / "embedder"), CPU, FP32)
    with pytest.raises(ValueError, match="holds no model"):
        load_generator(str(tmp_path), CPU, FP32)
    monkeypatch.setattr(names, "CHECKPOINTS", tmp_path / "mine")
    with pytest.raises(ValueError, match=r"no generator nothing; .*\(generator\)"):
        load_generator("nothing", CPU, FP32)
    assert isinstance(load_generator(name, CPU, FP32), LatentGenerator)


def test_the_embedder_is_the_one_of_the_training(tmp_path):
    name = make_generator(tmp_path, "nothing")
    other = make_generator(tmp_path / "other", "hybrid class").replace("generator", "embedder")
    with pytest.raises(ValueError, match="--embedder.* the hash .{16}, got .{16}"):
        load_video_generator(name, CPU, FP32, embedder=other)
    moved = (tmp_path / "embedder").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="can't be loaded.*--embedder"):
        load_video_generator(name, CPU, FP32)
    assert load_video_generator(name, CPU, FP32, embedder=str(moved)).embedder is not None


def test_an_embedder_with_other_latents_is_refused(generators):
    text, hybrid = generators["text"], generators["hybrid class"]
    for videos, embedder in ((text, hybrid.embedder), (hybrid, text.embedder)):
        with pytest.raises(ValueError, match="needs an embedder with"):
            VideoGenerator(videos.model, embedder, videos.text_encoder)


def test_the_text_encoder_is_the_one_of_the_training(tmp_path):
    name = make_generator(tmp_path, "text")
    torch.manual_seed(99)
    other = make_t5(tmp_path / "other")
    with pytest.raises(ValueError, match="--text-encoder.* fingerprint .{16}, got"):
        load_video_generator(name, CPU, FP32, text_encoder=other)
    moved = (tmp_path / "text").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="can't be loaded.*--text-encoder"):
        load_video_generator(name, CPU, FP32)
    videos = load_video_generator(name, CPU, FP32, text_encoder=str(moved))
    long = "the cat sits on the mat and then rolls over the ball and " * 3
    assert videos.prompt_warnings(["a cat"]) == []
    (warning,) = videos.prompt_warnings([long, long])
    assert "are dropped" in warning
