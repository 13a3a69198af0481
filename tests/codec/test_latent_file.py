"""The latent file: what is written is read back, and a wrong file is an error of one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_media import same_latents

from regen.codec import latent_file
from regen.codec.latent_file import LatentVideo, check_model, read, write
from regen.latents import Latents, collate


def grid() -> Latents:
    return Latents.of(torch.randn(2, 4, 2, 3, 5))


def hybrid(*lengths: list[int]) -> Latents:
    kept = [torch.tensor(row) for row in lengths]
    return collate([Latents(torch.randn(4, 2, 3, 5), torch.randn(4, int(row.sum())), row) for row in kept])


LATENTS: dict[str, Callable[[], Latents]] = {
    "grid": grid,
    "hybrid": lambda: hybrid([3, 0], [1, 6]),
    "hybrid of length 0": lambda: hybrid([0, 0], [0, 0]),
}


def example(**changes: object) -> LatentVideo:
    video = LatentVideo(
        latents=grid(),
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


@pytest.mark.parametrize("build", LATENTS.values(), ids=LATENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("audio", [None, b"sound"])
def test_everything_comes_back(
    tmp_path: Path, build: Callable[[], Latents], dtype: torch.dtype, audio: bytes | None
) -> None:
    video = example(latents=build().to(dtype=dtype), audio=audio)
    write(tmp_path / "x.safetensors", video)
    back = read(tmp_path / "x.safetensors")
    assert same_latents(back.latents, video.latents)
    assert [part.dtype for part in vars(back.latents).values()] == [dtype, dtype, torch.int64]
    assert torch.equal(back.times, video.times)
    assert replace(back, latents=video.latents, times=video.times) == video
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_chunks_share_out_the_frames() -> None:
    assert [chunk.frames for chunk in example().chunks(5)] == [5, 1]
    with pytest.raises(ValueError, match="6 frames do not fit 2 chunks of 17"):
        list(example().chunks(17))


def test_files_that_are_no_latent_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for missing in (path, tmp_path):
        with pytest.raises(ValueError, match="no such file"):
            read(missing)
    write(path, example())
    for data in (b"", b"text without tensors", path.read_bytes()[:-1]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is damaged or not a latent file"):
            read(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="no encoded video"):
        read(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version": 2}, "version 1, got 2"),
        ({"version": 1}, "content does not fit"),
        ("nothing", "content does not fit"),
        ({"version": 1, "size": [1, 2], "source_size": [1, 2], "frame_rate": "1/0"}, "content does not fit"),
    ],
)
def test_wrong_description(tmp_path: Path, facts: object, message: str) -> None:
    path = tmp_path / "x.safetensors"
    video = example()
    tensors = {"latents": video.latents.grid, "times": video.times}
    save_file(tensors, path, metadata={latent_file.KEY: json.dumps(facts)})
    with pytest.raises(ValueError, match=message):
        read(path)


def test_files_hold_1d_latents_without_padding(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, example(latents=hybrid([2, 1]), times=torch.zeros(1, dtype=torch.float64)))
    (image,) = read(path).chunks(5)
    assert (image.frames, image.latents.length, image.latents.sequence.shape) == (1, 3, (4, 3))
    latents = hybrid([3, 0], [1, 6], [0, 0])
    write(path, example(latents=latents, times=torch.arange(12).double()))
    assert load_file(path)["sequence"].shape == (4, 10)
    chunks = list(read(path).chunks(5))
    assert [chunk.latents.length for chunk in chunks] == [3, 7, 0]
    assert all(same_latents(chunk.latents, latents[i]) for i, chunk in enumerate(chunks))


# Tensors to put in the place of others; None removes one.
DAMAGE: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor | None]]] = {
    "without sequence": lambda t: {"sequence": None},
    "without lengths": lambda t: {"lengths": None},
    "one more": lambda t: {"lengths": t["lengths"] + torch.tensor([[0, 1], [0, 0]])},
    "one fewer": lambda t: {"sequence": torch.randn(4, 11)},
    "negative": lambda t: {"lengths": torch.tensor([[-1, 4], [1, 6]])},
    "not whole": lambda t: {"lengths": t["lengths"].float()},
    "of 32 bits": lambda t: {"lengths": t["lengths"].int()},
    "of other chunks": lambda t: {"lengths": t["lengths"].sum(0, keepdim=True)},
    "in a row": lambda t: {"lengths": t["lengths"].flatten()},
    "of other channels": lambda t: {"sequence": torch.randn(3, 10)},
    "of whole numbers": lambda t: {"sequence": t["sequence"].int()},
    "with a sum beyond 64 bits": lambda t: {"lengths": torch.tensor([[3, *[0] * 4], [7, *[2**62] * 4]])},
    "with a grid of whole numbers": lambda t: {"latents": t["latents"].int()},
    "with a batch": lambda t: {"sequence": t["sequence"][None]},
    "of a flat grid": lambda t: {"latents": t["latents"][:, :, 0].contiguous()},
    "of no chunk": lambda t: {
        "latents": t["latents"][:0], "lengths": t["lengths"][:0], "sequence": torch.randn(4, 0)
    },
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_1d_latents_that_do_not_fit_are_damage(
    tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor | None]]
) -> None:
    path = tmp_path / "x.safetensors"
    write(path, example(latents=hybrid([3, 0], [1, 6])))
    with safe_open(path, framework="pt") as file:
        tensors, facts = load_file(path), file.metadata()
    damaged = tensors | damage(tensors)
    save_file({name: t for name, t in damaged.items() if t is not None}, path, metadata=facts)
    with pytest.raises(ValueError, match="x.safetensors is damaged: .*; encode the video again"):
        read(path)


def test_latents_of_another_model(tmp_path: Path) -> None:
    path = Path("x.safetensors")
    check_model(path, example(), "renamed", "0123456789abcdef")
    with pytest.raises(
        ValueError, match=r"encoded with some-model .*, not with other .*; pass --model some-model"
    ):
        check_model(path, example(), "other", "ffff")
    with pytest.raises(ValueError, match="some-model .*, not with some-model .*; .* folder"):
        check_model(path, example(), "some-model", "ffff")
