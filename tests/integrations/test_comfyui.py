"""The nodes for ComfyUI: equal to the commands to the bit, with workflows that fit them."""

import inspect
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from comfyui import PACK, CancelledError, Comfy, Port, comfyui
from tiny_evaluation import make_generator
from tiny_media import EMBEDDERS, make_image, make_video, record_frames
from torch import Tensor

from regen import __version__
from regen.embedders.preview import fit_rgb_factors
from regen.media.reader import VideoReader

CPU = {"device": "cpu", "dtype": "fp32"}
COMMAND = ("--device", "cpu", "--dtype", "fp32")
# Of ComfyUI's own nodes: inputs with a socket, values of widgets, outputs.
CORE: dict[str, tuple[dict[str, str], int, list[str]]] = {
    "LoadVideo": ({}, 1, ["VIDEO"]),
    "GetVideoComponents": ({"video": "VIDEO"}, 0, ["IMAGE", "AUDIO", "FLOAT"]),
    "CreateVideo": ({"images": "IMAGE", "audio": "AUDIO", "fps": "FLOAT"}, 1, ["VIDEO"]),
    "SaveVideo": ({"video": "VIDEO"}, 3, []),
}


@pytest.fixture
def comfy() -> Iterator[Comfy]:
    with comfyui() as comfy:
        yield comfy


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, build in EMBEDDERS.items():
        torch.manual_seed(0)
        build().save_pretrained(folder / name)
    return folder


def read_images(path: str) -> Tensor:
    """The frames of a file as ComfyUI has them."""
    with VideoReader(Path(path)) as reader:
        return torch.stack([frame.image for frame in reader]).float() / 255


def as_frames(images: Tensor) -> list[Tensor]:
    assert images.dtype == torch.float32
    return list((images * 255).round().to(torch.uint8))


def same(images: Tensor, frames: list[Tensor]) -> bool:
    return torch.equal(torch.stack(as_frames(images)), torch.stack(frames))


@pytest.mark.parametrize("name", EMBEDDERS)
@pytest.mark.parametrize("file", ["in.mp4", "in.png"])
def test_a_round_trip_equals_reconstruct(comfy, models, run_regen, name, file, monkeypatch) -> None:
    make_image(Path(file)) if file == "in.png" else make_video(Path(file), 13, 21, 35)
    images, path = read_images(file), str(models / name)
    (model,) = comfy.run("RegenLoadModel", name=path, **CPU)
    (latent,) = comfy.run("RegenEncode", model=model, images=images, fps=30000 / 1001)
    assert latent["samples"].shape[:2] == (1, 4) and latent["samples"].dtype == torch.float32
    written = record_frames(monkeypatch)
    for options in ({}, {"steps": 2, "seed": 5}, {"seams": "match", "seed": 1}):
        found, fps = comfy.run("RegenDecode", model=model, latent=latent, **options)
        flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        out = Path(file).with_stem("out").name
        assert run_regen("reconstruct", file, "-o", out, "--model", path, *COMMAND, *flags).status == 0
        assert same(found, written.pop()) and fps == pytest.approx(30000 / 1001)
    assert comfy.progress[-1][:2] == (len(images), len(images))


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"interpolate": 3}, ("--interpolate", "3")),
        (
            {"extrapolate_before": 1, "extrapolate_after": 2},
            ("--extrapolate-before", "1", "--extrapolate-after", "2"),
        ),
    ],
)
def test_other_times_equal_decode(comfy, models, run_regen, options, flags, monkeypatch) -> None:
    make_video(Path("in.mp4"), 12, 24, 40)
    path = str(models / "regen")
    (model,) = comfy.run("RegenLoadModel", name=path, **CPU)
    (latent,) = comfy.run("RegenEncode", model=model, images=read_images("in.mp4"), fps=30000 / 1001)
    found, fps = comfy.run("RegenDecode", model=model, latent=latent, **options)
    assert fps == pytest.approx(options.get("interpolate", 1) * 30000 / 1001)
    run_regen("encode", "in.mp4", "-o", "z.safetensors", "--model", path, *COMMAND)
    written = record_frames(monkeypatch)
    assert run_regen("decode", "z.safetensors", "-o", "out.mp4", *COMMAND, *flags).status == 0
    assert same(found, written[0])


