"""Each benchmark runs at a tiny size and prints its table and its line of JSON."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from extras import require_perceptual
from shapes import write_dataset
from tiny_generator import CHANNELS, awake
from tiny_latents import make_hybrid_model
from tiny_media import make_video, tiny_regen

from regen import cli
from regen.embedders.linear import AutoencoderLinear
from regen.pretrained.models import encoder_hash, weights_hash

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Any]:
    """Two videos, a REGEN, a One-DVA and a generator on its latents."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "videos").mkdir()
    for number in range(2):
        make_video(folder / "videos" / f"{number}.mp4", frames=18, height=32, width=32)
        (folder / "videos" / f"{number}.cls").write_text(str(number))
    tiny_regen().save_pretrained(folder / "regen")
    one_dva = make_hybrid_model(folder / "one-dva")
    spec = {
        "has_sequence": True, "region_size": 2, "num_queries": 20, "channels": CHANNELS, "chunk_latents": 5,
        "embedder": one_dva, "weights_hash": weights_hash(one_dva), "encoder_hash": encoder_hash(one_dva),
    }  # fmt: skip
    awake("hybrid class", latent_spec=spec).save_pretrained(folder / "generator")
    models = {"regen": str(folder / "regen"), "generator": str(folder / "generator"), "one_dva": one_dva}
    return {"data": (folder / "videos",), **models}


def run(name: str, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    """The JSON of one benchmark, run in this process."""
    capsys.readouterr()
    importlib.import_module(name).main(**options)
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["benchmark"].replace("-", "_") == name and result["hardware"] and len(table) > 3
    return result


OF_MODELS: dict[str, dict[str, Any]] = {  # of "model" or several "models"
    "extrapolation": {"model": "regen", "reach": 1, "size": "32"},
    "interpolation": {"model": "regen", "factors": (2,), "size": "32"},
    "motion": {"model": "one_dva", "size": "32", "chunks": 1, "samples": 10},
    "positions": {"models": "regen", "size": "32"},
    "quality": {"models": "regen", "size": "32", "max_frames": 5},
    "resolution": {"models": "regen", "size": ("32",), "window": ("none", "2"), "max_frames": 5},
    "seams": {"model": "regen", "steps": (1,), "size": "32", "max_frames": 10},
    "steps": {"model": "regen", "steps": (1, 2), "size": "32", "max_frames": 5},
}
OF_RECIPES: dict[str, dict[str, Any]] = {
    "decoder_cost": {"ratio": (4,), "size": "64", "threads": 1},
    "foreign_decoder": {"frames": (5, 9), "side": 16, "threads": 1},
    "exported_latents": {
        "recipe": "toy-decoder", "encoder": "regen", "updates": 1, "videos": 1, "size": (48, 48),
        "threads": 1,
    },
    "first_frame": {"models": "regen", "size": "32", "steps": (1, 2), "repeats": 1, "threads": 1},
    "generation_cost": {
        "recipe": "toy-c2v", "ratio": (32,), "frames": (33,), "size": ("32x32",), "repeats": 1, "threads": 1,
    },
    "loader": {"size": (32, 32), "batch": 2, "batches": 8, "workers": 1, "repeats": 1},
    "memory": {"model": "regen", "lengths": (5, 10), "size": (32, 32)},
    "peers": {"preset": ("toy",), "size": "32", "count": True, "threads": 1},
    "shard_scale": {"samples": 1200, "batches": 130, "workers": (0, 1)},
    "speed": {"models": "regen", "size": "32", "repeats": 1, "threads": 1},
    "toy_motion": {"steps": 1, "clips": 1, "eval_clips": 1, "decode_steps": (1,), "threads": 1},
    "train_speed": {"recipe": "toy", "steps": 1, "threads": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", [*OF_MODELS, *OF_RECIPES])
def test_measures(name, places, capsys):
    options = (
        dict(OF_RECIPES[name])
        if name in OF_RECIPES
        else OF_MODELS[name] | {"data": places["data"], "threads": 1}
    )
    if "model" in options:
        options["model"] = places[options["model"]]
    if "models" in options:
        options["model"] = (places[options.pop("models")],)
    if "encoder" in options:
        options["encoder"] = (places[options["encoder"]],)
    run(name, capsys, **options)


def test_fits_a_linear_embedder(places, tmp_path, capsys):
    run(
        "fit_linear", capsys, data=places["data"], out=tmp_path, channels=2, short_side=32, updates=3, batch=2
    )
    assert (tmp_path / "config.json").is_file() and "2 clips" in (tmp_path / "README.md").read_text()


def test_degraded_copies(places, capsys):
    require_perceptual()
    result = run("degradations", capsys, data=places["data"], size="32", max_frames=5, threads=1)
    assert {row["kind"] for row in result["results"]} == result["ordered"].keys()


def test_an_embedder_of_compressed_chunks_is_expanded_to_one_of_all_frames():
    """With all cosines nothing is lost: latents of chunks and images are the same."""
    fit = importlib.import_module("fit_linear")
    torch.manual_seed(0)
    clips, mean = torch.rand(2, 3, 5, 16, 24) * 2 - 1, torch.rand(3, 1, 1, 1) - 0.5
    stored = {"clip": ((clips + 1) * 127.5).round().to(torch.uint8)}
    basis = fit.cosines(5, 5)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5), atol=1e-6, rtol=0)
    compressed = AutoencoderLinear(5, 4)
    model = fit.expand(compressed, basis, mean)
    small = fit.Compressed({0: stored}, basis, mean)[0]["clip"]
    clip = stored["clip"] / 127.5 - 1
    for own, other in ((clip, small), (clip[:, :, :1], small[:, :, :1])):
        torch.testing.assert_close(model.encoder(own), compressed.encoder(other), atol=1e-5, rtol=1e-4)


def test_decodes_predicted_latents(places, capsys):
    options = {"data": places["data"], "generator": places["generator"], "model": (places["one_dva"],)}
    (psnr,) = run("predicted_latents", capsys, levels=(0.9,), size="32", **options)["psnr"].values()
    assert psnr["0.0"] != psnr["0.9"]


@pytest.mark.parametrize(("name", "frames"), [("shapes", 3), ("world", 9)])
def test_writes_videos(name, frames, tmp_path, capsys):
    run(name, capsys, out=tmp_path, videos=1, frames=frames, size=(64, 64))
    assert len(list(tmp_path.glob("*.mp4"))) == 1


@pytest.mark.slow
def test_a_comparison_trains_measures_and_continues(tmp_path, monkeypatch):
    comparisons = importlib.import_module("comparisons")
    write_dataset(tmp_path / "clips", videos=3, frames=12, height=32, width=40, seed=0)
    smaller = replace(comparisons.COMPARISONS["channels"], sizes=("32",))
    monkeypatch.setitem(comparisons.COMPARISONS, "channels", smaller)
    monkeypatch.setattr(comparisons, "regen", lambda *arguments: codes.append(cli.main(arguments)))
    clips, results, codes = tmp_path / "clips", tmp_path / "report-channels" / "results", []

    def compare() -> dict[Path, int]:
        comparisons.main("channels", (clips,), clips, tmp_path, updates=1, max_frames=5)
        return {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}

    made = compare()
    summary = json.loads((tmp_path / "report-channels" / "summary.json").read_text())
    assert [row["model"] for row in summary] == ["toy", "toy-16ch"]
    assert compare() == made and len(made) >= 6 and not any(codes)
