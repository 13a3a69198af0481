"""AutoencoderMagvit2: the contract of an embedder, shapes, causality, losses ."""

from dataclasses import asdict

import pytest
import torch
from tiny_networks import awake, seeded, seeded_each

from regen.codec.sessions import decode_chunks, encode_frames
from regen.embedders.linear import AutoencoderLinear
from regen.embedders.magvit2 import AutoencoderMagvit2, Magvit2Config
from regen.losses.adversarial import AdversarialConfig, AdversarialLoss
from regen.tiling import Tile

LATENT_FRAMES = {4: 5, 8: 3, 16: 2, 32: 2}
VARIANTS: dict[str, dict] = {
    "plain": {},
    "shortcut": {"linear_skip": True},
    "no posterior": {"kl_weight": 0.0},
    "no patches": {"encoder_patch_size": 1},
}


def tiny(ratio: int = 4, **options) -> AutoencoderMagvit2:
    config = Magvit2Config(
        ratio, latent_channels=4, encoder_widths=(8,) * (4 if ratio == 4 else 5), encoder_blocks=1,
        encoder_patch_size=4,
    )  # fmt: skip
    return AutoencoderMagvit2(**asdict(config) | options).eval()


def clip(model: AutoencoderMagvit2, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, model.chunk_frames, 16, 24, generator=seeded()) * 2 - 1


