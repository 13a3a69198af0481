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
from regen.embedders.preview import fit_rgb_factors, small_frames, to_rgb
from regen.latents import Latents

MODELS = EMBEDDERS | {"linear": lambda: AutoencoderLinear(latent_channels=4)}


def clips(frames: int, count: int = 6, height: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, 3, frames, height, 48, generator=generator) * 2 - 1 for _ in range(count)]


class Averages:
    """Latents that hold the small frames: of frame 0 in the first one, of k = 2 others in each other."""

    device, spatial_compression_ratio = torch.device("cpu"), 8

    def encode(self, video: Tensor) -> Any:
        frames = small_frames(video, 8)
        parts = [F.pad(frames[:, :, :1], (0, 0, 0, 0, 0, 1))]
        parts += frames[:, :, 1:].split(2, dim=2) if frames.shape[2] > 1 else []
        grid = torch.stack([rearrange(part, "b c t y x -> b (t c) y x") for part in parts], dim=2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: 2 * grid + 0.5))


@pytest.mark.parametrize("frames", [3, 5, 9])
def test_what_is_linear_is_recovered_at_any_size(frames: int) -> None:
    model, data = Averages(), clips(frames, height=28)
    factors = fit_rgb_factors(model, data)
    assert factors.keys() == ({"image", "start"} if frames == 3 else {"image", "start", "rest"})
    for video in (data[0], data[0][:, :, :1]):
        found = to_rgb(factors, model.encode(video).latent_dist.mode())
        torch.testing.assert_close(found, small_frames(video, 8), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_of_each_embedder_it_is_kept_and_shows_any_length(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    side, chunk = model.spatial_compression_ratio, model.chunk_frames
    with pytest.raises(ValueError, match="has no preview"):
        model.preview(model.encode(clips(chunk)[0]).latent_dist.mode())
    model.set_rgb_factors(fit_rgb_factors(model, clips(chunk)))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for frames in (1, chunk, 3 * chunk):
        video = clips(frames, 1)[0]
        latents = model.encode(video).latent_dist.mode()
        shown = loaded.preview(latents)
        assert shown.shape == (2, 3, frames, 32 // side, 48 // side)
        assert float(shown.abs().max()) <= 1
        assert torch.equal(shown, model.preview(Latents.of(latents)))
        alone = model.encode(video[:, :, -chunk:]).latent_dist.mode()
        torch.testing.assert_close(shown[:, :, -chunk:], model.preview(alone))
    assert (tmp_path / "config.json").read_text().count("\n") < 300, "one line for each value of a latent"
    with pytest.raises(ValueError, match="with 4 channels"):
        model.preview(torch.zeros(1, 5, 2, 4, 6))


def test_it_needs_clips_and_survives_constant_latents() -> None:
    with pytest.raises(ValueError, match="at least one chunk"):
        fit_rgb_factors(MODELS["regen"](), [])
    factors = fit_rgb_factors(Averages(), [torch.zeros(1, 3, 3, 8, 8)])
    assert to_rgb(factors, torch.full((1, 6, 2, 2, 2), 0.5)).abs().max() < 1e-3


@pytest.mark.parametrize("rows", [None, [], ["1 2 3"], ["1 2 3"] * 6 + ["x 2 3"], ["1 2 3"] * 6 + ["1"]])
def test_damaged_factors_get_one_sentence(rows: list[str] | None) -> None:
    factors = {} if rows is None else {"image": rows}
    with pytest.raises(ValueError, match="must have 7 rows of numbers for 'image'"):
        to_rgb(factors, torch.zeros(1, 6, 1, 2, 2))


def test_every_stored_embedder_has_one() -> None:
    from regen.pretrained.listing import available, find_model, stored_config

    for info in available():
        config = stored_config(find_model(info.name))
        factors, channels = config["latent_rgb_factors"], config["latent_channels"]
        assert {name: len(rows) for name, rows in factors.items()} == {
            name: channels + 1 if name == "image" else 2 * channels + 1 for name in factors
        }
        k = config["temporal_compression_ratio"]
        colours = {"image": 3, "start": 3 * (1 + k), "rest": 3 * k}
        assert all(len(row.split()) == colours[name] for name, rows in factors.items() for row in rows)
