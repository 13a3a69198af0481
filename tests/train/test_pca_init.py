"""Initialisation as the best linear embedder, and frozen linear maps."""

from dataclasses import asdict

import pytest
import torch
from tiny_media import make_video

from regen.data.clips import ClipDataset
from regen.embedders.one_dva import AutoencoderOneDVA, OneDVAConfig
from regen.train.finetune import InitConfig, init_from_pca, init_weights

CONFIG = OneDVAConfig(
    latent_channels=6, encoder_width=24, encoder_depth=1, encoder_heads=2, width=24, depth=1, heads=2,
    pixel_channels=2, num_queries=20, kl_weight=0.0, linear_skip=True, chunk_frames=5,
    temporal_compression_ratio=2, spatial_compression_ratio=8,
)  # fmt: skip


def batches(tmp_path) -> list[dict[str, torch.Tensor]]:
    make_video(tmp_path / "a.mp4", 30, 32, 40)
    clips = ClipDataset([tmp_path])
    return [
        {"clip": torch.stack([clips.read(2 * i + j, 5, (16, 16), (0.5, 1.0), 0) for j in range(2)])}
        for i in range(8)
    ]


def test_it_begins_with_the_smallest_error_that_is_linear(tmp_path):
    torch.manual_seed(0)
    model, data = AutoencoderOneDVA(**asdict(CONFIG)), batches(tmp_path)
    init_from_pca(model, data, 16)
    clips = torch.cat([batch["clip"] for batch in data])
    patches = model.patches.patchify(model.patches.pad(clips)).flatten(0, 1)
    values = torch.linalg.svdvals((patches - patches.mean(0)).double())
    least = (values[CONFIG.latent_channels :].square().sum() / patches.numel()).item()
    latents = model.encode(clips).latent_dist.mode()
    padded = model.decoder.to_pixels(torch.zeros(len(clips), 2, 6, 16, 16), latents.grid)
    error = (padded - model.patches.pad(clips)).square().mean().item()
    assert error == pytest.approx(least, rel=1e-2, abs=1e-6)
    assert latents.grid.std().item() == pytest.approx(1, rel=0.05)


def test_frozen_linear_maps_stay(tmp_path):
    model = AutoencoderOneDVA(**asdict(CONFIG))
    report = init_weights(model, InitConfig(freeze=("linear",), pca_clips=4))
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {
        f"{half}.linear_skip.{kind}" for half in ("encoder", "decoder") for kind in ("weight", "bias")
    }
    assert "frozen: the linear maps" in str(report)


def test_models_without_linear_maps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="linear maps"):
        init_from_pca(AutoencoderOneDVA(**asdict(CONFIG) | {"linear_skip": False}), batches(tmp_path), 4)
    with pytest.raises(ValueError, match="must be initialised"):
        init_weights(AutoencoderOneDVA(**asdict(CONFIG)), InitConfig(freeze=("linear",)))
    without = AutoencoderOneDVA(**asdict(CONFIG) | {"linear_skip": False})
    with pytest.raises(ValueError, match="no linear maps to freeze"):
        init_weights(without, InitConfig(freeze=("linear",), pca_clips=4))
    for options in ({"pca_clips": -1}, {"pca_clips": 4, "model": "other"}):
        with pytest.raises(ValueError, match="pca_clips"):
            InitConfig(**options)