@pytest.mark.parametrize("ratio", LATENT_FRAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_and_the_latent_of_an_image(ratio, variant):
    model = tiny(ratio, **VARIANTS[variant]).double()  # sums in fp32 differ by more on some processors
    video = clip(model).double()
    latents = model.encode(video).latent_dist.mode()
    image = model.encode(video[:, :, :1]).latent_dist.mode()
    assert model.latent_frames == LATENT_FRAMES[ratio]
    assert latents.shape == (1, 4, LATENT_FRAMES[ratio], 2, 3)
    torch.testing.assert_close(latents[:, :, :1], image, atol=1e-5, rtol=1e-5)
    decoded = model.decode(latents).sample
    assert decoded.shape == video.shape
    torch.testing.assert_close(model.decode(image).sample, decoded[:, :, :1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", LATENT_FRAMES)
def test_a_linear_path_starts_as_the_linear_embedder_of_pairs_of_latents(ratio):
    """Each later pair begins with the last frame before it, as it was decoded."""
    model = tiny(ratio, kl_weight=0.0, linear_skip="overlapping", detail_channels=3)
    linear = AutoencoderLinear(ratio, 4)
    linear.encoder, linear.decoder = model.linear_encoder, model.linear_decoder
    video = clip(model)
    latents = model.encode(video).latent_dist.mode()
    assert latents.shape[2] == LATENT_FRAMES[ratio]
    _, *rest = latents.split(1, dim=2)
    for start, motion in zip(range(0, video.shape[2] - 1, ratio), rest, strict=True):
        first = linear.encode(video[:, :, start : start + ratio + 1]).latent_dist.mode()
        torch.testing.assert_close(motion, first[:, :, 1:], atol=1e-5, rtol=1e-4)
    for options in ({}, {"tile": Tile(16, 16, 8)}):
        frames = model.decode(latents, **options).sample
        for start, motion in zip(range(0, video.shape[2] - 1, ratio), rest, strict=True):
            before = linear.encode(frames[:, :, start : start + 1]).latent_dist.mode()
            content = before if start else latents[:, :, :1]
            expected = linear.decode(torch.cat([content, motion], 2)).sample[:, :, start > 0 :]
            own = frames[:, :, start + (start > 0) : start + ratio + 1]
            torch.testing.assert_close(own, expected, atol=1e-4, rtol=1e-3)
    image = model.encode(video[:, :, :1]).latent_dist.mode()
    torch.testing.assert_close(image, latents[:, :, :1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.decode(image).sample, linear.decode(image).sample, atol=1e-5, rtol=1e-4)


def test_gradient_reaches_every_parameter_of_a_linear_path():
    model = awake(tiny(8, kl_weight=0.0, linear_skip="overlapping", detail_channels=3)).train()
    video = clip(model, 2)
    for frames in (video, video[:, :, :1]):
        model.loss({"clip": frames}, seeded_each(2))[0].backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("ratio", LATENT_FRAMES)
def test_the_decoder_is_causal(ratio, late):
    """Latent frame i says nothing about frames before its own; frame 0 is that of latent frame 0 alone."""
    model = tiny(ratio, late_upsampling=late)
    latents = torch.randn(1, 4, model.latent_frames, 2, 3, generator=seeded())
    decoded = model.decode(latents).sample
    for i in range(1, model.latent_frames):
        changed = latents.clone()
        changed[:, :, i] += 1
        other = model.decode(changed).sample
        before = 1 + (i - 1) * ratio
        assert torch.equal(decoded[:, :, :before], other[:, :, :before])
        assert not torch.equal(decoded[:, :, before], other[:, :, before])


def test_late_upsampling_is_the_default_at_32_alone():
    def order(model: AutoencoderMagvit2) -> list[int]:
        return [len(stage) for stage in model.decoder.stages]

    assert order(tiny(32)) == order(tiny(16, late_upsampling=True)) == [1] * 10
    assert order(tiny(16)) == order(tiny(32, late_upsampling=False)) == [2] * 5


def test_frames_that_are_not_finite_are_an_error():
    model = tiny(4)
    chunks = list(encode_frames(model, torch.zeros(17, 16, 16, 3, dtype=torch.uint8)))
    torch.nn.init.constant_(model.decoder.out.conv.conv.bias, float("nan"))
    with pytest.raises(ValueError, match="Chunk 0 .* not finite; try --dtype fp32"):
        list(decode_chunks(model, chunks, height=16, width=16))


def test_every_parameter_gets_a_gradient_and_the_loss_is_the_sum_of_its_parts():
    model = awake(tiny(8, linear_skip=True, kl_weight=0.5), std=0.1).train()
    auxiliary = lambda a, b: (a.new_tensor(2.0), {"x": (a - b).mean()})  # noqa: E731
    loss, logs = model.loss({"clip": clip(model, 2)}, seeded_each(2), auxiliary)
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    error = 4 * 10 ** (-logs["psnr"] / 10)
    torch.testing.assert_close(loss.detach(), 5 * error + 0.5 * logs["kl"] + 2)
    assert "x" in logs


@pytest.mark.parametrize("variant", ["plain", "no posterior"])
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_samples(variant):
    model = tiny(8, **VARIANTS[variant])
    video = clip(model, 4)
    whole, _ = model.loss({"clip": video}, seeded_each(4))
    alone = [model.loss({"clip": video[i : i + 1]}, seeded_each(1, seed=i))[0] for i in range(4)]
    torch.testing.assert_close(torch.stack(alone).mean(), whole)
    other, _ = model.loss({"clip": video}, seeded_each(4, seed=4))
    assert torch.allclose(other, whole) == (variant == "no posterior")


def test_the_adversarial_loss_reaches_the_decoder():
    adversarial = AdversarialLoss(AdversarialConfig(width=4, multipliers=(2,)), torch.device("cpu"))
    model = tiny(reconstruction_weight=0.0, kl_weight=0.0)
    model.loss({"clip": clip(model)}, seeded_each(1), adversarial)[0].backward()
    assert all(p.grad.any() for p in model.decoder.parameters())


MISTAKES = {
    "ratio": lambda: tiny(5),
    "encoder widths": lambda: tiny(8, encoder_widths=(8, 8)),
    "decoder widths": lambda: tiny(4, decoder_widths=(8,) * 5),
    "channels": lambda: tiny(4, latent_channels=0),
    "latent frames": lambda: tiny(4).decode(torch.zeros(1, 4, 2, 2, 2)),
    "latent channels": lambda: tiny(4).decode(torch.zeros(1, 3, 5, 2, 2)),
    "steps": lambda: tiny(4).decode(torch.zeros(1, 4, 5, 2, 2), steps=0),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_rejected_in_one_sentence(mistake):
    with pytest.raises(ValueError, match=r"\.$"):
        MISTAKES[mistake]()