@pytest.mark.parametrize("kind", ["text", "class", "hybrid class"])
def test_a_generated_video_equals_generate(comfy, run_regen, kind, tmp_path, monkeypatch) -> None:
    name, text = make_generator(tmp_path, kind), "a red ball" if kind == "text" else "circle moving left"
    generator, model = comfy.run("RegenLoadGenerator", name=name, **CPU)
    chunk = [torch.rand(2, 3, model.chunk_frames, 32, 32) * 2 - 1]
    model.set_rgb_factors(fit_rgb_factors(model, chunk))
    request = {
        "prompt": text,
        "seed": 3,
        "steps": 2,
        "frames": model.chunk_frames + 1,
        "width": 60,
        "height": 44,
    }
    (latent,) = comfy.run("RegenGenerate", generator=generator, **request)
    assert [progress[:2] for progress in comfy.progress] == [(1, 2), (2, 2)]
    assert all(preview.width >= 60 for *_, preview in comfy.progress)
    found, fps = comfy.run("RegenDecode", model=model, latent=latent, seed=3)
    written = record_frames(monkeypatch)
    flag = "--prompt" if kind == "text" else "--class"
    size = ("--frames", str(request["frames"]), "--size", "44x60", "--steps", "2", "--seed", "3")
    assert run_regen("generate", flag, text, "-o", "o.mp4", "--model", name, *COMMAND, *size).status == 0
    assert same(found, written[0]) and fps == 25 and found.shape[1:] == (44, 60, 3)


def test_wrong_inputs_get_one_sentence(comfy, models, tmp_path) -> None:
    regen, onedva = (
        comfy.run("RegenLoadModel", name=str(models / name), **CPU)[0] for name in ("regen", "onedva")
    )
    with pytest.raises(ValueError, match="nowhere"):
        comfy.run("RegenLoadModel", name="nowhere", **CPU)
    with pytest.raises(ValueError, match="is an embedder"):
        comfy.run("RegenLoadGenerator", name=str(models / "regen"), **CPU)
    with pytest.raises(ValueError, match="must come from Regen Encode"):
        comfy.run("RegenDecode", model=regen, latent={"samples": torch.zeros(1, 4, 2, 3, 3)})
    (latent,) = comfy.run("RegenEncode", model=regen, images=torch.rand(2, 24, 24, 4))
    with pytest.raises(ValueError, match="4 regions"):
        comfy.run("RegenDecode", model=onedva, latent=latent)
    with pytest.raises(ValueError, match=r"got \(1, 4, 1, 3, 3\)"):
        comfy.run("RegenDecode", model=regen, latent=latent | {"samples": latent["samples"][:, :, :1]})
    larger = latent["samples"].repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    with pytest.raises(ValueError, match="must keep its shape"):
        comfy.run("RegenDecode", model=regen, latent=latent | {"samples": larger})
    generator, _ = comfy.run("RegenLoadGenerator", name=make_generator(tmp_path, "text"), **CPU)
    with pytest.raises(ValueError, match="width and height, or 0 for both, got 64 and 0"):
        comfy.run("RegenGenerate", generator=generator, prompt="a", width=64)
    with pytest.raises(ValueError, match="needs a prompt"):
        comfy.run("RegenGenerate", generator=generator, prompt=" ")


def test_a_cancelled_node_stops_within_a_chunk(comfy, models, tmp_path) -> None:
    (model,) = comfy.run("RegenLoadModel", name=str(models / "regen"), **CPU)
    images = torch.rand(2, 24, 24, 3)
    (latent,) = comfy.run("RegenEncode", model=model, images=images)
    generator, _ = comfy.run("RegenLoadGenerator", name=make_generator(tmp_path, "text"), **CPU)
    for node_id, values in (
        ("RegenEncode", {"model": model, "images": images}),
        ("RegenDecode", {"model": model, "latent": latent, "steps": 1000}),
        ("RegenGenerate", {"generator": generator, "prompt": "a red ball", "steps": 1000}),
    ):
        comfy.progress, comfy.cancel_after = [], 5
        with pytest.raises(CancelledError):
            comfy.run(node_id, **values)
        assert comfy.progress == [], node_id
    assert comfy.run("RegenDecode", model=model, latent=latent)[0].shape == images.shape


