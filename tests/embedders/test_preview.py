"""Previews: maps of least squares, for each embedder, kept in its config."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from einops import rearrange
from tiny_media import EMBEDDERS
from torch import Tensor
from torch.nn import functional as F

from regen.embedders.linear import AutoencoderLinear
from regen.embedders.preview import fit_preview, preview
from regen.latents import Latents

MODELS = EMBEDDERS | {"linear": lambda: AutoencoderLinear(latent_channels=4)}


def clips(frames: int, count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, 3, frames, 32, 48, generator=generator) * 2 - 1 for _ in range(count)]


def small(clip: Tensor, side: int) -> Tensor:
    return F.avg_pool3d(clip, (1, side, side))


class Averages:
    """Latents that hold the small frames: of frame 0 in the first one, of k = 2 others in each other."""

    device = torch.device("cpu")

    def encode(self, video: Tensor) -> Any:
        frames = small(video, 8)
        others = [F.pad(frames[:, :, :1], (0, 0, 0, 0, 0, 1))]
        others += frames[:, :, 1:].split(2, dim=2) if frames.shape[2] > 1 else []
        grid = torch.stack([rearrange(part, "b c t y x -> b (t c) y x") for part in others], dim=2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: 2 * grid + 0.5))


@pytest.mark.parametrize("frames", [3, 5, 9])
def test_what_is_linear_is_recovered(frames: int) -> None:
    model, data = Averages(), clips(frames)
    maps = fit_preview(model, data)
    assert maps.keys() == ({"image", "start"} if frames == 3 else {"image", "start", "rest"})
    for video in (data[0], data[0][:, :, :1]):
        found = preview(maps, model.encode(video).latent_dist.mode())
        torch.testing.assert_close(found, small(video, 8), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_of_each_embedder_it_is_kept_and_shows_any_length(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    side, chunk = model.spatial_compression_ratio, model.chunk_frames
    with pytest.raises(ValueError, match="has no preview"):
        model.preview(model.encode(clips(chunk)[0]).latent_dist.mode())
    model.set_preview(fit_preview(model, clips(chunk)))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for frames in (1, chunk, 3 * chunk):
        latents = model.encode(clips(frames, 1)[0]).latent_dist.mode()
        shown = loaded.preview(latents)
        assert shown.shape == (2, 3, frames, 32 // side, 48 // side)
        assert float(shown.abs().max()) <= 1
        assert torch.equal(shown, model.preview(Latents.of(latents)))
    assert (tmp_path / "config.json").read_text().count("\n") < 250


def test_it_needs_clips_and_survives_constant_latents() -> None:
    with pytest.raises(ValueError, match="at least one chunk and one image"):
        fit_preview(MODELS["regen"](), [])
    maps = fit_preview(Averages(), [torch.zeros(1, 3, 3, 8, 8)])
    assert preview(maps, torch.full((1, 6, 2, 2, 2), 0.5)).abs().max() < 1e-3
