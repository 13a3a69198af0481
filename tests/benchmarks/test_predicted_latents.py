"""benchmarks/predicted_latents.py: decoders differ by their own weights, and what does not fit is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_generator import CHANNELS, awake
from tiny_latents import make_hybrid_model
from tiny_media import make_video

from regen import AutoencoderOneDVA
from regen.pretrained.models import encoder_hash, weights_hash

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "predicted_latents.py"
SOURCE = {"has_sequence": True, "region": 2, "queries": 20, "channels": CHANNELS, "chunk_latents": 5}


def other(embedder: str, folder: Path, part: str) -> str:
    model = AutoencoderOneDVA.from_pretrained(embedder)
    with torch.no_grad():
        for parameter in getattr(model, part).parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return str(folder)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, str]:
    embedder = make_hybrid_model(tmp_path / "embedder")
    facts = {"embedder": embedder, "weights": weights_hash(embedder), "encoder": encoder_hash(embedder)}
    awake("hybrid class", source=SOURCE | facts).save_pretrained(tmp_path / "generator")
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(2):
        make_video(videos / f"{number}.mp4", 20, 32, 32)
    folders = {"embedder": embedder, "generator": str(tmp_path / "generator"), "videos": str(videos)}
    return folders | {part: other(embedder, tmp_path / part, part) for part in ("decoder", "encoder")}


def test_clean_and_predicted_latents_through_two_decoders(parts: dict[str, str]) -> None:
    arguments = ["--data", parts["videos"], "--generator", parts["generator"], "--size", "32"]
    ran = run(*arguments, "--levels", "0.2", "0.9", "--model", parts["embedder"], parts["decoder"])
    assert ran.returncode == 0, ran.stderr
    psnr = json.loads(ran.stdout.splitlines()[-1])["psnr"]
    assert [*psnr] == ["embedder", "decoder"] and [*psnr["decoder"]] == ["0.0", "0.2", "0.9"]
    assert psnr["embedder"]["0.0"] != psnr["decoder"]["0.0"] != psnr["decoder"]["0.9"]
    ran = run(*arguments, "--model", parts["embedder"], parts["encoder"])
    assert ran.returncode == 1 and "different encoders" in ran.stderr
