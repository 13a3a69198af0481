"""The linear embedder: the closed-form solution, its properties, and the contract of an embedder."""

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regen.embedders.linear import AutoencoderLinear, from_cubes, to_cubes

RATIO, CHANNELS = 2, 3


def correlated_clips(clips: int = 24, height: int = 16, width: int = 24, frames: int = RATIO + 1) -> Tensor:
    """Clips whose cubes lie near a few directions of unequal strength, as those of real video do."""
    generator = torch.Generator().manual_seed(7)
    cubes = clips * (height // 8) * (width // 8)
    size = 192 * frames
    strengths = 0.8 ** torch.arange(40)
    values = torch.randn(cubes, 40, generator=generator) * strengths
    vectors = values @ torch.randn(40, size, generator=generator) / 4
    vectors = vectors + 0.1 * torch.randn(size, generator=generator)
    return from_cubes(rearrange(vectors, "(b h w) d -> b h w d", h=height // 8, w=width // 8))


@pytest.fixture(scope="module")
def clips() -> Tensor:
    return correlated_clips()


@pytest.fixture(scope="module")
def model(clips: Tensor) -> AutoencoderLinear:
    return AutoencoderLinear.fit(clips.split(5), RATIO, latent_channels=CHANNELS)


def reconstruct(model: AutoencoderLinear, video: Tensor) -> Tensor:
    return model.decode(model.encode(video).latent_dist.mode()).sample


def test_cubes_round_trip_and_their_order() -> None:
    video = torch.randn(2, 3, 5, 16, 24)
    cubes = to_cubes(video)
    assert cubes.shape == (2, 2, 3, 192 * 5)
    assert torch.equal(from_cubes(cubes), video)
    assert torch.equal(cubes[1, 1, 2], video[1, :, :, 8:16, 16:24].transpose(0, 1).flatten())


def test_fit_equals_the_singular_value_decomposition(model: AutoencoderLinear, clips: Tensor) -> None:
    vectors = to_cubes(clips).flatten(0, 2).double()
    centred = vectors - vectors.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(model.chunk.mean.double(), vectors.mean(dim=0), atol=1e-5, rtol=0)
    alignment = (directions[: 2 * CHANNELS] @ model.chunk.basis.detach().double()).abs()
    torch.testing.assert_close(alignment, torch.eye(2 * CHANNELS, dtype=torch.float64), atol=1e-3, rtol=0)
    std = values[: 2 * CHANNELS] / len(vectors) ** 0.5
    torch.testing.assert_close(model.chunk.std.double(), std, atol=0, rtol=1e-4)


def test_bases_are_orthonormal_and_signed(model: AutoencoderLinear) -> None:
    for part in (model.chunk, model.image):
        basis = part.basis.detach()
        torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)
        assert (basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("kind", ["chunks", "images"])
def test_error_is_the_discarded_variance(model: AutoencoderLinear, clips: Tensor, kind: str) -> None:
    videos = clips if kind == "chunks" else rearrange(clips, "b c t h w -> (b t) c 1 h w")
    vectors = to_cubes(videos).flatten(0, 2).double()
    values = torch.linalg.svdvals(vectors - vectors.mean(dim=0))
    kept = 2 * CHANNELS if kind == "chunks" else CHANNELS
    discarded = values[kept:].square().sum() / vectors.numel()
    error = (reconstruct(model, videos) - videos).double().square().mean()
    torch.testing.assert_close(error, discarded, atol=0, rtol=1e-3)


def test_images_may_be_given_apart(model: AutoencoderLinear, clips: Tensor) -> None:
    images = rearrange(clips, "b c t h w -> (b t) c 1 h w")
    apart = AutoencoderLinear.fit([clips], RATIO, images=images.split(7), latent_channels=CHANNELS)
    torch.testing.assert_close(apart.image.basis, model.image.basis, atol=1e-3, rtol=0)


def test_latents_are_normalised(model: AutoencoderLinear, clips: Tensor) -> None:
    latents = model.encode(clips).latent_dist.mode()
    assert latents.shape == (len(clips), CHANNELS, 2, 2, 3)
    numbers = rearrange(latents, "b c n h w -> (b h w) (n c)")
    torch.testing.assert_close(numbers.mean(dim=0), torch.zeros(2 * CHANNELS), atol=1e-3, rtol=0)
    torch.testing.assert_close(numbers.T @ numbers / len(numbers), torch.eye(2 * CHANNELS), atol=1e-2, rtol=0)
    assert torch.equal(numbers[:, CHANNELS], latents[:, 0, 1].flatten()), (
        "component j c + i is channel i of frame j"
    )


@given(
    ratio=st.integers(1, 5),
    channels=st.integers(1, 9),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    batch=st.integers(1, 2),
)
def test_shapes(ratio: int, channels: int, height: int, width: int, batch: int) -> None:
    model = AutoencoderLinear(ratio, channels)
    assert model.chunk_frames == ratio + 1
    for frames, number in ((ratio + 1, 2), (1, 1)):
        video = torch.randn(batch, 3, frames, 8 * height, 8 * width)
        latents = model.encode(video).latent_dist.sample()
        assert latents.shape == (batch, channels, number, height, width)
        assert torch.equal(latents, model.encode(video, return_dict=False)[0].mode())
        assert model.decode(latents).sample.shape == video.shape
        decoded = model.decode(latents, torch.tensor([-0.5, 0.3, 1.0, 2.0]), return_dict=False)[0]
        assert decoded.shape == (batch, 3, 4, 8 * height, 8 * width)


def test_times(model: AutoencoderLinear, clips: Tensor) -> None:
    latents = model.encode(clips[:2]).latent_dist.mode()
    whole = model.decode(latents).sample
    exact = model.decode(latents, torch.arange(RATIO + 1) / RATIO).sample
    torch.testing.assert_close(exact, whole)
    decoded = model.decode(latents, torch.tensor([-1.0, 1.25 / RATIO, 7.0]), steps=3).sample
    torch.testing.assert_close(decoded[:, :, 0], whole[:, :, 0])
    torch.testing.assert_close(decoded[:, :, 1], 0.75 * whole[:, :, 1] + 0.25 * whole[:, :, 2])
    torch.testing.assert_close(decoded[:, :, 2], whole[:, :, -1])
    image = model.decode(latents[:, :, :1], torch.tensor([-1.0, 0.4])).sample
    assert torch.equal(image[:, :, 0], image[:, :, 1]), "an image stands still"


def test_names_of_the_weights_and_of_the_config(model: AutoencoderLinear) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    chunk = {"chunk.mean": (576,), "chunk.basis": (576, 6), "chunk.std": (6,)}
    assert shapes == chunk | {"image.mean": (192,), "image.basis": (192, 3), "image.std": (3,)}
    assert model.latents_mean.tolist() == model.config.latents_mean == [[0.0] * CHANNELS] * 2
    assert model.latents_std.tolist() == model.config.latents_std == model.chunk.std.view(2, -1).tolist()


def test_loss_is_the_squared_error_and_reaches_the_parameters(
    model: AutoencoderLinear, clips: Tensor
) -> None:
    batch = {"clip": clips, "target": clips, "times": torch.arange(RATIO + 1) / RATIO}
    loss, logs = model.loss(batch, [torch.Generator()] * len(clips))
    expected = (reconstruct(model, clips) - clips).square().mean()
    torch.testing.assert_close(loss, expected)
    assert logs["psnr"].item() == pytest.approx(10 * torch.log10(4 / expected).item(), abs=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.chunk.parameters())
    model.zero_grad(set_to_none=True)


def test_constant_clips_do_not_divide_by_zero() -> None:
    clips = torch.full((2, 3, 2, 8, 8), 0.25)
    model = AutoencoderLinear.fit([clips], 1, latent_channels=2)
    torch.testing.assert_close(reconstruct(model, clips), clips, atol=1e-5, rtol=0)


ERRORS = {
    "multiples of 8": lambda model: model.encode(torch.zeros(1, 3, 5, 8, 12)),
    "1 or 5 frames": lambda model: model.encode(torch.zeros(1, 3, 4, 8, 8)),
    "at least 1 step": lambda model: model.decode(torch.zeros(1, 8, 2, 1, 1), steps=0),
    "got 1 and 3 of 8": lambda model: model.decode(torch.zeros(1, 8, 3, 1, 1)),
    "got 1 and 2 of 4": lambda model: model.decode(torch.zeros(1, 4, 2, 1, 1)),
    "nothing to fit": lambda model: model.fit([], 4),
    "have 1 or 5 frames": lambda model: model.fit([torch.zeros(1, 3, 3, 8, 8)], 4),
    "latent_channels must be 1 to 192": lambda model: AutoencoderLinear(4, 193),
}


@pytest.mark.parametrize("words", ERRORS)
def test_wrong_calls_are_rejected(words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ERRORS[words](AutoencoderLinear(4, 8))
