from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from regen.train.statistics import measure_latent_statistics


class Batches(Dataset[dict[str, Tensor]]):
    """Clips of 3 frames; every second batch holds images."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        frames = 3 if index % 2 == 0 else 1
        generator = torch.Generator().manual_seed(index)
        return {"clip": torch.rand(4, 3, frames, 8, 8, generator=generator)}


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


@pytest.mark.parametrize("workers", [0, 1])
def test_statistics_are_those_of_all_encoded_latents(workers: int) -> None:
    batches, model = Batches(), Embedder()
    mean, std = measure_latent_statistics(model, batches, 10, workers)
    clips = [batches[index]["clip"] for index in range(5)]
    content = torch.cat([clip[:, :, 0] for clip in clips]).double()
    motion = torch.cat([5 * clip[:, :, -1] for clip in clips[::2]]).double()
    assert model.clips_seen == 20
    for kind, latent in enumerate((content, motion)):
        torch.testing.assert_close(mean[kind, :2], latent[:, :2].mean((0, 2, 3)))
        torch.testing.assert_close(std[kind, :2], latent[:, :2].std((0, 2, 3), correction=0))


def test_a_channel_that_never_changes_keeps_its_scale() -> None:
    mean, std = measure_latent_statistics(Embedder(), Batches(), count=1)
    assert mean[:, 2].tolist() == [0.25, 0.25]
    assert std[:, 2].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("count", [1, 9])
def test_the_count_is_of_clips_not_of_images(count: int) -> None:
    model = Embedder()
    measure_latent_statistics(model, Batches(), count)
    assert model.clips_seen == {1: 4, 9: 20}[count]
