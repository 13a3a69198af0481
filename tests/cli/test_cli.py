"""The command line on good and on bad input: what it writes, what it says, and what it leaves behind."""

import importlib
import json
import shutil
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from commands import Ran, Regen, assert_error
from movies import make_sound
from PIL import Image
from tests.embedders.test_regen_decoder import decoder_of
from tiny_media import make_image, make_video, record_frames, tiny_magvit2, tiny_onedva, tiny_regen

from regen import names
from regen.embedders.frozen_encoder import load_frozen_encoder
from regen.io import write_json
from regen.media.reader import VideoReader

KEYS = [
    *("model", "frames", "width", "height", "fps", "latent_shape", "compression"),
    *("values_per_second", "lengths"),
    *("psnr", "ssim", "seam_ratio", "encode_seconds", "decode_seconds", "tile", "peak_memory_mb"),
]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models = {"tiny": tiny_regen, "other": tiny_regen, "magvit2": tiny_magvit2, "onedva": tiny_onedva}
    for seed, (name, build) in enumerate(models.items()):
        torch.manual_seed(seed)
        build().save_pretrained(folder / name)
    return folder


@pytest.fixture
def regen(run_regen, tmp_path, models, monkeypatch) -> Regen:
    """Runs commands in a folder that has a model called `tiny`."""
    monkeypatch.setattr(names, "BUNDLED", models)
    monkeypatch.setattr(names, "CHECKPOINTS", tmp_path / "none")
    return run_regen


def using(name: str) -> tuple[str, ...]:
    return "--model", name, "--device", "cpu", "--dtype", "fp32"


TINY, ONE_DVA = using("tiny"), using("onedva")


@pytest.mark.parametrize("name", ["tiny", "onedva"])
def test_reconstruct_writes_the_video_and_tells_the_figures(regen, name):
    make_video(Path("in.mp4"), 7, 21, 35, sound="aac")
    ran = regen("reconstruct", "in.mp4", "-o", "out.mp4", *using(name), "--json")
    assert (ran.status, ran.err, ran.files) == (0, [], {"out.mp4"})
    report = json.loads(ran.out[-1])
    assert list(report) == KEYS
    assert (report["model"], report["frames"], report["width"], report["height"]) == (name, 7, 35, 21)
    without = {"tiny": ["lengths", "tile"], "onedva": ["tile"]}  # the picture fits as a whole
    assert [key for key in KEYS if report[key] is None] == without[name]
    with VideoReader(Path("in.mp4")) as before, VideoReader(Path("out.mp4")) as after:
        for fact in ("width", "height", "frames", "frame_rate", "has_audio"):
            assert getattr(after.info, fact) == getattr(before.info, fact)


@pytest.mark.parametrize(
    ("name", "latents"), [("tiny", ["1x4x2x3x5"]), ("onedva", ["1x4x2x2x3", "1D latents", "values/s"])]
)
def test_without_json_there_is_a_table(regen, name, latents):
    make_video(Path("in.mp4"), 2)
    text = "\n".join(regen("reconstruct", "in.mp4", "-o", "out.mp4", *using(name)).out)
    shown = (name, "2, at 29.97 per second", "40 wide, 24 high", *latents, "PSNR", "SSIM", "MB", "out.mp4")
    assert [part for part in shown if part not in text] == []


@pytest.mark.parametrize("file", ["in.mp4", "in.png"])
@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("tiny", ()),
        ("magvit2", ()),
        ("onedva", ()),
        ("onedva", ("--num-latents", "3")),
        ("onedva", ("--target-psnr", "12")),
        ("onedva", ("--values-per-second", "1000")),
    ],
)
def test_encode_then_decode_equals_reconstruct(regen, name, amount, file, monkeypatch):
    written = record_frames(monkeypatch)
    source = Path(file)
    make_image(source) if file == "in.png" else make_video(source, sound="aac")
    one, two = f"one{source.suffix}", f"two{source.suffix}"
    sized = ("--size", "16x24", *amount, *using(name))
    sampling = () if "--target-psnr" in amount else ("--steps", "2", "--seed", "5")  # what encode aims with
    assert regen("reconstruct", file, "-o", one, *sampling, *sized).status == 0
    encoded = regen("encode", file, "--output", "z.safetensors", *sized, "--json")
    assert (encoded.status, encoded.err, encoded.files) == (0, [], {"z.safetensors"})
    decoded = regen("decode", "z.safetensors", "-o", two, *sampling, *using(name), "--json")
    assert (decoded.status, decoded.err, decoded.files) == (0, [], {two})
    assert len(written) == 2 and torch.equal(torch.stack(written[0]), torch.stack(written[1]))
    assert written[0][0].shape == (16, 24, 3)
    assert list(json.loads(encoded.out[-1])) == list(json.loads(decoded.out[-1])) == KEYS


