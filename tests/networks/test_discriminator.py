"""PatchDiscriminator: shapes and blur pooling."""

import pytest
import torch

from regen.networks.discriminator import BlurPool, PatchDiscriminator


def test_blur_pool_is_the_binomial_mean_of_every_second_place():
    x = torch.randn(1, 1, 4, 4, 4)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    weight = (kernel[:, None, None] * kernel[:, None] * kernel)[None, None]
    padded = torch.nn.functional.pad(x, (1,) * 6, mode="replicate")
    wanted = torch.nn.functional.conv3d(padded, weight, stride=2)
    torch.testing.assert_close(BlurPool()(x), wanted)


def test_blur_pool_keeps_constants():
    x = torch.full((1, 2, 5, 6, 7), 3.0)
    pooled = BlurPool()(x)
    assert pooled.shape == (1, 2, 3, 3, 4)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 3.0))


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_one_logit_for_each_patch_of_clips_and_images(frames):
    discriminator = PatchDiscriminator(4, (2, 4, 4))
    logits = discriminator(torch.randn(2, 3, frames, 32, 48))
    assert logits.shape == (2, -(-frames // 8), 4, 6)


def test_it_looks_at_more_than_one_frame():
    discriminator = PatchDiscriminator(4, (2,))
    clip = torch.randn(1, 3, 4, 16, 16)
    changed = clip.clone()
    changed[:, :, 3] = 0
    assert not torch.equal(discriminator(clip)[:, 0], discriminator(changed)[:, 0])
