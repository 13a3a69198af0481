"""`regen generate` as a command: what it writes, what it says, and what it leaves behind."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import Ran, assert_error
from PIL import Image
from tiny_evaluation import HEIGHT, WIDTH, make_generator
from tiny_media import make_image, make_video, record_frames

from regen.generate import video_generator as video_module
from regen.generate.sampling import SampleOptions
from regen.media.reader import VideoReader, VideoWriter

KINDS = ("text", "class", "nothing", "hybrid class")
LONG = "the cat sits on the mat and then rolls over the ball and sits on the mat and rolls over"
LEFT = ("--class", "circle moving left")
AB = ("--prompt", "a", "--prompt", "b")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    return {kind: make_generator(tmp_path_factory.mktemp("models"), kind) for kind in KINDS}


@pytest.fixture
def generate(run_regen, models) -> Callable[..., Ran]:
    """Runs the command in an empty folder, with the model of a kind, in two steps."""
    run = partial(run_regen, "generate", "--device", "cpu", "--dtype", "fp32", "--steps", "2", "--model")
    return lambda kind, *arguments: run(models.get(kind, kind), *arguments)


def frames_of(path: str) -> torch.Tensor:
    with VideoReader(Path(path)) as reader:
        return torch.stack([frame.image for frame in reader])


def fails(ran: Ran, *words: str) -> None:
    assert ran.files == set()
    assert_error(ran, *words)


def test_json_describes_the_written_video(generate):
    ran = generate("text", "--prompt", "a red ball", "-o", "out.mp4", "--json")
    assert (ran.status, ran.err, ran.files) == (0, [], {"out.mp4"})
    report = json.loads(ran.out[-1])
    assert (report["files"], report["prompts"], report["seeds"]) == (["out.mp4"], ["a red ball"], [[0, 0]])
    assert (report["frames"], report["height"], report["width"]) == (5, HEIGHT, WIDTH)
    assert (report["steps"], report["nfe"], report["fps"], report["grid"]) == (2, 4, 25.0, None)
    assert report["seconds"] > 0
    with VideoReader(Path("out.mp4")) as reader:
        assert (reader.info.frames, reader.info.height, reader.info.width) == (5, HEIGHT, WIDTH)
        assert reader.info.frame_rate == 25


def test_report_as_text(generate):
    ran = generate("class", *LEFT, "-o", "out.mp4", "--guidance-scale", "1", "--frames", "2")
    assert ran.out[0] == "out.mp4: circle moving left"
    assert "2 frames of 64x48 at 25 per second, by 2 network evaluations each" in ran.out[1]
    assert generate("nothing", "-o", "no.mp4").out[0] == "no.mp4"


def test_a_video_does_not_depend_on_those_beside_it(generate, monkeypatch):
    written = record_frames(monkeypatch)
    options = ("--prompt", "a red ball", "--seed", "7", "-o", "out.mp4")
    ran = generate("text", *options, "--num-videos", "3")
    assert ran.files == {"out-1.mp4", "out-2.mp4", "out-3.mp4"}
    generate("text", *options, "--num-videos", "2")
    generate("text", "--prompt", "a cat", *options)
    videos = [torch.stack(one) for one in written]
    assert torch.equal(videos[1], videos[4]) and torch.equal(videos[0], videos[3])
    assert torch.equal(videos[0], videos[6]) and not torch.equal(videos[0], videos[1])
    generate("text", *options, "--num-videos", "3", "--batch", "2")
    for one, other in zip(videos[:3], written[7:], strict=True):
        assert (one.int() - torch.stack(other).int()).abs().max() <= 1
    assert not torch.equal(videos[0], videos[5]), "another prompt"


def test_contact_sheet_of_several_classes(generate):
    options = ("--class", "circle moving up", *LEFT, "--num-videos", "2", "--frames", "3")
    ran = generate("class", *options, "--grid", "all.png", "-o", "out.mp4", "--json")
    assert ran.files == {"all.png", *(f"out-{number}.mp4" for number in (1, 2, 3, 4))}
    report = json.loads(ran.out[-1])
    assert report["prompts"] == ["circle moving up"] * 2 + ["circle moving left"] * 2
    assert report["seeds"] == [[0, 0], [0, 1]] * 2
    with Image.open("all.png") as picture:
        assert picture.width >= 5 * WIDTH and picture.height >= 4 * HEIGHT


def test_warnings_about_frames_sizes_and_prompts(generate):
    ran = generate("text", "--prompt", "a", "-o", "out.mp4", "--frames", "12", "--size", "41x51")
    assert ran.status == 0
    assert frames_of("out.mp4").shape == (12, 41, 51, 3)
    assert len(ran.err) == 3, "the size that is made is one of the training"
    for words, line in zip(("cropped to 41x51", "first 12 kept", "in 2 segments"), ran.err, strict=True):
        assert words in line
    assert all(line.startswith("regen: warning: ") for line in ran.err)
    ran = generate("text", "--prompt", LONG * 2, "-o", "out.mp4", "--size", "32")
    assert "trained at 48x64, not at 32x32" in ran.err[0] and "reads 24" in ran.err[1]


def test_one_frame_is_an_image(generate):
    for output, options in (("out.png", ()), ("out.png", ("--frames", "1")), ("o.mp4", ("--frames", "1"))):
        ran = generate("hybrid class", *LEFT, "-o", output, *options)
        assert (ran.status, ran.err) == (0, [])
        assert frames_of(output).shape == (1, HEIGHT, WIDTH, 3)
    fails(generate("nothing", "-o", "no.png", "--frames", "2"), "no.png holds 1 frame, got 2")


def test_image_as_first_frame_and_continued_video(generate):
    make_image(Path("first.png"), 60, 90)
    make_video(Path("in.mp4"), 9, 60, 90)
    one = generate("text", "--prompt", "a", "-o", "one.mp4")
    with_image = generate("text", "--prompt", "a", "--image", "first.png", "-o", "image.mp4")
    assert (one.status, with_image.status, with_image.err) == (0, 0, [])
    ran = generate("text", "--prompt", "a", "--continue", "in.mp4", "-o", "more.mp4", "--frames", "10")
    assert "in.mp4 has 29.97 frames per second" in ran.err[0] and "in 2 segments" in ran.err[1]
    assert frames_of("more.mp4").shape == (10, HEIGHT, WIDTH, 3)
    assert not torch.equal(frames_of("one.mp4"), frames_of("image.mp4"))
    ran = generate("hybrid class", *LEFT, "--continue", "in.mp4", "-o", "hybrid.mp4", "--num-latents", "50%")
    assert ran.status == 0 and frames_of("hybrid.mp4").shape == (5, HEIGHT, WIDTH, 3)


def test_the_options_reach_the_samplers(generate, monkeypatch):
    calls = []

    def record(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(video_module, "sample_video", record)
    guidance = ("--guidance-scale", "2", "--guidance-interval", "0.1", "0.8")
    others = ("--solver", "heun", "--negative-prompt", "a cat")
    ran = generate("text", "--prompt", "a", "-o", "out.mp4", *guidance, *others)
    assert (ran.status, ran.err, ran.files) == (130, ["regen: interrupted."], set())
    assert calls[0][5] == SampleOptions(2, 2.0, (0.1, 0.8), "heun") and calls[0][7] is not None


def test_decode_steps_and_seams_change_the_frames(generate, monkeypatch):
    written = record_frames(monkeypatch)
    for extra in ((), ("--decode-steps", "2"), ("--decode-steps", "2", "--seams", "match")):
        assert generate("nothing", "-o", "out.mp4", "--frames", "10", *extra).status == 0
    one, two, matched = map(torch.stack, written)
    assert not torch.equal(one, two) and not torch.equal(two, matched)


def test_an_interruption_leaves_whole_files_alone(generate, monkeypatch):
    written = record_frames(monkeypatch)
    write = VideoWriter.write

    def interrupt(writer: VideoWriter, image: torch.Tensor) -> None:
        write(writer, image)
        if [len(video) for video in written] == [5, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "write", interrupt)
    ran = generate("nothing", "-o", "out.mp4", "--num-videos", "3", "--grid", "all.png")
    assert (ran.status, ran.err, ran.files) == (130, ["regen: interrupted."], {"out-1.mp4"})
    assert len(frames_of("out-1.mp4")) == 5


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("text", (), ("needs a prompt",)),
        ("nothing", ("--frames", "0"), ("frames must be at least 1, got 0",)),
        ("nothing", ("--steps", "0"), ("steps must be at least 1, got 0",)),
        ("nothing", ("-o", "out.avi"), ("must end in one of",)),
        ("nothing", ("--grid", "all.mp4"), ("such as .png, got all.mp4",)),
        ("nothing", ("--image", "none.png"), ("There is no file none.png",)),
        ("nothing", ("--image", "in.mp4"), ("in.mp4", "--continue")),
        ("nothing", ("--image", "first.png", "--continue", "in.mp4"), ("give one of the two",)),
        ("nothing", ("--continue", "short.mp4"), ("at least 5 frames, got 3",)),
        ("text", (*AB, *3 * ("--negative-prompt", "c")), ("one for each prompt",)),
        ("missing", (), ("There is no generator missing",)),
        ("regen-small-4x", (), ("is an embedder",)),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(generate, kind, arguments, words):
    make_image(Path("first.png"), 48, 64)
    make_video(Path("in.mp4"), 9, 48, 64)
    make_video(Path("short.mp4"), 3, 48, 64)
    fails(generate(kind, "-o", "out.mp4", *arguments), *words)