@pytest.mark.parametrize(
    ("options", "frames", "rate", "delay"),
    [
        (("--interpolate", "3"), 21, 3 * 30000 / 1001, 0.0),
        (("--fps", "60"), 14, 60.0, 0.0),
        (("--fps", "12.5"), 3, 12.5, 0.0),
        (("--extrapolate-before", "2", "--extrapolate-after", "1"), 10, 30000 / 1001, 2 * 1001 / 30000),
        (("--every-chunk", "--extrapolate-before", "1"), 9, 30000 / 1001, None),  # without sound
    ],
)
def test_frames_between_and_beyond(regen, options, frames, rate, delay):
    make_video(Path("in.mp4"), 7, sound="aac")
    regen("encode", "in.mp4", "-o", "z.safetensors", *TINY)
    ran = regen("decode", "z.safetensors", "-o", "out.mp4", *options, *TINY, "--json")
    assert (ran.status, ran.err) == (0, [])
    report = json.loads(ran.out[-1])
    assert report["frames"] == frames and report["fps"] == pytest.approx(rate)
    with VideoReader(Path("out.mp4")) as video:
        assert (video.info.frames, video.info.has_audio) == (frames, delay is not None)
        assert float(video.info.frame_rate) == pytest.approx(rate, rel=1e-3)
    with av.open("out.mp4") as container:
        starts = [float(sound.start_time * sound.time_base) for sound in container.streams.audio]
    assert starts == ([] if delay is None else [pytest.approx(delay, abs=0.03)])


def test_little_memory_means_tiles(regen):
    make_video(Path("in.mp4"), 5, 80, 144)
    ran = regen("reconstruct", "in.mp4", "-o", "out.mp4", *TINY, "--memory", "1MB", "--json")
    assert ran.status == 0 and json.loads(ran.out[-1])["tile"] == [64, 64]


def test_the_ways_to_join_chunks_and_to_solve_reach_the_frames(regen, monkeypatch):
    written = record_frames(monkeypatch)
    make_video(Path("in.mp4"), 10)
    written.clear()
    ways = [("--seams", way) for way in ("none", "extend", "match")] + [("--solver", "heun")]
    for way in ways:
        assert regen("reconstruct", "in.mp4", "-o", "out.mp4", "--steps", "2", *way, *TINY).status == 0
    results = [torch.stack(frames) for frames in written]
    assert len(results) == 4
    assert all(not torch.equal(a, b) for a, b in combinations(results, 2))
    assert torch.equal(results[0][:5], results[1][:5])  # the first chunk has nothing to be joined to


def test_latents_of_one_precision_decode_in_another(regen):
    make_video(Path("in.mp4"), 2)
    model = ("--model", "tiny", "--device", "cpu")
    assert regen("encode", "in.mp4", "-o", "z.safetensors", *model, "--dtype", "bf16").status == 0
    assert regen("decode", "z.safetensors", "-o", "out.mp4", *model, "--dtype", "fp32").status == 0


@pytest.mark.parametrize(
    ("arguments", "name"), [(("--compare",), "out_compare.mp4"), (("--compare", "x.mp4"), "x.mp4")]
)
def test_compare_with_and_without_a_name(regen, arguments, name):
    make_video(Path("in.mp4"), 2)
    ran = regen("reconstruct", "in.mp4", "-o", "out.mp4", *TINY, *arguments)
    assert (ran.status, ran.files) == (0, {"out.mp4", name})
    assert name in "".join(ran.out)


def test_compiling_is_for_all_lengths_and_shapes(regen, monkeypatch):
    """Each is a compilation of its own, and with 8 of them, the default, PyTorch would give up."""
    config, compiled = importlib.import_module("torch._dynamo.config"), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, **how: compiled.append(how))
    make_video(Path("in.mp4"), 2)
    with config.patch(recompile_limit=8):
        ran = regen("reconstruct", "in.mp4", "-o", "out.mp4", "--compile", *ONE_DVA)
        assert config.recompile_limit == 64
    assert ran.status == 0 and len(compiled) >= 2
    assert all(how == {"fullgraph": True} for how in compiled)


