"""The latent file: what is written is read back, and what is wrong with a file is told in a sentence."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from regen.codec import latent_file
from regen.codec.latent_file import LatentVideo, check_model, check_target, read, write


def example(**changes: object) -> LatentVideo:
    video = LatentVideo(
        latents=torch.randn(2, 4, 2, 3, 5),
        times=torch.tensor([0, 1 / 3, 0.7, 1.1, 2.0, 1e6 / 3], dtype=torch.float64),
        height=20,
        width=40,
        source_height=41,
        source_width=79,
        frame_rate=Fraction(30000, 1001),
        model="some-model",
        weights="0123456789abcdef",
    )
    return replace(video, **changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("audio", [None, b"sound"])
def test_everything_comes_back(tmp_path: Path, dtype: torch.dtype, audio: bytes | None) -> None:
    video = example(latents=torch.randn(2, 4, 2, 3, 5).to(dtype), audio=audio)
    write(tmp_path / "x.safetensors", video)
    back = read(tmp_path / "x.safetensors")
    assert torch.equal(back.latents, video.latents) and back.latents.dtype == dtype
    assert torch.equal(back.times, video.times)
    assert replace(back, latents=video.latents, times=video.times) == video
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_chunks_share_out_the_frames() -> None:
    assert [chunk.frames for chunk in example().chunks(5)] == [5, 1]
    with pytest.raises(ValueError, match="6 frames do not fit 2 chunks of 17"):
        list(example().chunks(17))


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(latent_file.os, "fsync", full)
    with pytest.raises(OSError, match=r"x\.safetensors: No space left on device"):
        write(tmp_path / "x.safetensors", example())
    assert list(tmp_path.iterdir()) == []


def test_places_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for name, message in (
        ("x.mp4", "end in .safetensors"),
        ("folder.safetensors", "is a folder"),
        ("none/x.safetensors", "There is no folder"),
    ):
        with pytest.raises(ValueError, match=message):
            check_target(tmp_path / name)
    check_target(tmp_path / "x.safetensors")


def test_files_that_are_no_latent_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="There is no file"):
        read(path)
    with pytest.raises(ValueError, match="is a folder"):
        read(tmp_path)
    for data in (b"", b"text that is no tensor"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is damaged or no latent file"):
            read(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no encoded video"):
        read(path)


def test_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, example())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version": 2}, "version 2 .* reads version 1"),
        ({"version": 1}, "not complete"),
        ("nothing", "not complete"),
        ({"version": 1, "size": [1, 2], "source_size": [1, 2], "frame_rate": "1/0"}, "not complete"),
    ],
)
def test_wrong_description(tmp_path: Path, facts: object, message: str) -> None:
    path = tmp_path / "x.safetensors"
    video = example()
    tensors = {"latents": video.latents, "times": video.times}
    save_file(tensors, path, metadata={latent_file.KEY: json.dumps(facts)})
    with pytest.raises(ValueError, match=message):
        read(path)


def test_another_model_is_told(tmp_path: Path) -> None:
    path = Path("x.safetensors")
    check_model(path, example(), "renamed", "0123456789abcdef")
    with pytest.raises(
        ValueError, match=r"encoded with some-model .*, not with other .*; pass --model some-model"
    ):
        check_model(path, example(), "other", "ffff")
    with pytest.raises(ValueError, match="other weights of some-model"):
        check_model(path, example(), "some-model", "ffff")