def test_samples_that_another_node_changed_are_decoded(comfy, models) -> None:
    (model,) = comfy.run("RegenLoadModel", name=str(models / "regen"), **CPU)
    (latent,) = comfy.run("RegenEncode", model=model, images=torch.rand(7, 24, 24, 3))
    first, _ = comfy.run("RegenDecode", model=model, latent=latent)
    second, _ = comfy.run("RegenDecode", model=model, latent=latent | {"samples": -latent["samples"]})
    assert first.shape == second.shape == (7, 24, 24, 3) and not torch.equal(first, second)


def test_arguments_are_those_of_the_schemas(comfy) -> None:
    for node_id, node in comfy.nodes.items():
        schema = node.define_schema()
        assert node_id.startswith("Regen") and schema.category == "regen" and schema.description
        assert [*inspect.signature(node.execute).parameters] == [port.id for port in schema.inputs]
        assert all(port.display_name for port in schema.outputs)
        for port in schema.inputs:
            assert port.io_type != "COMBO" or port.default in port.options["options"]


def has_widget(port: Port) -> bool:
    return port.io_type in ("INT", "FLOAT", "STRING", "COMBO")


def definition(comfy: Comfy, node_type: str) -> tuple[dict[str, str], int, list[str]]:
    """Inputs that a link may lead to, the number of values of widgets, and types of outputs."""
    if node_type in CORE:
        return CORE[node_type]
    schema = comfy.nodes[node_type].define_schema()
    after_seeds = sum("control_after_generate" in port.options for port in schema.inputs)
    widgets = sum(map(has_widget, schema.inputs)) + after_seeds
    return (
        {port.id: port.io_type for port in schema.inputs},
        widgets,
        [port.io_type for port in schema.outputs],
    )


@pytest.mark.parametrize("path", sorted(PACK.glob("example_workflows/*.json")), ids=lambda path: path.stem)
def test_workflows_fit_the_nodes(comfy, path) -> None:
    workflow: dict[str, Any] = json.loads(path.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["version"] == 0.4 and workflow["last_node_id"] == max(nodes)
    for node in nodes.values():
        inputs, widgets, outputs = definition(comfy, node["type"])
        assert {port["name"]: port["type"] for port in node["inputs"]}.items() <= inputs.items()
        assert [port["type"] for port in node["outputs"]] == outputs
        assert len(node["widgets_values"]) == widgets
        assert {"pos", "size", "flags", "order", "mode", "properties"} <= node.keys()
        if node["type"] in comfy.nodes:
            check_values(comfy.nodes[node["type"]].define_schema().inputs, node)
    for number, source, output, target, place, kind in workflow["links"]:
        one, other = nodes[source]["outputs"][output], nodes[target]["inputs"][place]
        assert one["type"] == other["type"] == kind
        assert number in one["links"] and other["link"] == number
        assert nodes[source]["order"] < nodes[target]["order"]
    ends = [number for node in nodes.values() for port in node["outputs"] for number in port["links"]]
    assert sorted(ends) == sorted(link[0] for link in workflow["links"])
    assert workflow["last_link_id"] == len(ends)


def check_values(inputs: list[Port], node: dict[str, Any]) -> None:
    """Values of widgets fit their inputs, and inputs without a widget are linked."""
    values, linked = iter(node["widgets_values"]), {port["name"]: port["link"] for port in node["inputs"]}
    for port in inputs:
        if not has_widget(port):
            assert linked[port.id] is not None
            continue
        value, options = next(values), port.options
        if "options" in options:
            assert value in options["options"]
        elif port.io_type != "STRING":
            assert isinstance(value, int if port.io_type == "INT" else float)
            assert options["min"] <= value <= options["max"]
        if "control_after_generate" in options:
            assert next(values) in ("fixed", "increment", "decrement", "randomize")


def test_the_registry_finds_what_it_needs() -> None:
    project = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__ and project["tool"]["comfy"]["PublisherId"]
    assert "comfyui" not in project["project"]["name"].lower()
    requirements = (PACK / "requirements.txt").read_text().split("\n")
    assert project["project"]["dependencies"] == [line for line in requirements if line]
