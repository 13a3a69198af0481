"""The command preview on good and on bad input."""

from pathlib import Path

import pytest
import torch
from commands import Regen, assert_error
from PIL import Image
from safetensors.torch import save_file
from tiny_diffusers_models import wan
from tiny_media import make_image, make_video, record_frames, tiny_onedva, tiny_regen

from regen import names
from regen.codec import latent_file
from regen.embedders.preview import fit_rgb_factors
from regen.media.reader import VideoReader
from regen.pretrained.models import Autoencoder


def with_preview(model: Autoencoder) -> Autoencoder:
    model.set_rgb_factors(fit_rgb_factors(model, [torch.rand(2, 3, model.chunk_frames, 32, 32) * 2 - 1]))
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    with_preview(tiny_regen()).save_pretrained(folder / "tiny")
    with_preview(tiny_onedva()).save_pretrained(folder / "onedva")
    tiny_regen().save_pretrained(folder / "plain")
    return folder


@pytest.fixture
def regen(run_regen, tmp_path, models, monkeypatch) -> Regen:
    monkeypatch.setattr(names, "BUNDLED", models)
    monkeypatch.setattr(names, "CHECKPOINTS", tmp_path / "none")
    return run_regen


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def encode(regen: Regen, source: str, model: str) -> None:
    assert regen("encode", source, "-o", "z.safetensors", "--model", model, "--device", "cpu").status == 0


@pytest.mark.parametrize("name", ["tiny", "onedva"])
def test_a_video_has_the_size_and_the_times_of_the_source(regen, name, monkeypatch) -> None:
    make_video(Path("in.mp4"), 21, 21, 35, sound="aac")
    encode(regen, "in.mp4", name)
    written = record_frames(monkeypatch)
    ran = regen("preview", "z.safetensors", "-o", "out.mp4")
    assert (ran.status, ran.out, ran.err, ran.files) == (0, ["out.mp4"], [], {"out.mp4"})
    with VideoReader(Path("in.mp4")) as before, VideoReader(Path("out.mp4")) as after:
        for fact in ("width", "height", "frames", "frame_rate"):
            assert getattr(after.info, fact) == getattr(before.info, fact)
        assert not after.info.has_audio
    (frames,) = written
    assert regen("preview", "z.safetensors", "-o", "out.png").status == 0
    with Image.open("out.png") as image:
        sheet = image.copy()
    assert sheet.width == 5 * 35 + 12, "five frames from the first to the last"
    for place, number in enumerate((0, 5, 10, 15, 20)):
        strip = sheet.crop((6 + 35 * place, 6, 6 + 35 * (place + 1), 27))
        assert strip.tobytes() == frames[number].numpy().tobytes()


def test_a_preview_of_an_image_and_of_few_frames(regen) -> None:
    make_image(Path("in.png"))
    encode(regen, "in.png", "tiny")
    assert regen("preview", "z.safetensors", "-o", "out.png").status == 0
    assert size_of("out.png") == size_of("in.png")
    make_video(Path("in.mp4"), 2)
    encode(regen, "in.mp4", "tiny")
    assert regen("preview", "z.safetensors", "-o", "few.jpg").status == 0
    assert size_of("few.jpg")[0] == 5 * 40 + 12


def test_bad_input_gets_one_sentence(regen) -> None:
    make_video(Path("in.mp4"), 6)
    encode(regen, "in.mp4", "plain")
    assert_error(regen("preview", "z.safetensors", "-o", "out.mp4"), "plain", "no preview", "regen decode")
    assert_error(regen("preview", "z.safetensors", "-o", "out.mp4", "--model", "tiny"), "--model plain")
    encode(regen, "in.mp4", "tiny")
    assert_error(regen("preview", "missing.safetensors", "-o", "out.mp4"), "no such file")
    assert_error(regen("preview", "in.mp4", "-o", "out.mp4"), "in.mp4", "not a latent file")
    assert_error(regen("preview", "z.safetensors", "-o", "out.txt"), "must end in", "out.txt")
    assert_error(regen("preview", "z.safetensors", "-o", "nowhere/out.mp4"), "folder nowhere must exist")
    assert_error(regen("preview", "z.safetensors", "-o", "nowhere/out.png"), "folder nowhere must exist")
    assert_error(regen("preview", "z.safetensors", "-o", "out.mp4", "--model", "unknown"), "unknown")
    assert not Path("out.mp4").exists() and not Path("nowhere").exists()
    assert latent_file.read(Path("z.safetensors")).model == "tiny"


def test_a_preview_is_fitted_for_stored_models_and_for_foreign_latents(regen, tmp_path, models):
    torch.manual_seed(0)
    wan().save_pretrained(tmp_path / "wan")
    make_video(tmp_path / "a.mp4", frames=33)
    fitted = regen("fit-preview", str(tmp_path / "wan"), "--data", "a.mp4", "-o", "wan.json", "--clips", "2")
    assert fitted.status == 0, fitted
    save_file({"latents": torch.randn(1, 2, 3, 4, 6)}, tmp_path / "latents.safetensors")
    shown = regen("preview", "latents.safetensors", "--factors", "wan.json", "-o", "preview.mp4")
    assert shown.status == 0, shown
    with VideoReader(tmp_path / "preview.mp4") as reader:
        assert len([*reader]) == 9
    assert_error(regen("preview", "latents.safetensors", "-o", "a.png"), "regen fit-preview")
    assert_error(regen("fit-preview", str(tmp_path / "wan"), "--data", "a.mp4"), "give a file by -o")
    assert_error(
        regen("preview", "latents.safetensors", "--factors", "a.mp4", "-o", "a.png"), "regen fit-preview"
    )
    before = (models / "plain" / "config.json").read_text()
    assert regen("fit-preview", "plain", "--data", "a.mp4", "--clips", "2").status == 0
    assert '"image"' in (models / "plain" / "config.json").read_text()
    (models / "plain" / "config.json").write_text(before)