def test_video_damaged_midway_gives_what_can_be_read(regen):
    path = make_video(Path("in.mp4"), 60, rate=Fraction(10))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = b"\xff" * 600
    path.write_bytes(content)
    ran = regen("reconstruct", "in.mp4", "-o", "out.mp4", *TINY, "--json")
    assert (ran.status, ran.files) == (0, {"out.mp4"})
    assert len(ran.err) == 1 and ran.err[0].startswith("regen: warning: ") and "frames" in ran.err[0]
    assert 0 < json.loads(ran.out[-1])["frames"] <= 60


def make_bad(name: str) -> str:
    """Make the bad input called `name`; returns the argument for it."""
    match name:
        case "empty":
            Path("in.mp4").touch()
        case "text":
            Path("in.mp4").write_text("Not a video. " * 100)
        case "no index":
            content = make_video(Path("in.mp4"), 10).read_bytes()
            assert content.index(b"mdat") < content.index(b"moov")
            Path("in.mp4").write_bytes(content[: content.index(b"moov") - 4])
        case "audio only":
            make_sound(Path("sound.m4a")).rename("in.mp4")
        case "zero frames":
            with av.open("in.mp4", "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
                container.start_encoding()
        case "folder":
            Path("in.mp4").mkdir()
        case "broken image":
            make_image(Path("in.png"))
            Path("in.png").write_bytes(Path("in.png").read_bytes()[:60])
            return "in.png"
    return "in.mp4"


@pytest.mark.parametrize(
    "command", ["reconstruct", "encode", "reconstruct --values-per-second 500 --model onedva"]
)
@pytest.mark.parametrize(
    "name", ["missing", "empty", "text", "no index", "audio only", "zero frames", "folder", "broken image"]
)
def test_bad_input(regen, command, name):
    source, (verb, *options) = make_bad(name), command.split()
    output = "out.safetensors" if verb == "encode" else "out.mp4"
    fails_in_one_sentence(regen(verb, source, "-o", output, *(options or TINY)), source)


def fails_in_one_sentence(ran: Ran, *words: str) -> None:
    assert (ran.out, len(ran.err), ran.files) == ([], 1, set())
    assert_error(ran, *words)


MISTAKES = [
    ("reconstruct in.mp4 -o no/such/out.mp4", "no/such"),
    ("reconstruct in.mp4 -o folder.mp4", "folder"),
    ("reconstruct in.mp4 -o out.xyz", "xyz"),
    ("reconstruct in.mp4 -o out", "out"),
    ("reconstruct in.mp4 -o in.mp4", "different"),
    ("reconstruct in.mp4 -o out.png", "one frame"),
    ("reconstruct in.mp4 -o out.mp4 --steps -1", "step"),
    ("reconstruct in.mp4 -o out.mp4 --size 16x7", "pixels, got 7"),
    ("reconstruct in.mp4 -o out.mp4 --size big", "big"),
    ("reconstruct in.mp4 -o out.mp4 --model nothing", "nothing"),
    ("reconstruct in.mp4 -o out.mp4 --model damaged", "damaged is damaged"),
    ("reconstruct in.mp4 -o out.mp4 --device abacus", "abacus"),
    ("reconstruct in.mp4 -o out.mp4 --dtype fp8", "fp8"),
    ("encode in.mp4 -o y.mp4", "safetensors"),
    ("encode in.mp4 -o y.safetensors --model onedva --num-latents much", "such as 25%, got 'much'"),
    ("encode in.mp4 -o y.safetensors --model onedva --num-latents 13", "0 to 12 1D latents, got 13"),
    ("encode in.mp4 -o y.safetensors --model onedva --values-per-second 0", "must be > 0 and finite"),
    ("encode in.mp4 -o y.safetensors --model onedva --values-per-second 700", "must be at least 720"),
    ("encode in.mp4 -o y.safetensors --model onedva --target-psnr nan", "between 0 and 100 dB, got nan"),
    ("decode nothing.safetensors -o out.mp4", "nothing.safetensors must be a latent file"),
    ("decode image.safetensors -o out.mp4", "image.safetensors is damaged"),
    ("decode z.safetensors -o out.mp4 --steps 0", "steps"),
    ("decode z.safetensors -o out.mp4 --fps fast", "got 'fast'"),
    ("decode z.safetensors -o out.mp4 --fps 0", "fps must be above 0"),
    ("decode z.safetensors -o out.mp4 --fps 60 --interpolate 2", "can't be combined"),
    ("decode z.safetensors -o out.mp4 --interpolate 0", "interpolate must be at least 1, got 0"),
    ("decode z.safetensors -o out.mp4 --extrapolate-before -1", "0 or more"),
    ("decode z.safetensors -o out.mp4 --memory much", "got 'much'"),
    ("decode z.safetensors -o out.mp4 --batch 0", "batch must be at least 1"),
    ("train nothing --data a --out run", "no recipe 'nothing'"),
    ("train tiny --data a --out run", "try toy"),
    ("train toy --data folder.mp4 --out run --device cpu", "folder.mp4"),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES)
def test_mistakes_are_one_sentence_and_leave_no_file(regen, models, line, words):
    make_video(Path("in.mp4"), 2)
    make_image(Path("in.png")).rename("image.safetensors")
    Path("folder.mp4").mkdir()
    shutil.copytree(models / "tiny", "damaged")
    Path("damaged", "config.json").write_text("{")
    if line.startswith("decode z"):
        regen("encode", "in.mp4", "-o", "z.safetensors", *TINY)
    model = () if "--model" in line or line.startswith("train") else ("--model", "tiny")
    fails_in_one_sentence(regen(*line.split(), *model), words)


@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_full_disk(regen, command):
    make_video(Path("in.mp4"), 30, 64, 64)
    output = "out.safetensors" if command == "encode" else "out.mp4"
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # writing more fails as on a full disk
    try:
        ran = regen(command, "in.mp4", "-o", output, *TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fails_in_one_sentence(ran, output)


@pytest.mark.parametrize("file", ["in.mp4", "in.png"])
def test_a_decoder_of_the_latents_of_a_model_decodes_its_files(regen, models, file, monkeypatch):
    """And shows the frames that it reconstructs; the report names the decoder."""
    encoder = load_frozen_encoder(str(models / "magvit2"), torch.device("cpu"), torch.float32)
    decoder_of(encoder).save_pretrained("decoder")
    make_image(Path(file)) if file == "in.png" else make_video(Path(file), 19)
    outputs, written = [f"{name}{Path(file).suffix}" for name in ("one", "two")], record_frames(monkeypatch)
    regen("reconstruct", file, "-o", outputs[0], *using("decoder"))
    regen("encode", file, "-o", "z.safetensors", *using("magvit2"))
    ran = regen("decode", "z.safetensors", "-o", outputs[1], *using("decoder"), "--json")
    assert (ran.status, json.loads(ran.out[-1])["model"]) == (0, "decoder")
    one, two = written
    assert len(one) == (1 if file == "in.png" else 19) and torch.equal(torch.stack(one), torch.stack(two))


@pytest.mark.parametrize(("name", "other"), [("tiny", "other"), ("onedva", "tiny")])
def test_latents_of_another_model(regen, name, other):
    make_video(Path("in.mp4"), 2)
    regen("encode", "in.mp4", "-o", "z.safetensors", *using(name))
    ran = regen("decode", "z.safetensors", "-o", "out.mp4", "--model", other)
    words = f"z.safetensors was encoded with {name}", f"not with {other}", f"pass --model {name}"
    fails_in_one_sentence(ran, *words)


@pytest.mark.parametrize("arguments", [("reconstruct",), ("decode", "x", "--nonsense"), ("nonsense",)])
def test_wrong_usage_exits_with_2(regen, arguments):
    ran = regen(*arguments)
    assert ran.status == 2 and ran.err


def test_models_lists_what_is_there(regen):
    text = "\n".join(regen("models").out)
    assert all(name in text for name in ("magvit2", "onedva", "other", "tiny", "4x"))
    listed = json.loads(regen("models", "--json").out[-1])["models"]
    assert [model["name"] for model in listed] == ["magvit2", "onedva", "other", "tiny"]
    for facts, build in zip(listed, (tiny_magvit2, tiny_onedva, tiny_regen, tiny_regen), strict=True):
        assert facts["parameters"] == sum(value.numel() for value in build().state_dict().values())


def test_train_takes_recipes_and_dotted_overrides(regen, monkeypatch):
    from regen import recipes
    from regen.train import trainer as run

    calls = []

    def record(recipe: run.Recipe, **options: object) -> Path:
        calls.append((recipe, SimpleNamespace(**options)))
        return Path("run/model")

    monkeypatch.setattr(run, "run_recipe", record)
    changes = ("--optimizer.learning-rate", "0.25", "--loop.steps", "7", "--no-resume")
    ran = regen("train", "toy", "--data", "a", "b", "--out", "run", "--device", "cpu", *changes)
    assert (ran.status, ran.err) == (0, []) and "run/model" in ran.out[-1]
    ((recipe, options),) = calls
    plain = recipes.RECIPES["toy"]
    assert recipe.optimizer.learning_rate == 0.25 and recipe.loop.steps == 7
    assert recipe.model == plain.model and recipe.data == plain.data
    assert (options.data, options.out) == (("a", "b"), Path("run"))
    assert (options.context.device.type, options.context.size) == ("cpu", 1)
    assert options.resume is False
    assert regen("train", "toy", "--data", "a", "--out", "run", "--optimizer.nonsense", "1").status == 2


COMMANDS = (
    *("reconstruct", "encode", "decode", "models", "train", "evaluate"),
    *("generate", "evaluate-generator", "app"),
)


@pytest.mark.parametrize("command", [*COMMANDS, "shards build", "shards index", "shards show"])
def test_every_help_has_an_example(regen, command):
    ran = regen(*command.split(), "--help")
    assert ran.status == 0
    assert f"Example: regen {command}" in "\n".join(ran.out)


@pytest.mark.parametrize(
    "line",
    [
        *("decode --nonsense", "decode in.safetensors -o", "decode in.safetensors -o out.mp4 --nonsense"),
        *("decode", "shards", "shards nonsense", "shards build", "latents export --nonsense", "runs"),
        *("train toy --nonsense", "train toy --data a --out b --nonsense", "plan toy --nonsense"),
        *("generate --steps many -o out.mp4", "evaluate --size", "plan toy --gpus many"),
    ],
)
def test_wrong_arguments_point_to_the_help_of_their_command(regen, line):
    ran = regen(*line.split())
    words = line.split()[: 2 if line.split()[0] in ("train", "plan") or "shards build" in line else 1]
    words = ["latents", "export"] if line.startswith("latents") else words
    assert ran.status == 2
    assert f"regen {' '.join(words)} --help " in "\n".join(ran.err)


def test_the_help_has_a_summary_of_each_command(regen):
    text = "\n".join(regen("--help").out)
    assert all(name in text for name in COMMANDS) and "Args:" not in text and "index.html" not in text


def test_options_are_grouped(regen):
    text = "\n".join(regen("decode", "--help").out)
    assert all(f"{group} options" in text for group in ("model", "decoder", "frame"))


@pytest.mark.parametrize(
    ("rate", "low", "high"),
    [
        (("--num-latents", "0"), 0, 0),
        (("--num-latents", "25%"), 3, 3),
        (("--num-latents", "5"), 5, 5),
        (("--target-psnr", "1"), 0, 0),  # any result reaches it
        (("--target-psnr", "99"), 12, 12),  # none reaches it
        (("--values-per-second", "500"), 1, 12),
    ],
)
def test_rate(regen, rate, low, high):
    """40 x 24 pixels are 2 x 3 patches, in a chunk twice as many, and there are up to as many 1D latents."""
    make_video(Path("in.mp4"), 10)
    reports = []
    for command, output in (("reconstruct", "out.mp4"), ("encode", "z.safetensors")):
        if rate[0] == "--target-psnr" and command == "encode":
            continue
        ran = regen(command, "in.mp4", "-o", output, *rate, *ONE_DVA, "--json")
        assert (ran.status, ran.err, ran.files) == (0, [], {output})
        reports.append(json.loads(ran.out[-1]))
    for report in reports:
        lengths = report["lengths"]
        assert lengths == reports[0]["lengths"] and low <= min(lengths) <= max(lengths) <= high
        assert report["latent_shape"] == [2, 4, 2, 2, 3]
        values = 4 * (2 * 12 + sum(lengths))
        assert report["values_per_second"] == pytest.approx(values / 10 * 30000 / 1001)
        if rate[0] == "--values-per-second":
            assert 500 - 4 * 30 / 10 < report["values_per_second"] <= 500


def test_an_image_keeps_at_most_the_latents_that_it_can_have(regen):
    make_image(Path("in.png"), 20, 28)
    ran = regen("reconstruct", "in.png", "-o", "out.png", "--num-latents", "100", *ONE_DVA, "--json")
    assert json.loads(ran.out[-1])["lengths"] == [4]
    with Image.open("out.png") as image:
        assert image.size == (28, 20) and image.mode == "RGB"


RATES = [("--num-latents", "0"), ("--values-per-second", "500"), ("--target-psnr", "20")]


@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_rates_exclude_each_other_and_are_for_one_dva(regen, command):
    make_video(Path("in.mp4"), 2)
    output = "out.mp4" if command == "reconstruct" else "z.safetensors"
    for one, other in combinations(RATES, 2):
        ran = regen(command, "in.mp4", "-o", output, *one, *other, *ONE_DVA)
        fails_in_one_sentence(ran, "only one of --num-latents, --values-per-second and --target-psnr")
    for rate in RATES:
        fails_in_one_sentence(regen(command, "in.mp4", "-o", output, *rate, *TINY), "need a One-DVA model")


def test_without_arguments_there_is_the_help(regen):
    ran = regen()
    assert ran.status == 0
    assert any("reconstruct" in line for line in ran.out)


def test_decode_takes_the_model_that_the_file_names(regen, monkeypatch):
    make_video(Path("in.mp4"), 6)
    regen("encode", "in.mp4", "-o", "z.safetensors", *using("other"))
    written = record_frames(monkeypatch)
    assert regen("decode", "z.safetensors", "-o", "out.mp4", "--device", "cpu", "--dtype", "fp32").status == 0
    regen("decode", "z.safetensors", "-o", "same.mp4", *using("other"))
    first, second = (torch.stack(frames) for frames in written)
    assert torch.equal(first, second)


def test_decode_without_the_model_says_how_to_give_it(regen, models):
    make_video(Path("in.mp4"), 6)
    shutil.copytree(models / "tiny", "moved")
    regen("encode", "in.mp4", "-o", "z.safetensors", *using("moved"))
    Path("moved").rename("elsewhere")
    ran = regen("decode", "z.safetensors", "-o", "out.mp4")
    fails_in_one_sentence(ran, "z.safetensors was encoded with moved", "--model", "There is no model moved")


def test_models_lists_published_ones_that_are_not_here(regen, tmp_path, monkeypatch):
    entry = {"kind": "embedder", "class_name": "AutoencoderRegen", "repository": "owner/far"}
    entry |= {"revision": "main", "sha256": "0" * 64, "size": 2_500_000}
    maker = entry | {"kind": "generator", "class_name": "LatentGenerator"}
    monkeypatch.setattr(names, "MANIFEST", tmp_path / "manifest.json")
    write_json(names.MANIFEST, {"a-maker": maker, "far": entry, "tiny": entry})
    lines = [line.split() for line in regen("models").out]
    assert ["far", "embedder", "2.5", "MB", "owner/far"] in lines
    assert lines[-1][:2] == ["a-maker", "generator"], "by kind"
    published = json.loads(regen("models", "--json").out[-1])["published"]
    assert published == [{"name": "far", **entry}, {"name": "a-maker", **maker}]


def test_push_writes_the_folder_of_a_dry_run(regen, models):
    shutil.copytree(models / "tiny", "mine")
    ran = regen("push", "mine", "me/video", "--license", "mit", "--dry-run", "--out", "folder")
    assert ran.status == 0 and any("README.md" in line for line in ran.out)
    card = Path("folder", "README.md").read_text()
    assert "license: mit" in card and 'from_pretrained("me/video")' in card
    make_video(Path("in.mp4"), 6)
    assert regen("reconstruct", "in.mp4", "-o", "out.mp4", *using("folder")).status == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("push tiny me/video --dry-run", "--out DIR"),
        ("push tiny me/video --out folder", "--dry-run"),
        ("push tiny video --license mit --dry-run --out folder", "must be owner/name"),
        ("push tiny me/video --dry-run --out folder", "has no licence"),
        ("push tiny me/video --license mit", "needs a token"),
    ],
)
def test_mistakes_in_publishing_are_one_sentence(regen, monkeypatch, line, words):
    monkeypatch.setattr("regen.hub.get_token", lambda: None)
    fails_in_one_sentence(regen(*line.split()), words)
