"""Commands look at their inputs and outputs before they load a model."""

import shutil
from pathlib import Path

import pytest
from commands import Regen, assert_error
from tiny_media import make_video

from regen.embedders import diffusers_models
from regen.names import NamedModel

VIDEO, IMAGE = "must end in one of .mp4", "contact sheet must be an image"
NO_FILE, NO_FOLDER = "There is no file missing", "There is no file or folder missing"
NO_PLACE, NOT_A_FILE = "folder none must exist and be writable", "must be a file, but folder.mp4 is a folder"
CASES = {
    "reconstruct missing.mp4 -o out.mp4": NO_FILE,
    "reconstruct notes.mp4 -o out.mp4": "notes.mp4 can't be read",
    "reconstruct empty -o out.mp4": "empty is a folder",
    "reconstruct in.mp4 -o out.txt": VIDEO,
    "reconstruct in.mp4 -o none/out.mp4": NO_PLACE,
    "reconstruct in.mp4 -o folder.mp4": NOT_A_FILE,
    "reconstruct in.mp4 -o in.mp4": "must be different files",
    "reconstruct in.mp4 -o out.mp4 --compare out.mp4": "must be different files",
    "reconstruct in.mp4 -o out.mp4 --compare out.txt": VIDEO,
    "reconstruct in.mp4 -o out.mp4 --compare none/out.mp4": NO_PLACE,
    "encode missing.mp4 -o z.safetensors": NO_FILE,
    "encode notes.txt -o z.safetensors": "notes.txt can't be read",
    "encode in.mp4 -o out.mp4": "must end in .safetensors",
    "encode in.mp4 -o none/z.safetensors": NO_PLACE,
    "decode missing.safetensors -o out.mp4": "there is no such file",
    "decode in.mp4 -o out.mp4": "in.mp4 is not a latent file; give one made by `regen encode`.",
    "decode notes.txt -o out.mp4": "notes.txt is not a latent file; give one made by `regen encode`.",
    "decode notes.safetensors -o out.mp4": "notes.safetensors is damaged or not a latent file; encode",
    "decode notes.pt -o out.mp4 --model tiny": "notes.pt is damaged or holds no latents; save",
    "decode notes.safetensors -o out.txt": VIDEO,
    "decode notes.safetensors -o none/out.mp4": NO_PLACE,
    "preview in.mp4 -o out.mp4": "in.mp4 is not a latent file",
    "preview notes.safetensors -o out.txt": VIDEO,
    "preview notes.safetensors -o none/out.mp4": NO_PLACE,
    "generate --prompt a --image missing.png -o out.mp4": NO_FILE,
    "generate --prompt a --image in.mp4 -o out.mp4": "image must be an image",
    "generate --prompt a --image notes.png -o out.mp4": "notes.png can't be read as an image",
    "generate --prompt a --continue missing.mp4 -o out.mp4": NO_FILE,
    "generate --prompt a --continue notes.mp4 -o out.mp4": "notes.mp4 can't be read",
    "generate --prompt a --continue in.mp4 -o in.mp4": "in.mp4 is an input",
    "generate --prompt a -o out.txt": VIDEO,
    "generate --prompt a -o none/out.mp4": NO_PLACE,
    "generate --prompt a -o out.mp4 --grid out.mp4": IMAGE,
    "generate --prompt a -o out.mp4 --grid none/grid.png": NO_PLACE,
    "evaluate --model regen-small-4x --data missing --report out": "missing is not a folder",
    "evaluate --model regen-small-4x --data empty --report out": "There is no video below empty",
    "evaluate --model regen-small-4x --data clips --report notes.txt": "notes.txt is not writable",
    "evaluate --reconstructions a=missing --data clips --report out": "needs a folder, got missing",
    "evaluate-generator --model t2v-world --data missing --out out": NO_FOLDER,
    "evaluate-generator --model t2v-world --data empty --out out": "must have real videos",
    "evaluate-generator --model t2v-world --data clips --out notes.txt": "--out must be a writable folder",
    "latents export --data missing --out out": NO_FOLDER,
    "latents export --data empty --out out": "no video or image in empty",
    "latents export --data clips --out notes.txt": "--out must be writable",
    "fit-preview regen-small-4x --data missing -o map.json": NO_FOLDER,
    "fit-preview regen-small-4x --data clips -o none/map.json": NO_PLACE,
    "fit-preview regen-small-4x --data clips -o folder.mp4": NOT_A_FILE,
    "train toy --data missing --out out": NO_FOLDER,
    "train toy --data clips --out notes.txt": "notes.txt must be writable",
    "train toy --data clips --out out --init.model missing": "There is no model missing",
    "train toy --data clips --out out --init.linear missing": "There is no model missing",
    "train toy-decoder --data missing --out out --encoder regen-small-4x": NO_FOLDER,
    "train toy-decoder --data clips --out out --encoder missing": "There is no autoencoder missing",
    "train toy-t2v --data missing --out out": "missing holds no latents",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    make_video(path, 7)
    return path


@pytest.fixture
def regen(run_regen, monkeypatch, clip) -> Regen:
    """Runs commands beside some files; none may load a model."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(NamedModel, "from_pretrained", refuse)
    monkeypatch.setattr(diffusers_models, "_load", refuse)
    for folder in ("empty", "folder.mp4", "clips"):
        Path(folder).mkdir()
    for file in ("notes.mp4", "notes.txt", "notes.png", "notes.safetensors", "notes.pt"):
        Path(file).write_text("a text, and nothing else\n")
    for copy in ("in.mp4", "clips/in.mp4"):
        shutil.copy(clip, copy)
    return run_regen


@pytest.mark.parametrize("line", CASES)
def test_bad_inputs_and_outputs_are_found_before_a_model_is_loaded(regen, line):
    ran = regen(*line.split())
    assert_error(ran, CASES[line])
    assert "header" not in ran.err[-1] and "Weights only" not in ran.err[-1]
    assert not any(name.endswith((".mp4", ".json", ".safetensors", ".png")) for name in ran.files)
