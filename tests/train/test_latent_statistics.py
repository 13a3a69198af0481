from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from regen.train.trainer import measure_latent_statistics


def batch(index: int) -> dict[str, Tensor]:
    """Clips of 3 frames; every second batch holds images."""
    frames = 3 if index % 2 == 0 else 1
    generator = torch.Generator().manual_seed(index)
    return {"clip": torch.rand(4, 3, frames, 8, 8, generator=generator)}


def batches() -> Iterator[dict[str, Tensor]]:
    return map(batch, count())


class Embedder(nn.Module):
    """Latents are the first and the last frame, the last one scaled; channel 2 never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clips_seen = 0

    def encode(self, video: Tensor) -> SimpleNamespace:
        self.clips_seen += video.shape[0]
        latents = (
            video if video.shape[2] == 1 else video[:, :, [0, -1]] * torch.tensor([1.0, 5.0])[:, None, None]
        )
        latents = latents.clone()
        latents[:, 2] = 0.25
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


def test_statistics_are_those_of_all_encoded_latents() -> None:
    model = Embedder()
    mean, std = measure_latent_statistics(model, batches(), 10)
    clips = [batch(index)["clip"] for index in range(5)]
    content = torch.cat([clip[:, :, 0] for clip in clips])
    motion = torch.cat([5 * clip[:, :, -1] for clip in clips[::2]])
    assert model.clips_seen == 20
    for kind, latent in enumerate((content, motion)):
        torch.testing.assert_close(mean[kind, :2], latent[:, :2].mean((0, 2, 3)))
        torch.testing.assert_close(std[kind, :2], latent[:, :2].std((0, 2, 3), correction=0))


def test_a_channel_that_never_changes_keeps_its_scale() -> None:
    mean, std = measure_latent_statistics(Embedder(), batches(), count=1)
    assert mean[:, 2].tolist() == [0.25, 0.25]
    assert std[:, 2].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("clips", "seen"), [(1, 4), (9, 20)])
def test_the_count_is_of_clips_not_of_images(clips: int, seen: int) -> None:
    model = Embedder()
    measure_latent_statistics(model, batches(), clips)
    assert model.clips_seen == seen
